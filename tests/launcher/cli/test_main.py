"""The command line is a contract: verbs, options, exit codes, streams, and how little each verb loads."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from launcher import ROOT, errors
from launcher.cli import commands, main
from launcher.cli.verbs import shared
from launcher.planning import workspace
from launcher.runs import folders, index
from tests import samples

ON_KUBERNETES = (
    "JOB --after --cluster --dry-run --exclude-bad --force --name --server-dry-run --set --strict --sweep --wait"
    " --with-claims -o"
)
# Changing a line here changes what scripts of users rely on.
CONTRACT = {
    "local": "JOB --after --cluster --debug --dry-run --force --name --set --strict --wait -o",
    "slurm": "JOB --after --cluster --dry-run --exclude-bad --force --name --set --strict --sweep --wait -o",
    "kubernetes": ON_KUBERNETES,
    "k8s": ON_KUBERNETES,
    "prove": "JOB --cluster --force --json --kills --name --on --set --steps --strict",
    "tune": "JOB|RUN --cluster --dry-run --html --json --limit --most --name --on --plot --png --set --space --steps"
    " --strict --wait -o",
    "plan": "JOB --cluster --html --json --max-model --min-nodes --name --plot --png --set --strict",
    "check": "JOB --cluster --live --on --set --strict",
    "cluster": "ACTION SCHEDULER|CLUSTER --cluster --context --force --from --namespace --nodes --on --partition"
    " --probe --set --update -o",
    "diff": "JOB --cluster --name --on --set --strict",
    "hostfile": "HOSTLIST|- --slots",
    "env": "FABRIC --json",
    "status": "RUN --json",
    "logs": "RUN --follow --host --rank -f",
    "cancel": "RUN",
    "resume": "RUN --exclude-bad --now",
    "shell": "RUN --host --rank",
    "stacks": "RUN --json",
    "profile": "RUN --json --ranks --steps --timeout --tool",
    "rerun": "RUN --force --wait",
    "compare": "RUN RUN --json",
    "checkpoints": "RUN --export --json --keep --step --verify",
    "fetch": "RUN PATH DEST --force",
    "report": "RUN --html --json --plot --png --serve --since",
    "list": "--all --json --state",
    "data": "ACTION KEY --cache --cluster --json",
    "schema": "kind",
    "completion": "shell",
    "doctor": "--cluster --json",
}

# What costs time to import, and what a verb may load of it.
HEAVY = {
    "pydantic",
    "jinja2",
    "submitit",
    "kubernetes",
    "rich",
    "ruamel",
    "argcomplete",
    "torch",
    "deepspeed",
    "transformers",
}
NOTHING: set[str] = set()
FILES = {"ruamel"}
LOADS = [
    ("--help", NOTHING),
    ("--version", NOTHING),
    ("slurm --help", NOTHING),
    ("status absent", NOTHING),
    ("logs absent", NOTHING),
    ("cancel absent", NOTHING),
    ("resume absent", NOTHING),
    ("report absent", NOTHING),
    ("shell absent", NOTHING),
    ("stacks absent", NOTHING),
    ("profile absent", NOTHING),
    ("rerun absent", NOTHING),
    ("compare absent absent", NOTHING),
    ("checkpoints absent", NOTHING),
    ("fetch absent . there", NOTHING),
    ("list --json", NOTHING),
    ("data list", NOTHING),
    ("data show 0123456789abcdef", NOTHING),
    ("hostfile node[1-2] --slots 8", NOTHING),
    ("env infiniband", NOTHING),
    ("completion fish", {"argcomplete"}),
    ("schema job", NOTHING),
    ("plan jobs/quickstart.yaml", FILES),
    ("tune jobs/quickstart.yaml --dry-run", FILES | {"jinja2"}),
    ("tune absent", NOTHING),
    ("local jobs/quickstart.yaml --dry-run", FILES | {"jinja2"}),
    ("slurm jobs/quickstart.yaml --dry-run", FILES | {"jinja2"}),
    ("kubernetes jobs/quickstart.yaml --dry-run", FILES | {"jinja2"}),
    ("check jobs/quickstart.yaml", FILES | {"jinja2"}),
]
LOADED = """
import sys
from launcher.cli import main
try:
    main.main(sys.argv[1:])
