"""Values are data: whatever a job says arrives at its processes unchanged, and nothing of it runs as code.

Scripts are run by a real bash; stand-in executables write down what they were started with. What Slurm itself makes of
`#SBATCH` lines is tested in tests/real/slurm/.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from launcher import schedulers, workloads
from launcher.fabrics import model as fabrics_model
from launcher.files import load
from launcher.planning import plan
from launcher.rendering import command
from launcher.schedulers import kubernetes
from launcher.submission import snapshot
from tests import samples, standins

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

pytestmark = pytest.mark.heavy  # scripts run for real, for many values

CODE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    "\ntouch pwned\n",
    "|touch pwned&",
    "${X:=$(touch pwned)}",
]
NASTY = [
    *CODE,
    *(f"'{code}'" for code in CODE),
    *(f'"{code}"' for code in CODE),
    *(
        "$HOME",
        "$$",
        "$(RUN_DIR)",
        "$1",
        "#",
        " # x",
        "a,b",
        "a=b",
        "'",
        '"',
        "\\",
        "\\n",
        "\\'",
        "%j",
        "%s",
        "*",
        "~",
    ),
    *(
        "--help",
        "-",
        "--",
        " ",
        "\t",
        "\r\n",
        "\n",
        "\n---\n",
        ": ",
        "- a",
        "null",
        "yes",
        "1.0",
        "{{ plan }}",
        "{# x",
    ),
    *("é", "😀", "\u2028", "\x85", "\x7f", "\x1b[31m", "\ufeff", "EOF", "!!str", "&a", "*a", "{", "]", ""),
]
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.lists(st.sampled_from(NASTY) | st.text(CHARACTERS, max_size=4), max_size=4).map("".join)
NAMES = TEXT.map(lambda text: text.replace("/", "")).filter(
    lambda text: text not in {"", ".", ".."} and len(text.encode()) < 100
)
VARIABLES = st.dictionaries(st.from_regex(r"X_[A-Za-z0-9_]{0,6}", fullmatch=True), TEXT, max_size=3)
OPTIONS = NAMES.map(lambda text: "x" + "".join(text.split()).replace("=", ""))
ARGUMENTS = st.dictionaries(
    OPTIONS,
    st.one_of(
        TEXT, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.lists(TEXT, max_size=3)
    ),
    max_size=3,
)
SECRETS = TEXT.filter(lambda text: text.rstrip("\n"))  # an empty one is missing, and named
MANY = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
SOME = settings(MANY, max_examples=40)


def decided(site: plan.Workspace, job: dict[str, Any], cluster: dict[str, Any]) -> Plan:
    return plan.make(load.Loaded(samples.job(**job), samples.cluster(**cluster)), site)


def arguments_after_dashes(words: list[str]) -> list[str]:
    return words[words.index("--") + 1 :]


def check_ranks(stage: standins.Stage, made: Plan, words: list[str], variables: dict[str, str]) -> None:
    """The node entry got its options and the ranks' words, and the environment has every variable."""
    assert arguments_after_dashes(words) == command.ranks(made, made.folder, f"{made.folder}/ds_config.json")
    assert words[words.index("--folder") + 1] == made.folder
    found = stage.environment()
    assert {name: found.get(name) for name in variables} == variables
    assert {v.name: found.get(v.name) for v in made.environment} == {
        v.name: v.value for v in made.environment
    }
    assert found["RUN_DIR"] == made.folder


