"""The folder list is the architecture: layers, and who may use what (pyproject.toml), and the two halves apart."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher import ROOT, schedulers

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_IMAGES = sorted((ROOT / "docker").rglob("*.py"))
EVERYWHERE = sorted([*(ROOT / "launcher").rglob("*.py"), *IN_IMAGES, *(ROOT / "tests").rglob("*.py")])
# Modules without a test file of their name: (folder, the test that holds them, their names). A verb is tested by its
# command line, a fabric by all that every fabric must have, a part of an algorithm by the algorithm's own test.
TESTED_BY = (
    ("launcher/discovery", "launcher/discovery/test_slurm.py", "asking facts slurm_output"),
    ("launcher/discovery", "real/slurm/test_discover.py", "live_slurm"),
    ("launcher/discovery", "launcher/discovery/test_cluster_file.py", "local probed"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_applying.py", "rights"),
    ("launcher/deepspeed", "launcher/deepspeed/test_rules.py", "optimizer_rules program_rules view"),
    ("docker", "docker/test_preflight.py", "allreduce links"),
    ("docker", "launcher/schedulers/kubernetes/test_leader.py", "lead"),
    ("launcher/submission", "launcher/schedulers/kubernetes/test_leader.py", "leaders"),
    ("docker", "launcher/runs/test_receiving.py", "sender"),
    ("launcher/cli/verbs", "launcher/runs/test_receiving.py", "fetch"),
    ("launcher/cli/verbs", "launcher/schedulers/kubernetes/test_pipeline.py", "leading"),
    ("launcher/runs", "launcher/runs/test_receiving.py", "unpacking"),
    ("launcher/schedulers", "launcher/runs/test_receiving.py", "child"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_fetching.py", "execution"),
    ("launcher/submission", "launcher/runs/test_receiving.py", "fetching"),
    ("launcher/submission", "launcher/schedulers/kubernetes/test_pipeline.py", "waiting"),
    ("docker", "docker/test_node.py", "ending hostfile logs"),
    ("docker", "docker/test_tune.py", "trial"),
    ("docker", "docker/test_program.py", "processes team"),
    ("docker", "docker/test_stacks.py", "on_signal"),
    ("docker", "launcher/submission/test_foreground.py", "terminal"),
    ("docker/imagebuild", "docker/imagebuild/test_build.py", "export wheels"),
    ("docker/imagebuild", "docker/imagebuild/test_wheel.py", "ops"),
    ("docker/workloads", "docker/workloads/test_learner.py", "averages ppo_training"),
    ("docker/workloads", "docker/workloads/test_finetune.py", "callbacks trainers"),
    ("docker/workloads", "docker/workloads/test_chat.py", "chat_dpo chat_reward chat_rl chat_sft"),
    ("docker/workloads", "docker/workloads/test_chat.py", "examples judges reinforcement rewards"),
    ("docker/workloads", "docker/workloads/test_ppo.py", "chat_ppo ppo_models rollouts"),
    ("docker/workloads", "docker/workloads/test_serve.py", "endpoint placement"),
    ("docker/workloads", "docker/workloads/test_pretrain.py", "export"),
    ("launcher/cli/verbs", "launcher/runs/test_checkpoints.py", "checkpoints"),
    ("launcher/runs", "launcher/runs/test_checkpoints.py", "mirrored"),
    ("launcher/reports", "launcher/runs/test_checkpoints.py", "checkpoint_tables"),
    ("launcher/reports", "launcher/runs/test_certificate.py", "certificate"),
    ("launcher/submission", "launcher/submission/test_proof.py", "proving"),
    ("docker/workloads", "docker/workloads/test_generate.py", "inference parts"),
    ("docker/workloads/openai_server", "docker/workloads/test_openai_server.py", "answers app choices"),
    ("docker/workloads/openai_server", "docker/workloads/test_openai_server.py", "decoding requests work"),
    ("docker/workloads", "docker/workloads/test_trials.py", "startup tensor_memory zero"),
    ("docker/workloads/tasks", "docker/workloads/test_evaluate.py", "python_lines"),
    ("docker/workloads", "docker/workloads/test_corpus.py", "text token_shards"),
    ("docker/workloads", "docker/workloads/test_megatron.py", "encoding token_files"),
    (
        "docker/workloads",
        "docker/workloads/test_prepare.py",
        "cache claims completing cores progress readers",
    ),
    ("docker/workloads", "docker/workloads/test_prepare.py", "shard_writer tokenizing"),
    ("docker/workloads", "docker/workloads/test_reading.py", "cutting sources zstd_frames"),
    ("docker/workloads", "docker/workloads/test_pretrain.py", "training"),
    (
        "docker/workloads",
        "docker/workloads/test_probe.py",
        "probe_hosts probe_links probe_merging probe_rates",
    ),
    ("docker/workloads", "launcher/planning/test_tiers.py", "keeping"),
    ("docker/workloads", "docker/workloads/test_mirror.py", "mirror_files"),
    ("docker/workloads", "launcher/test_workloads.py", "traits"),
    ("docker/workloads", "docker/workloads/test_options.py", "data_options policy_options training_options"),
    ("launcher/sizing", "launcher/sizing/test_activations.py", "saved"),
    ("launcher/sizing", "launcher/sizing/test_memory.py", "hosts"),
    ("launcher", "launcher/runs/test_record.py", "atomic"),
    ("launcher", "launcher/test_frozen.py", "namedtuple"),
    ("launcher/cli", "launcher/cli/test_main.py", "arguments completion options"),
    ("launcher/cli/commands", "launcher/cli/test_main.py", "look operate run shared surroundings"),
    (
        "launcher/cli/verbs",
        "launcher/cli/test_main.py",
        "again check cluster data debug launch look plan prove report runs shared shell sweep tokens tune",
    ),
    ("launcher/cli/verbs", "launcher/runs/test_measuring.py", "probe"),
    ("launcher/planning", "launcher/planning/test_forecast.py", "residuals"),
    ("launcher/reports", "launcher/planning/test_forecast.py", "forecasts"),
    ("launcher/doctor", "launcher/doctor/test_doctor.py", "looking machine ops"),
    ("launcher", "launcher/files/test_own_program.py", "entry"),
    ("launcher", "test_errors.py", "errors"),
    ("launcher/fabrics", "launcher/fabrics/test_environment.py", "lint model variables"),
    ("launcher/files", "launcher/files/test_load.py", "cluster fields job references shared validation"),
    ("launcher/files", "launcher/schedulers/kubernetes/test_values.py", "kubernetes_syntax"),
    ("launcher/files", "launcher/files/test_pipeline.py", "stages"),
    ("launcher/images", "launcher/planning/test_image_check.py", "facts registry"),
    ("launcher/planning", "launcher/files/test_restored.py", "recorded"),
    ("launcher/images", "launcher/planning/test_packages.py", "locks"),
    ("launcher/planning", "launcher/planning/test_packages.py", "interpreter"),
    ("launcher/planning", "launcher/planning/test_plan.py", "impossible mounts ranks_environment variables"),
    ("launcher/planning", "launcher/planning/test_tuning.py", "tuning_record"),
    ("launcher/planning", "launcher/files/test_own_program.py", "on_this_machine own_program"),
    ("launcher/planning", "launcher/planning/test_code_files.py", "checkout code secret_files"),
    ("launcher/planning", "launcher/cli/test_main.py", "workspace"),
    ("launcher/rendering", "launcher/rendering/test_quoting.py", "command templates"),
    ("launcher/reports", "launcher/planning/test_capacity.py", "estimate"),
    ("launcher/sizing", "launcher/planning/test_generating.py", "cache inference"),
    ("launcher/sizing", "launcher/planning/test_learning.py", "by_size others"),
    ("launcher/sizing", "launcher/sizing/test_seq2seq.py", "halves"),
    ("launcher/sizing", "launcher/sizing/test_memory.py", "gathering"),
    ("launcher/runs", "launcher/schedulers/test_slurm.py", "badhosts sweeps"),
    ("launcher/runs", "launcher/runs/test_causes.py", "diagnosis logs status"),
    ("launcher/runs", "launcher/runs/test_record.py", "folders index"),
    ("launcher/reports", "launcher/runs/test_prepared.py", "prepared_tables"),
    ("launcher/runs", "launcher/reports/test_comparison.py", "differences"),
    ("launcher/runs", "launcher/runs/test_lock.py", "locked_data"),
    ("launcher/runs", "launcher/runs/test_prepared.py", "claims"),
    ("launcher/runs", "launcher/reports/test_tuning.py", "trials"),
    ("launcher/runs", "launcher/submission/test_pipelines.py", "pipelines"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_verbs.py", "following"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_verbs.py", "hosts mirror"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_podlogs.py", "kept"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_manifests.py", "kinds queues"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_manifests.py", "security"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_manifests.py", "trainer"),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_checks.py", "resource_checks"),
    (
        "launcher/schedulers/slurm",
        "launcher/schedulers/test_slurm.py",
        "exported options query states walltime",
    ),
    ("launcher/schedulers/slurm", "launcher/schedulers/test_sbatch.py", "sbatch"),
    ("launcher/schedulers/slurm", "launcher/schedulers/test_resources.py", "resources"),
    ("launcher/schedulers/slurm", "launcher/schedulers/test_submission.py", "submission"),
    ("launcher/sizing", "launcher/sizing/test_models.py", "architecture model_files"),
    ("launcher/sizing", "launcher/sizing/test_families.py", "composites"),
    ("launcher/schedulers", "launcher/submission/test_shell.py", "inside local_shell"),
    ("launcher/sizing", "launcher/sizing/test_ladder.py", "changes"),
    ("launcher/sizing", "launcher/sizing/test_memory.py", "setup states"),
    ("launcher/submission", "launcher/schedulers/test_local.py", "placement submit"),
    ("launcher/submission", "launcher/submission/test_tokenizing.py", "texts"),
)
# Names that say nothing of what is inside.
VAGUE = {"utils", "util", "helpers", "helper", "base", "manager", "common", "core", "misc"}


LIMITED = sorted([*(ROOT / "launcher").rglob("*.py"), *IN_IMAGES])
MOST_POSITIONAL, LONGEST_FUNCTION = 4, 60


@functools.cache
def module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a file's code."""
    return list(ast.walk(module(path)))


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names = [alias.name for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module or "" for node in nodes(path) if isinstance(node, ast.ImportFrom) and not node.level
    ]
    return {name.partition(".")[0] for name in names}