except SystemExit:
    pass
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small job and cluster, and runs of its own."""
    (tmp_path / "job.yaml").write_text(samples.JOB)
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "LAUNCHER"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launcher(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m launcher` in a process of its own."""
    settings = {"capture_output": True, "text": True, "timeout": 120, **options}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("env", {})}
    return subprocess.run([sys.executable, "-m", "launcher", *words], env=environment, **settings)


# The contract


def test_verbs_and_options() -> None:
    parser = commands.parser()
    assert [word for action in parser._actions for word in action.option_strings] == [
        "-h",
        "--help",
        "--version",
    ]
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found = {
        name: " ".join(
            [
                *(
                    str(action.metavar or action.dest)
                    for action in verb._actions
                    if not action.option_strings
                ),
                *sorted(
                    {word for action in verb._actions for word in action.option_strings} - {"-h", "--help"}
                ),
            ]
        )
        for name, verb in verbs.choices.items()
    }
    assert found == CONTRACT


def test_every_option_is_explained() -> None:
    (table,) = (a for a in commands.parser()._actions if isinstance(a, argparse._SubParsersAction))
    bare = {
        (name, action.dest)
        for name, verb in table.choices.items()
        for action in verb._actions
        if not action.help
    }
    assert bare == set()


def test_exit_codes() -> None:
    assert (shared.OK, shared.JOB_FAILED, main.USAGE, main.BUG, main.INTERRUPTED) == (0, 1, 2, 70, 130)
    codes = {kind.__name__: kind.exit_code for kind in errors.LauncherError.__subclasses__()}
    assert codes == {
        "SpecError": 2,
        "PlanError": 3,
        "SubmitError": 4,
        "RunNotFoundError": 5,
        "ToolMissingError": 6,
    }


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("plan job.yaml", 0),
        ("plan job.yaml --set nodes=0", 2),
        ("plan job.yaml --set batch.global=3", 3),
        ("status absent", 5),
        ("kubernetes job.yaml", 6),
    ],
)
def test_exit_code_of(words: str, code: int, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(here / "absent"))
    assert main.main(words.split()) == code


