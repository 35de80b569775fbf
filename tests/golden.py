"""Writes and compares the files that tests/golden/ and tests/errors/ keep: `make golden` writes, pytest never does.

Owns how each is produced; test_golden.py and test_errors.py compare. A golden file that nothing produces is an error.

    tests/golden/<job>/<file>       what each scheduler renders of every jobs/**/*.yaml; of a pipeline, each stage
    tests/golden/tune/<file>        what each scheduler renders of a tuning run
    tests/golden/clusters/<file>    what `cluster discover` writes of the answers in launcher/discovery/answers.py
    tests/golden/fabrics/<name>.env what `env` prints of each fabric
    tests/golden/kubernetes/<file>  what Kubernetes gets in other kinds, queues and fabrics (kubernetes/variants.py)
    tests/errors/<case>.case        a command line and the files it reads; <case>.txt is its exit code and stderr
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from launcher import ROOT, schedulers
from launcher.cli import main as cli_main
from launcher.errors import LauncherError
from launcher.fabrics import FABRICS, environment
from launcher.files import load
from launcher.planning import plan, space, tuning
from tests import samples
from tests.launcher.discovery import answers
from tests.launcher.schedulers.kubernetes import variants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.fabrics.model import Fabric
    from launcher.files.stages import Stages

HERE = Path(__file__).parent
GOLDEN, ERRORS = HERE / "golden", HERE / "errors"


def job_files() -> list[Path]:
    """Every job that ships: jobs/ without clusters and schemas."""
    return sorted(p for p in (ROOT / "jobs").rglob("*.yaml") if p.parent.name != "clusters")


def rendered() -> dict[Path, str]:
    """Golden path → text, for every job and scheduler. A scheduler that cannot run a job says so in the file."""
    made: dict[Path, str] = {}
    for path in job_files():
        name = path.relative_to(ROOT / "jobs").with_suffix("")
        # a path beside the job file would be this checkout's
        given = (
            ["args.prompts=/data/prompts.txt"] if "prompts: ./" in path.read_text(encoding="utf-8") else []
        )
        stages = load.load(str(path.relative_to(ROOT)), settings=given)
        if stages.name:
            made |= _rendered_pipeline(stages, GOLDEN / f"{name}-pipeline")
            continue
        decided = plan.make(load.load_stage(stages.stages[0]), samples.SITE)
        for scheduler in schedulers.SCHEDULERS:
            folder = GOLDEN / name / scheduler
            made |= {folder / file: text for file, text in _rendered(decided, scheduler).items()}
    made |= _rendered_tuning()
    made |= {GOLDEN / "clusters" / file: text for file, text in answers.rendered().items()}
    made |= {GOLDEN / "fabrics" / f"{name}.env": _exports(fabric) for name, fabric in FABRICS.items()}
    made |= {GOLDEN / "kubernetes" / file: text for file, text in variants.rendered().items()}
    return made


def _rendered(decided: plan.Plan, scheduler: str) -> dict[str, str]:
    try:
        return schedulers.load(scheduler).render(decided)
    except LauncherError as error:
        return {"refused.txt": f"exit {error.exit_code}\n{error}\n"}


def _rendered_tuning() -> dict[Path, str]:
    """A tuning run of two candidates on two hosts."""
    settings = ["nodes=2", "cluster.fabric=tcp", "cluster.image=registry.example.com/deepspeed-train"]
    loaded = samples.loaded("jobs/quickstart.yaml", settings=[*settings, "cluster.kubernetes.runs=runs"])
    asked = space.parse(["preset=zero1,zero3", "micro=4", "checkpointing=false"])
    decided = tuning.make(loaded, samples.SITE, "", tuning.Wishes(asked, steps=5, limit=600, most=24))
    return {
        GOLDEN / "tune" / scheduler / file: text
        for scheduler in schedulers.SCHEDULERS
        for file, text in _rendered(decided, scheduler).items()
    }


def _exports(fabric: Fabric) -> str:
    return environment.text(environment.environment(fabric, gpu=True, interface=None), fabric.script)


def _rendered_pipeline(stages: Stages, folder: Path) -> dict[Path, str]:
    """Each stage as it is submitted here and on Slurm, where those before it are the jobs 101, 102…"""
    plans, texts = dict[str, plan.Plan](), dict[Path, str]()
    for stage in stages.stages:
        loaded = load.load_stage(stage, {name: before.folder for name, before in plans.items()})
        plans[stage.name] = plan.make(loaded, samples.SITE)
        ids = {"slurm": {name: str(101 + i) for i, name in enumerate(plans)}, "local": {}}
        for scheduler, called in ids.items():
            after = tuple(called.get(name, plans[name].folder) for name in stage.needs)
            waiting = plans[stage.name]._replace(after=after)
            for file, text in _rendered(waiting, scheduler).items():
                texts[folder / stage.name / scheduler / file] = text
    return texts


def cases() -> dict[Path, Path]:
    """Each tests/errors/*.case and the file with its exact message."""
    return {p: p.with_suffix(".txt") for p in sorted(ERRORS.glob("*.case"))}


def outcome(case: Path) -> str:
    """What the case's command says: `exit N` and its stderr, the working folder as /here.

    stdout must stay empty, and nothing may stay behind.
    """
    command, *sections = case.read_text(encoding="utf-8").split("\n--- ")
    words = shlex.split(command.removeprefix("$ launcher"))
    err, out = io.StringIO(), io.StringIO()
    with _folder() as folder:
        given = {folder / "runs"}
        for section in sections:
            name, _, text = section.partition("\n")
            path = folder / name
            given |= {path, *path.parents}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            try:
                code = cli_main.main(words)
            except SystemExit as error:
                code = int(error.code or 0)
        leftovers = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p not in given)
    stray = f"stdout: {out.getvalue()}" if out.getvalue() else ""
    left = f"left behind: {leftovers}\n" if leftovers else ""
    return f"exit {code}\n{err.getvalue()}{stray}{left}".replace(str(folder), "/here")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty working folder, with nothing on PATH and no cluster configured."""
    before = Path.cwd()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "LAUNCHER_", "KUBE", "HF_"))}
    with tempfile.TemporaryDirectory() as made, mock.patch.dict(os.environ, clean, clear=True):
        folder = Path(made).resolve()
        os.environ.update(PATH=str(folder), HOME=str(folder), KUBECONFIG=f"{folder}/absent")
        os.environ.pop("XDG_STATE_HOME", None)
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def main() -> int:
    """Write everything; with --check only say what is out of date."""
    wanted = rendered() | {text: outcome(case) for case, text in cases().items()}
    there = {p for p in GOLDEN.rglob("*") if p.is_file()} | set(ERRORS.glob("*.txt"))
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    orphans = sorted(there - set(wanted))
    if "--check" in sys.argv:
        for path in [*stale, *orphans]:
            print(f"out of date: {path.relative_to(HERE.parent)}; run `make golden`", file=sys.stderr)
        return 1 if stale or orphans else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    for path in orphans:
        path.unlink()
    print(f"{len(stale)} written, {len(orphans)} removed, {len(wanted)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
