"""A model is fetched before the ranks of any host start; a host that cannot fetch it ends the run everywhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import commandline
from tests.docker import entries, fakehub
from tests.docker.workloads import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FETCH = ("--fetch", fakehub.MODEL)
RANK = entries.READY + "ready()"
NEVER = {"info": [429] * 10_000}
# What a rank finds: its own host's cache, whole
LOOK = """
import os, pathlib
weights = pathlib.Path(os.environ["HF_HOME"]).glob("hub/models--team--tiny/snapshots/*/model.safetensors")
print(*[path.stat().st_size for path in weights])
"""


@pytest.fixture
def hub() -> Iterator[fakehub.Hub]:
    with fakehub.running() as hub:
        yield hub


def variables(hub: fakehub.Hub, home: Path, **more: str) -> dict[str, str]:
    clean = dict.fromkeys(("HF_HUB_OFFLINE", "HF_TOKEN"), "")
    return {**clean, "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}


@pytest.mark.parametrize("shared", [True, False])
def test_it_is_there_when_the_ranks_start(
    shared: bool, hub: fakehub.Hub, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job(hosts=2, slots=2)
    for index in range(2):
        home = job.folder / ("cache" if shared else f"cache-{index}")
        begin(job, index, LOOK, variables(hub, home))
    assert job.codes() == [0, 0], [job.said(i) for i in range(2)]
    assert [job.log(rank) for rank in range(4)] == [f"{len(fakehub.WEIGHTS)}\n".encode()] * 4
    assert hub.asked["get model.safetensors"] == (1 if shared else 2)
    assert "node: model team/tiny: 3 files" in job.said(0)


def test_no_rank_starts_where_one_host_cannot_fetch(
    hub: fakehub.Hub, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job(hosts=3)
    for index in range(3):
        more = {"HF_HUB_OFFLINE": "1"} if index == 1 else {}
        begin(job, index, RANK, variables(hub, job.folder / f"c{index}", **more))
    assert job.codes() == [64, 64, 64], [job.said(i) for i in range(3)]
    assert job.outcome()[:2] == (64, -1)
    assert "HF_HUB_OFFLINE is set, and it is not in the cache" in job.said(1)
    for other in (0, 2):
        assert "error: 127.0.0.2: team/tiny could not be fetched" in job.said(other)
    assert not list(job.folder.glob("ready-*"))


@pytest.mark.parametrize("failing", [0, 1])
def test_no_host_goes_on_trying_when_another_has_failed(
    failing: int, hub: fakehub.Hub, new_job: Callable[..., entries.Job]
) -> None:
    hub.refusals = dict(NEVER)  # the others would try for minutes
    job = new_job(hosts=3)
    for index in range(3):
        more = {"HF_HUB_OFFLINE": "1"} if index == failing else {}
        begin(job, index, RANK, variables(hub, job.folder / f"c{index}", **more))
    assert job.codes() == [64, 64, 64], [job.said(i) for i in range(3)]
    assert job.outcome()[:3] == (64, -1, f"127.0.0.{failing + 1}"), "whoever writes it first"
    for other in {0, 1, 2} - {failing}:
        assert f"error: 127.0.0.{failing + 1}: team/tiny could not be fetched" in job.said(other)
        assert "tries without progress" not in job.said(other)


def test_tokenizers_come_without_weights(hub: fakehub.Hub, new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    home: dict[str, Any] = variables(hub, job.folder / "cache")
    job.start(0, LOOK, "--fetch-tokenizer", fakehub.MODEL, **home)
    assert job.codes() == [0], job.said(0)
    assert job.log(0) == b"\n"
    assert "node: tokenizer team/tiny: 2 files" in job.said(0)


def begin(job: entries.Job, index: int, program: str, env: dict[str, str]) -> None:
    job.start(index, program, *FETCH, **env)  # type: ignore[arg-type]


def waiting(job: entries.Job, index: int) -> None:
    entries.until(lambda: "the next try is in" in job.said(index), f"host {index} waits for the hub")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75)])
def test_a_signal_ends_it(
    number: signal.Signals, code: int, hub: fakehub.Hub, new_job: Callable[..., entries.Job]
) -> None:
    hub.refusals = dict(NEVER)
    job = new_job()
    begin(job, 0, RANK, variables(hub, job.folder / "cache"))
    waiting(job, 0)
    children = [int(pid) for pid in children_of(job.entries[0].pid)]
    job.entries[0].send_signal(number)
    assert job.codes() == [code]
    entries.until(lambda: not any(map(entries.lives, children)), "its process is gone")


def test_a_host_that_is_lost_meanwhile_ends_the_others(
    hub: fakehub.Hub, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job(hosts=3)
    with fakehub.running() as silent:
        silent.refusals = dict(NEVER)
        for index in range(3):
            told = silent if index == 2 else hub
            begin(job, index, RANK, variables(told, job.folder / f"c{index}"))
        waiting(job, 2)
        children = [int(pid) for pid in children_of(job.entries[2].pid)]
        job.entries[2].kill()
        assert job.codes() == [70, 70, -9], [job.said(i) for i in range(3)]
        entries.until(lambda: not any(map(entries.lives, children)), "its process is gone with it")
    assert "lost 127.0.0.3 before all had fetched from the hub" in job.said(0)


def test_without_the_option_nothing_is_asked(hub: fakehub.Hub, new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    job.start_all(entries.MEET)
    assert job.codes() == [0, 0]
    assert not hub.asked


SETTINGS = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.mark.deepspeed
def test_a_job_trains_what_the_hub_has(hub: fakehub.Hub, tmp_path: Path) -> None:
    """Two ranks, and the hub sends the weights once, cut in the middle."""
    hub.files = {path.name: path.read_bytes() for path in tiny.save(tmp_path / "tiny", SETTINGS).iterdir()}
    hub.refusals, hub.cuts = {"info": [429]}, [1000]
    words = ["local", "jobs/smoke/zero3.yaml", "--wait", "--set", f"model={fakehub.MODEL}"]
    words += ["--set", "args.max-steps=2", "--set", "args.tokenizer=auto"]
    env = {**os.environ, **variables(hub, tmp_path / "cache"), "LAUNCHER_RUNS": str(tmp_path / "runs")}
    commandline.launcher(words, env)
    (run,) = (tmp_path / "runs").iterdir()
    assert '"step": 2' in (run / "metrics.jsonl").read_text()
    assert hub.asked["get model.safetensors"] == 2, "the second goes on where the first was cut"
    said = "".join(path.read_text() for path in (run / "logs").glob("*.log"))
    assert "node: model team/tiny: ready after" in said


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