def test_a_refusal_of_the_scheduler_is_shown_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "srun"):
        program = here / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}/bin:/usr/bin:/bin")
    assert main.main(["slurm", "job.yaml"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: sbatch: error: invalid partition specified: gpu" in err
    assert list((here / "runs").iterdir()) == []


@pytest.mark.heavy
def test_wait_says_how_the_job_ended(here: Path) -> None:
    (here / "fail.py").write_text("raise SystemExit(9)\n")
    done = launcher("local", "job.yaml", "--wait", "--set", f"workload={here}/fail.py", cwd=here)
    assert done.returncode == 1, done.stderr
    assert "exit code 9" in done.stderr


def test_a_bug_is_called_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr("launcher.files.load.load", broken)
    assert main.main(["plan", "job.yaml"]) == 70
    err = capsys.readouterr().err
    assert "ZeroDivisionError: seven" in err
    assert err.endswith("this is a bug in the launcher: please report it with the lines above\n")


def test_interrupted(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.files.load.load", interrupt)
    assert main.main(["plan", "job.yaml"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


# What is loaded


@pytest.mark.heavy  # an interpreter for each
@pytest.mark.parametrize(("words", "allowed"), LOADS, ids=[words for words, _ in LOADS])
def test_a_verb_loads_no_more_than_it_needs(words: str, allowed: set[str], tmp_path: Path) -> None:
    environment = {**os.environ, "LAUNCHER_RUNS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()[-1].split()) & HEAVY <= allowed


# Streams


def test_dry_run_prints_the_text_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["local", "job.yaml", "--dry-run", "--set", "env.NCCL_DEBUGG=INFO"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("#!/bin/bash\n")
    assert "note: " not in out
    assert "NCCL_DEBUG" in err  # the linter's talk
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)
    assert sorted(path.name for path in here.iterdir()) == ["here.yaml", "job.yaml"]


def test_dry_run_of_kubernetes_is_a_manifest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["kubernetes", "job.yaml", "--dry-run"]) == 0
    manifest = capsys.readouterr().out
    assert {"ConfigMap", "Job"} <= {d["kind"] for d in YAML(typ="safe", pure=True).load_all(manifest)}
    assert main.main(["k8s", "job.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == manifest


def test_dry_run_is_the_same_every_time(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        assert main.main(["slurm", "job.yaml", "--dry-run"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_output_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["slurm", "job.yaml", "-o", "out/deep"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "wrote out/deep/job.sh\n"
    assert main.main(["slurm", "job.yaml", "-o", "out/deep", "--dry-run"]) == 0
    assert capsys.readouterr().out == (here / "out" / "deep" / "job.sh").read_text(encoding="utf-8")
    assert sorted(path.name for path in (here / "out" / "deep").iterdir()) == ["job.sh"]
    assert not (here / "runs").exists()


@pytest.mark.parametrize("scheduler", ["local", "slurm", "kubernetes"])
def test_output_replaces_its_own_files_alone(
    scheduler: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([scheduler, "job.yaml", "-o", "out"]) == 0
    before = {path: path.read_text() for path in (here / "out").iterdir()}
    assert main.main([scheduler, "job.yaml", "-o", "out", "--name", "again"]) == 0
    assert any(path.read_text() != text for path, text in before.items())
    capsys.readouterr()

    (here / "theirs").write_text("#!/bin/bash\necho mine\n")
    first, second = sorted(before)[0], sorted(before)[-1]
    first.write_bytes((here / "theirs").read_bytes())
    second.unlink()
    second.symlink_to(here / "theirs")
    now = {path: path.read_text() for path in (here / "out").iterdir()}
    assert main.main([scheduler, "job.yaml", "-o", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    hint = "is there and is not the launcher's; move it away, or name another folder"
    assert sorted(err.splitlines()) == sorted(f"error: -o out: {p.name} {hint}" for p in {first, second})
    assert {path: path.read_text() for path in (here / "out").iterdir()} == now, "nothing is half-written"
    assert (here / "theirs").read_text() == "#!/bin/bash\necho mine\n"


@pytest.mark.parametrize(
    "words", ["plan job.yaml --json", "env tcp --json", "env --json", "list --json", "schema cluster"]
)
def test_json_is_alone_on_stdout(words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words.split()) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert err == ""


def test_check_says_each_job_and_scheduler(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.yaml").write_text(samples.JOB.replace("micro: 1", "micro: 3, global: 16"))
    assert main.main(["check", "job.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"job.yaml: ok on {name}" for name in ("local", "slurm", "kubernetes")
    ]
    assert main.main(["check", "bad.yaml", "job.yaml"]) == 3
    out, err = capsys.readouterr()
    assert err.startswith("bad.yaml:4:19: batch.global 16 does not divide")
    assert "job.yaml: ok on slurm" in out


def test_a_job_that_one_scheduler_cannot_run_is_still_valid(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["check", "job.yaml", "--set", "nodes=17", "--set", "cluster.fabric=tcp"]) == 0
    out, err = capsys.readouterr()
    assert "job.yaml: not on local: --set nodes=17: 17 hosts on one machine" in err
    assert "job.yaml: ok on slurm" in out


def test_hostfile_from_stdin_and_from_an_allocation(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = launcher("hostfile", "-", "--slots", "4", input="a[1-2]\nb\n")
    assert done.stdout == "a1 slots=4\na2 slots=4\nb slots=4\n"
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[08-09]")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    assert main.main(["hostfile"]) == 0
    assert capsys.readouterr().out == "n08 slots=8\nn09 slots=8\n"


def test_a_run_of_an_unknown_scheduler_does_not_hide_the_others(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "runs"
    for number, scheduler in enumerate(("local", "pbs")):
        record = {
            "id": scheduler,
            "scheduler": scheduler,
            "native_id": "1:1",
            "submitted": number,
            "nodes": 1,
        }
        folders.write_files(folder / scheduler, {"run.json": json.dumps({**record, "slots": 1, "place": {}})})
    assert main.main(["list", "--json"]) == 0
    found = {entry["id"]: (entry["state"], entry["reason"]) for entry in json.loads(capsys.readouterr().out)}
    assert found["pbs"] == ("UNKNOWN", "unknown scheduler 'pbs'")
    assert found["local"][0] == "FAILED"
    assert main.main(["list", "--state", "unknown"]) == 0
    assert "pbs" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["plan", "job.yaml"], ["env", "infiniband"], ["schema", "cluster"]])
@pytest.mark.heavy
def test_a_reader_that_has_gone_is_no_error(words: list[str], here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = launcher(*words, cwd=here, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.heavy
def test_text_is_utf8_in_any_locale(here: Path) -> None:
    (here / "job.yaml").write_text(samples.JOB + "env: {A: ünïcode}\n", encoding="utf-8")
    done = launcher(
        "plan",
        "job.yaml",
        cwd=here,
        text=False,
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0
    assert "A=ünïcode" in done.stdout.decode("utf-8")  # type: ignore[attr-defined]


@pytest.mark.heavy
def test_a_folder_whose_name_is_no_text(here: Path) -> None:
    odd = os.fsencode(here) + b"/\xff"
    Path(os.fsdecode(odd)).mkdir()
    done = launcher("slurm", str(here / "job.yaml"), "--dry-run", cwd=odd, text=False)
    assert done.returncode == 0
    assert odd + b"/runs/" in done.stdout  # type: ignore[operator]


# Files


@pytest.mark.heavy
def test_a_job_is_read_from_a_pipe(here: Path) -> None:
    text = (here / "job.yaml").read_text()
    for words in (["/dev/stdin"], ["/dev/stdin", "--cluster", "here.yaml"]):
        done = launcher("plan", *words, cwd=here, input=text)
        assert done.returncode == 0, done.stderr
        assert "demo-" in done.stdout
    line = f"{sys.executable} -m launcher check <(cat job.yaml) --cluster here.yaml"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["bash", "-c", line]
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count("ok on")) == (0, 3), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(["local", "job.yaml", option] for option in ("-o=", "--cluster=", "--name=")),
        ["local", "job.yaml", "-o", ""],
        ["local", "job.yaml", "-o", " "],
        ["local", ""],
        *(["plan", "job.yaml", option, ""] for option in ("--html", "--png", "--max-model", "--cluster")),
        ["report", "x", "--html", ""],
        ["check", ""],
        ["logs", "x", "--host", ""],
    ],
)
def test_an_empty_value_is_a_mistake(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([word.replace("-o=", "-o") if word != "-o=" else "-o" for word in words])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
    assert not (here / "runs").exists()


# Runs


def recorded(folder: Path, name: str, text: str = "") -> None:
    record = {
        "id": name,
        "scheduler": "local",
        "native_id": "999999:1",
        "submitted": 1.0,
        "nodes": 1,
        "slots": 1,
    }
    folders.write_files(folder / name, {"run.json": text or json.dumps({**record, "place": {}})})


def test_list_says_where_it_looked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["list"]) == 0
    assert capsys.readouterr().out.startswith(f"no runs in {here}/runs\n")
    assert main.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    recorded(here / "runs", "demo-1")
    assert main.main(["list", "--state", "running"]) == 0
    assert capsys.readouterr().out == f"no RUNNING runs in {here}/runs\n"


@pytest.mark.heavy
def test_runs_of_other_folders(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "ok.py").write_text("")
    assert main.main(["local", "job.yaml", "--wait", "--set", f"workload={here}/ok.py"]) == 0
    (run,) = [path.name for path in (here / "runs").iterdir()]
    monkeypatch.chdir("/")
    monkeypatch.setenv("LAUNCHER_RUNS", str(here / "other"))
    capsys.readouterr()
    assert main.main(["list"]) == 0
    assert f"runs elsewhere, such as in {here}/runs: python -m launcher list --all" in capsys.readouterr().out
    assert main.main(["list", "--all", "--json"]) == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == [run]
    for verb in ("status", "logs", "cancel"):
        assert main.main([verb, "demo"]) == 0
    assert main.main(["resume", run]) == 4
    assert "has succeeded" in capsys.readouterr().err


def test_a_run_is_listed_once_whatever_links_lead_to_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))
    recorded(here / "runs", "demo-1")
    index.remember(here / "runs")
    (here / "link").symlink_to(here / "runs")
    monkeypatch.setenv("LAUNCHER_RUNS", str(here / "link"))
    assert main.main(["list", "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert main.main(["list", "--state", "pending", "--all"]) == 0
    assert capsys.readouterr().out == f"no PENDING runs in {here}/link\n"


def test_a_broken_record_is_named_and_hides_no_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(here / "runs", "demo-1")
    recorded(here / "runs", "demo-2", "{")
    texts = ("{}", "[" * 100_000, '{"stages": [{"stage": "a", "run": "x", "needs": ["b"]}]}')
    for name in ("pipeline.json", "sweep.json"):
        for number, text in enumerate(texts):
            folders.write_files(here / "runs" / f"demo-{name}-{number}", {name: text})
    assert main.main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [entry["id"] for entry in json.loads(out)] == ["demo-1"]
    assert f"warning: {here}/runs/demo-2/run.json cannot be read: it is not JSON" in err
    assert main.main(["status", "demo"]) == 0
    for name in ("demo-2", "demo-pipeline.json-0", "demo-pipeline.json-1", "demo-pipeline.json-2"):
        for verb in ("status", "logs", "cancel", "resume"):
            assert main.main([verb, name]) == 5
        assert "cannot be read" in capsys.readouterr().err
    for number in range(3):
        assert main.main(["report", f"demo-sweep.json-{number}"]) == 5


@pytest.mark.parametrize("kind", ["file", "link"])
def test_list_names_a_runs_folder_that_cannot_be_read(
    kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "file":
        (here / "runs").write_text("")
    else:
        (here / "runs").symlink_to(here / "runs")
    assert main.main(["list"]) == 2
    assert f"the runs folder {here}/runs cannot be read: " in capsys.readouterr().err


def test_a_dangling_runs_folder_is_refused_at_once(here: Path) -> None:
    (here / "runs").symlink_to(here / "not" / "mounted")
    done = launcher("local", "job.yaml", cwd=here, timeout=60)
    assert done.returncode == 2
    assert f"it is a link to {here}/not/mounted, which does not exist" in done.stderr


# Completion


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("launcher sta", ["status"]),
        ("launcher status de", ["demo-1"]),
        ("launcher report demo-", ["demo-1"]),
        ("launcher local job.yaml --after dem", ["demo-1"]),
        ("launcher plan jo", ["job.yaml", "jobs/quickstart.yaml"]),
        ("launcher plan jobs/quick", ["jobs/quickstart.yaml"]),
        ("launcher plan job.yaml --cluster lap", ["laptop"]),
        ("launcher list --st", ["--state"]),
    ],
)
@pytest.mark.heavy
def test_completion(line: str, words: list[str], here: Path) -> None:
    recorded(here / "runs", "demo-1")
    answer = here / "answer"
    environment = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    environment["_ARGCOMPLETE_STDOUT_FILENAME"] = str(answer)
    launcher(cwd=here, env=environment)
    found = [word.strip() for word in answer.read_text().splitlines()]
    assert set(words) <= set(found)
    assert "laptop" not in found or "--cluster" in line


def test_completion_in_bash(here: Path) -> None:
    recorded(here / "runs", "demo-1")
    program = here / "bin" / "launcher"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m launcher "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(launcher completion bash)"; COMP_LINE="launcher cancel de"; COMP_POINT=${#COMP_LINE}\n'
        "COMP_WORDS=(launcher cancel de); COMP_CWORD=2; COMP_TYPE=9; _python_argcomplete launcher\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    words = ["bash", "--norc", "-c", script]
    done = subprocess.run(words, cwd=here, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["demo-1"], done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == 0
    assert "launcher" in capsys.readouterr().out


# Another Python


@pytest.mark.heavy
def test_a_python_without_the_packages_is_told_what_to_do(here: Path) -> None:
    """-S leaves out site-packages, as a system's Python has none of the project's."""
    words = [sys.executable, "-S", "-m", "launcher"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    for verb in (["plan", "job.yaml"], ["local", "job.yaml"], ["completion", "bash"], ["check", "job.yaml"]):
        done = subprocess.run([*words, *verb], cwd=here, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (6, "")
        (line,) = done.stderr.splitlines()
        assert "has no package" in line
        assert "make install, then . .venv/bin/activate" in line


def test_an_older_python_is_told_so(here: Path) -> None:
    text = "import runpy, sys; sys.version_info = (3, 9, 1); sys.argv[1:] = ['list']; "
    text += "runpy.run_module('launcher', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == f"error: the launcher needs Python 3.10 or newer, and {sys.executable} is older\n"


@pytest.mark.parametrize(("flags", "told"), [([], False), (["-W", "default"], True)])
def test_warnings_of_libraries_are_for_who_asks_for_them(flags: list[str], told: bool) -> None:
    """Such as urllib3's of each request to a server whose certificate the kubeconfig has not checked."""
    text = (
        "import warnings; from launcher.cli import main;"
        "main._run = lambda words: warnings.warn('theirs', FutureWarning) or 0; main.main([])"
    )
    done = subprocess.run([sys.executable, *flags, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert ("theirs" in done.stderr, done.returncode) == (told, 0), done.stderr


# Help


def test_the_help_has_every_verb_once_in_a_group() -> None:
    (table,) = (a for a in commands.parser()._actions if isinstance(a, argparse._SubParsersAction))
    text = commands.parser().format_help()
    groups = [line for line in text.splitlines() if line.endswith(":") and not line.startswith("usage")]
    assert groups[:4] == ["run:", "look:", "operate:", "cluster:"]
    for name in set(table.choices) - {"k8s"}:
        assert len([line for line in text.splitlines() if line.split()[:1] == [name]]) == 1


@pytest.mark.parametrize("verb", ["", *CONTRACT])
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([*verb.split(), "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: launcher")
    assert err == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["--on", "local"], 3),
        (["--on", "slurm"], 0),
        (["--on", "slurm", "--on", "local"], 3),
        (["--on", "k8s"], 3),
        (["--on", "k8s", "--set", "cluster.kubernetes.runs=runs"], 0),
        (["--set", "cluster.image=a b", "--set", "cluster.slurm.container=pyxis"], 3),
    ],
)
def test_check_fails_where_the_job_is_impossible(words: list[str], code: int, here: Path) -> None:
    # impossible on this machine alone, and in the last case everywhere
    assert (
        main.main(["check", "job.yaml", "--set", "nodes=17", "--set", "cluster.fabric=tcp", *words]) == code
    )


@pytest.mark.parametrize("words", [["plan"], ["report"], ["local"], ["logs"], []])
def test_a_message_is_not_as_long_as_its_input(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main.main([*words, "x" * 140_000])
    except SystemExit as error:  # of the parser
        code = int(error.code or 0)
    assert code in (2, 5)
    assert len(capsys.readouterr().err) < 10_000


def test_what_a_message_repeats_cannot_drive_the_terminal(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["plan", "\x1b[2Jjob.yaml"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_working_folder_that_is_gone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = here / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert main.main(["list"]) == 2
    assert "the folder that this command runs in no longer exists" in capsys.readouterr().err


def test_the_runs_folder_may_be_below_home(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("LAUNCHER_RUNS", "~/mine")
    assert main.main(["plan", "job.yaml", "--json"]) == 0
    assert workspace.runs() == here / "mine"
    monkeypatch.setenv("LAUNCHER_RUNS", "~nosuchuser/x")
    assert main.main(["list"]) == 2
    assert "LAUNCHER_RUNS '~nosuchuser/x' names a user who is not here" in capsys.readouterr().err


def test_an_early_interrupt_leaves_no_traceback(here: Path) -> None:
    # the signal comes while the command's modules are read: the first of them sends it
    (here / "argparse.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise RuntimeError\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "list"],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_a_pipeline_whose_later_stage_is_refused_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = "{one: {job: job.yaml}, two: {job: job.yaml, set: {cluster.slurm.sbatch: {arra: 0-3}}}}"
    (here / "chain.yaml").write_text(f"name: chain\ncluster: here.yaml\npipeline: {stages}\n")
    assert main.main(["slurm", "chain.yaml", "-o", "out"]) == 2
    assert not (here / "out").exists()
    (here / "out" / "two").mkdir(parents=True)
    (here / "out" / "two" / "job.sh").write_text("mine\n")
    (here / "chain.yaml").write_text(
        "name: chain\ncluster: here.yaml\npipeline: {one: {job: job.yaml}, two: {job: job.yaml}}\n"
    )
    assert main.main(["slurm", "chain.yaml", "-o", "out"]) == 2
    assert sorted(path.name for path in (here / "out").rglob("*")) == ["job.sh", "two"]