def test_imports_keep_the_contracts() -> None:
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_in_the_images_stands_alone() -> None:
    assert [path for path in IN_IMAGES if imported(path) & {"launcher", "tests"}] == []


def test_the_node_entry_needs_the_standard_library_alone() -> None:
    beside = {path.stem for path in (ROOT / "docker").glob("*.py")}
    seen, waiting = set(), {"node"}
    while waiting:
        seen |= waiting
        waiting = {
            name for own in waiting for name in imported(ROOT / "docker" / f"{own}.py") if name in beside
        } - seen
    foreign = {name for own in seen for name in imported(ROOT / "docker" / f"{own}.py")} - seen
    assert {"ending", "ranks", "rendezvous"} <= seen
    assert foreign <= set(sys.stdlib_module_names)


def test_names_say_what_is_inside() -> None:
    assert [path for path in EVERYWHERE if {path.stem, path.parent.name} & VAGUE] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in EVERYWHERE if module(path).body and not ast.get_docstring(module(path))]
    assert silent == [], "the first line says what the module owns"


def test_every_module_has_a_test_of_its_name() -> None:
    elsewhere = {f"{folder}/{name}.py" for folder, _, names in TESTED_BY for name in names.split()}
    tests = ROOT / "tests"
    assert [test for _, test, _ in TESTED_BY if not (tests / test).exists()] == []
    modules = [path.relative_to(ROOT) for path in EVERYWHERE if path.is_relative_to(tests) is False]
    without = {
        str(path)
        for path in modules
        if not path.stem.startswith("__") and not (tests / path.parent / f"test_{path.stem}.py").exists()
    }
    assert without - elsewhere == set(), "add tests/…/test_NAME.py, or say in TESTED_BY which test holds it"
    assert elsewhere - without == set(), "take it out of TESTED_BY: it has a test of its own, or is gone"


