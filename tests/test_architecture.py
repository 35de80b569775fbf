"""The folder list is the architecture: layers, and who may use what (pyproject.toml), and the two halves apart."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import ROOT, schedulers

IN_IMAGES = sorted((ROOT / "docker").rglob("*.py"))
EVERYWHERE = sorted([*(ROOT / "launcher").rglob("*.py"), *IN_IMAGES, *(ROOT / "tests").rglob("*.py")])
# Modules without a test file of their name: (folder, the test that holds them, their names). A verb is tested by its
# command line, a fabric by all that every fabric must have, a part of an algorithm by the algorithm's own test.
TESTED_BY = (
    ("docker", "docker/test_node.py", "ending logs"),
    ("docker", "docker/test_preflight.py", "allreduce links"),
    ("docker/imagebuild", "docker/imagebuild/test_build.py", "export wheels"),
    ("docker/imagebuild", "docker/imagebuild/test_wheel.py", "ops"),
    (
        "docker/workloads",
        "docker/workloads/test_chat.py",
        "chat_dpo chat_reward chat_rl chat_sft examples judges rewards",
    ),
    ("docker/workloads", "docker/workloads/test_finetune.py", "architectures trainers"),
    ("docker/workloads", "docker/workloads/test_generate.py", "inference"),
    ("docker/workloads", "docker/workloads/test_ppo.py", "chat_ppo"),
    ("docker/workloads", "docker/workloads/test_text.py", "tokenizer"),
    ("docker/workloads", "docker/workloads/test_trials.py", "startup zero"),
    ("launcher", "test_errors.py", "errors"),
    ("launcher/cli", "launcher/cli/test_main.py", "arguments streams"),
    (
        "launcher/cli/verbs",
        "launcher/cli/test_main.py",
        "allocation check launch look pipelines plan report runs shared",
    ),
    ("launcher/doctor", "launcher/doctor/test_doctor.py", "looking machine ops"),
    (
        "launcher/fabrics",
        "launcher/fabrics/test_environment.py",
        "aws azure gcp generic lint model oracle variables",
    ),
    ("launcher/files", "launcher/files/test_load.py", "cluster fields job shared"),
    ("launcher/files", "launcher/schedulers/kubernetes/test_values.py", "kubernetes_syntax"),
    ("launcher/files", "launcher/submission/test_pipelines.py", "pipeline"),
    ("launcher/images", "launcher/planning/test_image_check.py", "facts registry"),
    ("launcher/planning", "launcher/planning/test_capacity.py", "fit"),
    ("launcher/planning", "launcher/cli/test_main.py", "workspace"),
    ("launcher/rendering", "launcher/rendering/test_quoting.py", "command templates"),
    ("launcher/reports", "launcher/planning/test_capacity.py", "estimate limits"),
    ("launcher/reports", "launcher/reports/test_pictures.py", "bars charts png"),
    ("launcher/reports", "launcher/schedulers/test_slurm.py", "sweep"),
    ("launcher/runs", "launcher/runs/test_causes.py", "diagnosis logs status"),
    ("launcher/runs", "launcher/schedulers/test_slurm.py", "badhosts sweeps"),
    (
        "launcher/schedulers/kubernetes",
        "launcher/schedulers/kubernetes/test_manifests.py",
        "kinds queues security trainer",
    ),
    (
        "launcher/schedulers/kubernetes",
        "launcher/schedulers/kubernetes/test_verbs.py",
        "following hosts",
    ),
    ("launcher/schedulers/kubernetes", "launcher/schedulers/kubernetes/test_podlogs.py", "kept mirror"),
    ("launcher/schedulers/slurm", "launcher/schedulers/test_slurm.py", "options query states submission"),
    ("launcher/sizing", "launcher/sizing/test_memory.py", "setup states"),
    ("launcher/sizing", "launcher/sizing/test_models.py", "architecture families"),
    ("launcher/sizing", "launcher/sizing/test_traffic.py", "gpus"),
    ("launcher/submission", "launcher/schedulers/test_local.py", "placement submit"),
)
# Names that say nothing of what is inside.
VAGUE = {"utils", "util", "helpers", "helper", "base", "manager", "common", "core", "misc"}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def test_imports_keep_the_contracts() -> None:
    words = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", IN_IMAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_in_the_images_stands_alone(path: Path) -> None:
    assert not imported(path) & {"launcher", "tests"}


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


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not text or ast.get_docstring(ast.parse(text)), "the first line says what the module owns"


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


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_scheduler_has_the_functions_of_the_protocol(name: str) -> None:
    module = schedulers.load(name)
    for verb in ("render", "submit", "status", "logs", "cancel"):
        wanted = list(inspect.signature(getattr(schedulers.Scheduler, verb)).parameters)[1:]
        assert list(inspect.signature(getattr(module, verb)).parameters) == wanted
    assert set(schedulers.ALIASES.values()) <= set(schedulers.SCHEDULERS)