@pytest.mark.hypothesis
@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_a_script_starts_what_the_job_says(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @MANY
    @given(TEXT, ARGUMENTS, VARIABLES, SECRETS, NAMES, NAMES, TEXT)
    def unchanged(
        script: str,
        args: dict[str, Any],
        env: dict[str, str],
        secret: str,
        place: str,
        folder: str,
        note: str,
    ) -> None:
        stage = standins.Stage(tmp_path_factory.mktemp("stage"))
        secrets = stage.folder / folder
        secrets.mkdir(exist_ok=True)
        (secrets / "token").write_text(secret, encoding="utf-8", newline="")
        job = {
            "workload": f"{script}.py",
            "args": args,
            "env": {**env, "TOKEN": {"secret": "token"}},
            "deepspeed": {"preset": "zero1", "note": note},
        }
        made = decided(stage.site(place), job, {scheduler: {"secrets": str(secrets)}, "scratch": "/tmp"})
        assert stage.run(schedulers.load(scheduler).render(made)["job.sh"]) == 0
        words = stage.dumped("words")
        assert words[0] == f"{made.workspace.root}/docker/node.py"
        assert arguments_after_dashes(words) == [f"{script}.py", *workloads.command_line(args)]
        # a shell takes the line ends off a command's output: a secret never ends with one
        check_ranks(stage, made, words, {**env, "TOKEN": secret.rstrip("\n")})
        written = (stage.folder / "named" / place / "runs" / made.id / "ds_config.json").read_text(
            encoding="utf-8"
        )
        assert json.loads(written) == made.config
        assert made.config["note"] == note
        assert stage.ran() == []

    unchanged()


@pytest.mark.hypothesis
@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_a_workload_of_ours_gets_its_model_and_checkpoints(
    scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @SOME
    @given(TEXT, TEXT, TEXT)
    def unchanged(model: str, resume: str, tokenizer: str) -> None:
        assume("--" not in (model, resume, tokenizer))  # refused: tests/errors/args-two-dashes.case
        stage = standins.Stage(tmp_path_factory.mktemp("stage"))
        job = {
            "workload": "generate",
            "model": model,
            "checkpoint": {"resume": f"/{resume}"},
            "args": {"prompts": tokenizer, "tokenizer": tokenizer},
        }
        made = decided(stage.site("plain"), job, {})
        assert stage.run(schedulers.load(scheduler).render(made)["job.sh"]) == 0
        words = arguments_after_dashes(stage.dumped("words"))
        theirs = vars(workloads.parser("generate").parse_args(words[2:]))
        assert words[:2] == ["-m", "workloads.generate"]
        assert (theirs["model"], theirs["prompts"], theirs["tokenizer"]) == (model, tokenizer, tokenizer)
        assert theirs.get("resume", f"/{resume}") == f"/{resume}"
        assert stage.ran() == []

    unchanged()


@pytest.mark.hypothesis
@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_a_mixture_arrives_source_by_source(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    weights = st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(1, 10)

    @SOME
    @given(st.lists(st.fixed_dictionaries({"path": TEXT, "weight": weights}), min_size=1, max_size=3))
    def unchanged(data: list[dict[str, Any]]) -> None:
        stage = standins.Stage(tmp_path_factory.mktemp("stage"))
        made = decided(stage.site("plain"), {"args": {"data": data}}, {})
        assert stage.run(schedulers.load(scheduler).render(made)["job.sh"]) == 0
        words = arguments_after_dashes(stage.dumped("words"))
        assert [json.loads(word) for word in workloads.parser("pretrain").parse_args(words[2:]).data] == data
        assert stage.ran() == []
        for loaded in read_twice(schedulers.load("kubernetes").render(made)["manifest.yaml"]):
            (container,) = pod(loaded)["containers"]
            told = [expanded(word, {}) for word in container["command"] if word.startswith('{"path"')]
            assert [json.loads(word) for word in told] == data

    unchanged()


@pytest.mark.hypothesis
@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_a_command_arrives_word_by_word(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @SOME
    @given(st.lists(TEXT, min_size=1, max_size=4), TEXT, TEXT)
    @example(["env", "--", "--folder=x", "$RUN_DIR"], "--", "$$")
    def unchanged(words: list[str], model: str, python: str) -> None:
        stage = standins.Stage(tmp_path_factory.mktemp("stage"))
        job = {"command": words, "model": model, "processes": "host", "checkpoint": {"resume": f"/{model}"}}
        made = decided(stage.site("plain"), job, {"python": f"/{python}"})
        assert stage.run(schedulers.load(scheduler).render(made)["job.sh"]) == 0
        started = stage.dumped("words")
        assert arguments_after_dashes(started) == words
        assert {"--program", "--processes=host", f"--python=/{python}"} <= set(started)
        found = stage.environment()
        assert (found["MODEL"], found["RESUME_FROM"]) == (model, f"/{model}")
        assert stage.ran() == []

    unchanged()


@pytest.mark.hypothesis
@pytest.mark.parametrize("scheduler", ["local", "slurm"])
def test_a_missing_secret_is_named_and_nothing_runs(
    scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @SOME
    @given(NAMES)
    @example("-\x80")
    def stops(folder: str) -> None:
        stage = standins.Stage(tmp_path_factory.mktemp("stage"))
        job = {"env": {"TOKEN": {"secret": "hf-token"}}}
        made = decided(stage.site("plain"), job, {scheduler: {"secrets": f"/nowhere/{folder}"}})
        assert stage.run(schedulers.load(scheduler).render(made)["job.sh"]) == 64
        log = (stage.folder / "named" / "plain" / "runs" / made.id / "logs" / "job.log").read_text(
            encoding="utf-8"
        )
        assert "secret hf-token is missing" in log
        assert not (stage.folder / "dump" / "words").exists()
        assert stage.ran() == []

    stops()


def test_a_secrets_folder_in_the_home(tmp_path: Path) -> None:
    stage = standins.Stage(tmp_path)
    (stage.folder / "home" / ".sec rets").mkdir()
    (stage.folder / "home" / ".sec rets" / "token").write_text("of $HOME\n")
    made = decided(
        stage.site("plain"), {"env": {"T": {"secret": "token"}}}, {"local": {"secrets": "~/.sec rets"}}
    )
    assert stage.run(schedulers.load("local").render(made)["job.sh"]) == 0
    assert stage.environment()["T"] == "of $HOME"


# What containers are told


def prepared(stage: standins.Stage, job: dict[str, Any], cluster: dict[str, Any]) -> Plan:
    """A plan for Slurm, with what its run folder holds for an image that is not ours."""
    plan = decided(stage.site("plain"), job, cluster)
    Path(plan.folder).mkdir(parents=True)
    snapshot.write(plan, "slurm")
    return plan


PATHS = NAMES.map(lambda text: "/" + "".join(c for c in text if c not in set(":,\n\"'\\")) + "x")


@SOME
@given(TEXT.filter(bool), PATHS, PATHS, st.booleans(), VARIABLES)
def test_pyxis_gets_image_and_mounts(
    tmp_path_factory: pytest.TempPathFactory,
    image: str,
    host: str,
    inside: str,
    readonly: bool,
    env: dict[str, str],
) -> None:
    stage = standins.Stage(tmp_path_factory.mktemp("stage"))
    mounts = {inside: {"host": host, "readonly": readonly}}
    cluster = {"image": f"/{image}.sqsh", "mounts": mounts, "slurm": {"container": "pyxis"}}
    made = prepared(stage, {"env": env}, cluster)
    stage.run(schedulers.load("slurm").render(made)["job.sh"])  # the image's interpreter is not here
    words = stage.dumped("srun")
    assert f"--container-image=/{image}.sqsh" in words
    (mounted,) = (
        word.removeprefix("--container-mounts=") for word in words if word.startswith("--container-mounts=")
    )
    assert f"{host}:{inside}{':ro' if readonly else ''}" in mounted.split(",")
    written = json.loads(
        (stage.folder / "named" / "plain" / "runs" / made.id / "environment.json").read_text()
    )
    assert {name: written[name]["value"] for name in env} == env
    assert stage.ran() == []


@SOME
@given(TEXT.filter(bool), PATHS, PATHS, ARGUMENTS)
def test_apptainer_gets_image_mounts_and_words(
    tmp_path_factory: pytest.TempPathFactory, image: str, host: str, inside: str, args: dict[str, Any]
) -> None:
    stage = standins.Stage(tmp_path_factory.mktemp("stage"))
    cluster = {"image": f"/{image}.sif", "mounts": {inside: host}, "slurm": {"container": "apptainer"}}
    made = prepared(stage, {"workload": "/mine.py", "args": args}, cluster)
    assert stage.run(schedulers.load("slurm").render(made)["job.sh"]) == 71, "no node entry was started"
    words = stage.dumped("apptainer")
    assert f"{host}:{inside}" in words
    assert words.index(f"/{image}.sif") < words.index("python3")
    assert arguments_after_dashes(words) == ["/mine.py", *workloads.command_line(args)]
    assert stage.ran() == []


# Comments


@SOME
@given(TEXT, TEXT, TEXT)
def test_no_reason_or_name_ends_a_comment(
    tmp_path_factory: pytest.TempPathFactory, why: str, preset: str, script: str
) -> None:
    stage = standins.Stage(tmp_path_factory.mktemp("stage"))
    made = decided(stage.site("plain"), {"workload": f"{script}.py"}, {})
    variable = fabrics_model.Variable("X_A", "kept", f"{why}\ntouch pwned\r\ntouch pwned\x85touch pwned", "")
    made = made._replace(preset=f"{preset}\ntouch pwned\n", variables=(*made.variables, variable))
    for scheduler in ("local", "slurm"):
        assert stage.run(schedulers.load(scheduler).render(made)["job.sh"]) == 0
        assert stage.environment()["X_A"] == "kept"
        assert stage.ran() == []
    for loaded in read_twice(schedulers.load("kubernetes").render(made)["manifest.yaml"]):
        (container,) = pod(loaded)["containers"]
        assert {entry["name"]: entry.get("value") for entry in container["env"]}["X_A"] == "kept"


# Kubernetes


def read_twice(manifest: str) -> list[list[dict[str, Any]]]:
    """The documents as a YAML 1.2 reader and as a YAML 1.1 reader has them."""
    return [list(YAML(typ="safe", pure=True).load_all(manifest)), list(yaml.safe_load_all(manifest))]


def pod(documents: list[dict[str, Any]]) -> Any:
    """The first pod's spec, wherever the kind has it."""

    def search(node: Any) -> Any:
        if isinstance(node, dict):
            if "containers" in node:
                return node
            return next((found for value in node.values() if (found := search(value))), None)
        if isinstance(node, list):
            return next((found for value in node if (found := search(value))), None)
        return None

    return search(documents)


def expanded(text: str, variables: dict[str, str]) -> str:
    """`text` as the kubelet hands it on: `$$` is `$`, `$(NAME)` a variable's value.

    https://github.com/kubernetes/kubernetes/blob/v1.34.0/third_party/forked/golang/expansion/expand.go
    """
    made, at = "", 0
    while at < len(text):
        two, end = text[at : at + 2], text.find(")", at)
        if two == "$$":
            made, at = made + "$", at + 2
        elif two == "$(" and end > 0:
            name = text[at + 2 : end]
            made, at = made + variables.get(name, f"$({name})"), end + 1
        else:
            made, at = made + text[at], at + 1
    return made


# Every kind has the same pod; its text is read most often as a plain Job.
KINDS = {"job": 60, "jobset": 10, "trainjob": 10, "mpijob": 10, "pytorchjob": 10, "leaderworkerset": 10}


@pytest.mark.hypothesis
@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_starts_what_the_job_says(kind: str) -> None:
    @settings(MANY, max_examples=KINDS[kind])
    @given(TEXT, ARGUMENTS, VARIABLES, PATHS, PATHS, TEXT)
    def unchanged(
        script: str, args: dict[str, Any], env: dict[str, str], host: str, inside: str, note: str
    ) -> None:
        job = {
            "workload": f"{script}.py",
            "args": args,
            "env": env,
            "deepspeed": {"preset": "zero1", "note": note},
        }
        cluster = {
            "mounts": {inside: {"host": host}},
            "kubernetes": {"kind": kind, "annotations": {"a.example/b": note}},
        }
        made = decided(samples.SITE, job, cluster)
        for documents in read_twice(kubernetes.render(made)[kubernetes.MANIFEST]):
            within = pod(documents)
            (container,) = within["containers"]
            found: dict[str, str] = {}
            for entry in container["env"]:
                if "value" in entry:
                    found[entry["name"]] = expanded(entry["value"], found)
            words = [expanded(word, found) for word in container["command"]]
            assert arguments_after_dashes(words) == [f"{script}.py", *workloads.command_line(args)]
            assert {name: found.get(name) for name in env} == env
            assert inside in {mount["mountPath"] for mount in container["volumeMounts"]}
            assert host in {volume.get("hostPath", {}).get("path") for volume in within["volumes"]}
            data = next(d for d in documents if d["kind"] == "ConfigMap")["data"]
            assert json.loads(data["ds_config.json"]) == made.config
            kept = json.loads(data["plan.json"])["job"]
            assert {name: variable["value"] for name, variable in kept.get("env", {}).items()} == env

    unchanged()