def test_calls_name_what_they_pass() -> None:
    """Beyond four values a reader counts positions; a list that is unpacked is of one kind and counts as none."""
    crowded = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in LIMITED
        for call in nodes(path)
        if isinstance(call, ast.Call)
        and sum(not isinstance(value, ast.Starred) for value in call.args) > MOST_POSITIONAL
    ]
    assert crowded == []


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno}: {function.name}"
        for path in LIMITED
        for function in nodes(path)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (function.end_lineno or function.lineno) - function.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_scheduler_has_the_functions_of_the_protocol(name: str) -> None:
    module = schedulers.load(name)
    for verb in ("render", "submit", "status", "logs", "cancel"):
        wanted = list(inspect.signature(getattr(schedulers.Scheduler, verb)).parameters)[1:]
        assert list(inspect.signature(getattr(module, verb)).parameters) == wanted
    assert set(schedulers.ALIASES.values()) <= set(schedulers.SCHEDULERS)


def test_digits_and_letters_of_files_are_ascii() -> None:
    """`\\d`, `\\w` and str.isdigit() take ٢ and ä too, which Slurm, Kubernetes and the ranks do not."""
    wide = re.compile(r"\\[dw]|\.is(?:digit|decimal|numeric|alnum|alpha)\(")
    checking = ("units.py", "files", "deepspeed", "planning", "rendering", "sizing", "schedulers/slurm")
    read = [
        path
        for path in EVERYWHERE
        if path.relative_to(ROOT)
        .as_posix()
        .startswith(tuple(f"launcher/{name}" for name in (*checking, "schedulers/kubernetes/checks.py")))
    ]
    assert len(read) > 40
    lines = [
        (path, line) for path in read for line in path.read_text("utf-8").splitlines() if wide.search(line)
    ]
    assert [(path.name, line) for path, line in lines if "ASCII" not in line and "isascii" not in line] == []


def test_a_file_that_reads_torch_is_not_quick() -> None:
    """Torch and what stands on it take seconds to import, in each worker of `make quick`."""
    unmarked = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        body = module(path).body
        outside = [node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If))]
        heavy = {name for node in outside for name in _imported(node)} & HEAVY
        marks = [n for n in outside if ast.unparse(n).startswith("pytestmark") and "mark." in ast.unparse(n)]
        unmarked += [f"{path.relative_to(ROOT)}: {', '.join(sorted(heavy))}"] if heavy and not marks else []
    assert unmarked == [], "pytestmark = pytest.mark.torch, or heavy"


HEAVY = {"deepspeed", "matplotlib", "peft", "torch", "transformers", "trl"}


def _imported(node: ast.stmt) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            yield (part.module or "").partition(".")[0]
        elif isinstance(part, ast.Call) and ast.unparse(part.func).endswith("importorskip"):
            yield from (
                a.value for a in part.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )
