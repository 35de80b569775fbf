"""A mirror that fails, and a run whose folder is gone."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING

from tests.docker.workloads import s3_server
from tests.faults import runs
from tests.faults.row import Row, Way
from tests.faults.runs import EVERY, STEPS
from tests.real.slurm.site import ENDED, ENV

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

ADDRESS = f"s3://{s3_server.BUCKET}/archive"
SECRETS = {"AWS_ACCESS_KEY_ID": "aws-key-id", "AWS_SECRET_ACCESS_KEY": "aws-secret-key"}
FAILS = (["503"] * 3, ["cut"] * 3, ["slow"] * 6)
SLOWER = ("args.step-delay=1.0",)  # an upload begins with imports
SLOW = 2.0  # seconds that a request takes then


def mirror_fails(site: Site) -> Row:
    """In turn, once the checkpoint before is there; steps are slower, so that there is time for it."""
    with s3_server.Server(site.cluster.network.head, SLOW) as s3:
        s3.where = "step-"
        s3.faults.extend(FAILS[0])
        run = site.submit(*runs.TRAIN, "name=mirrored", *SLOWER, *mirrored(site, s3))
        for number, kind in enumerate(FAILS[1:], 1):
            site.wait(run, lambda _: len(s3.tags()) >= number or tag(number) in s3.tags(), runs.LIMIT)  # noqa: B023
            s3.faults.extend(kind)
        end = site.wait(run, lambda now: now["state"] in ENDED, runs.LIMIT)
        assert end["state"] == "SUCCEEDED", site.all_logs(run)
        assert {*s3.failed} == {kind for kinds in FAILS for kind in kinds}, "it was not asked often enough"
        assert s3.tags() == sorted(runs.complete(site, run)) == [tag(STEPS // EVERY - 1), tag(STEPS // EVERY)]
        assert same(site, run, s3)
    assert len(site.starts(run)) == 1
    seen = "nothing: training goes on; the newest checkpoints are at the mirror, whole, when the run ends"
    what = f"the mirror answers 503, then cuts connections, then takes {SLOW:.0f} s for each request"
    return Row(what, seen, "nothing", losses=runs.equal(site, run, 2), told=runs.told(site, run))


def folder_is_gone(site: Site) -> Row:
    """The run's folder is on a disk that is lost, with all checkpoints; the same job is submitted again."""
    with s3_server.Server(site.cluster.network.head) as s3:
        words = (*runs.TRAIN, "name=gone", *SLOWER, *mirrored(site, s3))
        run = site.submit(*words)
        site.wait(run, lambda _: bool(s3.tags()), runs.LIMIT)
        site.launcher("cancel", run)
        site.wait(run, lambda now: now["state"] == "CANCELLED", runs.LIMIT)
        site.cluster.wait_for_state(site.status(run)["native_id"], "CANCELLED")
        before, kept = runs.taken(site, run), s3.tags()[-1]
        assert runs.equal(site, run, 2)
        shutil.rmtree(site.path(run))
        began = time.time()
        assert site.submit(*words) == run
        end = site.wait(run, lambda now: now["state"] in ENDED, runs.LIMIT)
        assert end["state"] == "SUCCEEDED", site.all_logs(run)
        (start,) = site.starts(run)
        assert start["resumed_from"] == kept
        assert s3.tags() == sorted(runs.complete(site, run))
    steps = runs.taken(site, run)
    assert {r["step"] for r in (*before, *steps)} == set(range(1, STEPS + 1))
    twice = before[-1]["step"] - start["step"]
    script = min(p.stat().st_mtime for p in site.path(run).glob("hostfile-*"))
    load = start["spent"].get("load", 0.0)
    parts = {"submission": script - began, "start, with the fetching": start["time"] - script - load}
    parts |= {"load": load, "first step": steps[0]["time"] - start["time"]}
    lost = f"{twice} steps done again" if twice else "nothing"
    seen = f"the same job again: `checkpoint {kept} is fetched from the mirror`"
    return Row(
        "the run's folder is gone, and there is a mirror",
        seen,
        lost,
        Way(None, tuple(parts.items())),
        runs.equal(site, run, 2),
        runs.told(site, run),
    )


def mirrored(site: Site, s3: s3_server.Server) -> list[str]:
    """Settings of a job that uploads to the server; its keys are secrets."""
    folder, variables = site.folder / "secrets", s3.variables
    folder.mkdir(mode=0o700, exist_ok=True)
    env: dict[str, object] = {name: value for name, value in variables.items() if name not in SECRETS}
    env |= ENV  # which the setting replaces
    for name, file in SECRETS.items():
        (folder / file).write_text(variables[name])
        (folder / file).chmod(0o600)
        env[name] = {"secret": file}
    return [
        f"checkpoint.mirror={ADDRESS}",
        f"env={json.dumps(env)}",
        f"cluster.slurm.secrets={json.dumps(str(folder))}",
    ]


def tag(number: int) -> str:
    """The number-th checkpoint."""
    return f"step-{number * EVERY:08d}"


def same(site: Site, run: str, s3: s3_server.Server) -> bool:
    """Whether each file of the complete checkpoints is at the mirror, byte for byte."""
    folder = site.path(run) / "checkpoints"
    return all(
        s3.objects.get(f"archive/{run}/{path.relative_to(folder)}") == path.read_bytes()
        for name in runs.complete(site, run)
        for path in (folder / name).rglob("*")
        if path.is_file()
    )
