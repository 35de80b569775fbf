"""Probes and finished runs become NAME.measured.json: by hand, by `cluster measured`, and never over what was there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.errors import SpecError
from launcher.files import measured, validation
from launcher.planning import plan
from launcher.runs import measuring, record
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_790_000_000.0
FEWER = {"event": "start", "step": 0, "world_size": 1}  # nodes: {min, max}, after a host was lost
STEPS = (9.0, 0.5, 0.4, 0.6, 0.5)  # the first compiles


def lines(steps: tuple[float, ...] = STEPS, end: str = "done") -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"step": n, "step_seconds": s, "memory_bytes": 1e8, "loss": 1.0} for n, s in enumerate(steps, 1)
    ]
    made.append({"event": "checkpoint", "step": 4, "seconds": 2.0})
    return [*made, {"event": "end", "step": len(steps), "status": end}]


def folder(
    runs: Path,
    name: str,
    metrics: list[dict[str, Any]] | None = None,
    *,
    probe: Any = None,
    file: str = "job.yaml",
    **job: Any,
) -> measuring.Folder:
    """A run folder as a submission and its ranks leave it."""
    path = runs / name
    path.mkdir(parents=True)
    settings = [f"{key}={json.dumps(value)}" for key, value in job.items()]
    loaded = samples.loaded(str(runs.parent / file), None, settings)
    made = plan.make(loaded, samples.SITE._replace(runs=str(runs)))._replace(id=name)
    (path / "plan.json").write_text(record.plan_text(made))
    if metrics is not None:
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if probe is not None:
        (path / "probe.json").write_text(probe if isinstance(probe, str) else json.dumps(probe))
    record.record(record.prepared(path, "local"), "123", NOW)
    return measuring.folder(name, path)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(samples.JOB)
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    (tmp_path / "probe.yaml").write_text("name: p\ncluster: here.yaml\nworkload: probe\n")
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def probe_of(**fields: Any) -> measured.Probe:
    return validation.build(measured.Probe, samples.probed(**fields))


def test_a_finished_run_says_what_its_steps_took(runs: Path) -> None:
    found = measuring.figures(folder(runs, "demo-1", [{**FEWER, "world_size": 2}, *lines()]), probe_of())
    assert isinstance(found, measured.Ran)
    assert found.seconds == 0.5  # the median, without the first
    assert found.predicted > 0
    assert (found.checkpoint_seconds, found.memory) == (2.0, None)  # a process's memory has all that it read


@pytest.mark.parametrize(
    ("name", "metrics", "job", "why"),
    [
        ("failed", lines(end="failed"), {}, "it has not ended well"),
        ("running", lines()[:-1], {}, "it has not ended well"),
        ("nothing", None, {}, "it has not ended well"),
        ("short", lines(STEPS[:3]), {}, "it logged 2 steps after its first, and 3 are the least"),
        ("other", lines(), {"workload": "startup", "args": {}}, "is not estimated"),
        ("fewer", [FEWER, *lines()], {}, "it ran on 1 ranks, and its plan is of 2"),
    ],
)
def test_what_a_run_does_not_say(
    name: str, metrics: list[dict[str, Any]] | None, job: dict[str, Any], why: str, runs: Path
) -> None:
    found = measuring.figures(folder(runs, name, metrics, **job), probe_of())
    assert isinstance(found, str)
    assert why in found


def test_other_hosts_than_the_cluster_file_says_are_refused(runs: Path) -> None:
    own = folder(runs, "probe-1", probe={})

    def refused(cluster: dict[str, Any], **fields: Any) -> str:
        with pytest.raises(SpecError) as error:
            measuring.of_probe(own, json.dumps(samples.probed(**fields)), samples.cluster(**cluster), now=NOW)
        return str(error.value)

    assert "ran 2 ranks, and the cluster file says slots: 4" in refused({"slots": 4})
    assert "ran on the CPU, and the cluster file says gpu: h100-80gb" in refused({"gpu": "h100-80gb"})
    host = samples.probed()["hosts"][0]
    a100 = {**host, "gpu": "NVIDIA A100-SXM4-80GB", "memory": int(79.25 * 2**30)}
    said = refused({"gpu": "h100-80gb"}, device="cuda", hosts=[a100])
    assert "n1 has NVIDIA A100-SXM4-80GB (a100-80gb), and the cluster file says gpu: h100-80gb" in said
    h100 = {**host, "gpu": "NVIDIA H100 80GB HBM3", "memory": int(79.1 * 2**30)}
    taken = samples.probed(device="cuda", hosts=[h100])
    found = measuring.of_probe(own, json.dumps(taken), samples.cluster(gpu="h100-80gb"), now=NOW)
    assert (found.gpu, found.run, found.measured) == ("h100-80gb", "probe-1", "2026-09-21T14:13:20Z")
    for torn in ('{"format": 1', "[" * 99_999, "{}"):
        with pytest.raises(SpecError, match=r"its probe\.json is"):
            measuring.of_probe(own, torn, samples.cluster(), now=NOW)


def kept(runs: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs.parent / "here.measured.json").read_text())
    return found


def measure(runs: Path, *words: str, code: int = 0) -> None:
    assert main.main(["cluster", "measured", str(runs.parent / "here.yaml"), *words]) == code


def test_what_runs_here_left_is_collected(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(runs, code=2)
    assert "measure it first: launcher cluster probe" in capsys.readouterr().err
    folder(runs, "probe-1", probe=samples.probed(), file="probe.yaml")
    folder(runs, "demo-1", lines())
    folder(runs, "demo-2", lines(end="failed"))
    measure(runs)
    out, err = capsys.readouterr()
    assert (kept(runs)["run"], [r["run"] for r in kept(runs)["runs"]]) == ("probe-1", ["demo-1"])
    assert "demo-1" in out
    assert "passed over" not in err  # nobody asked for the one that failed
    assert not (runs.parent / "here.measured.json.1").exists()
    # what is written is read, by a plan too
    assert main.main(["plan", str(runs.parent / "job.yaml")]) == 0
    assert "and 1 finished run" in capsys.readouterr().out


def test_the_newest_figure_holds_and_the_file_before_is_kept(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(runs, "probe-1", probe=samples.probed(), file="probe.yaml")
    folder(runs, "demo-1", lines())
    measure(runs)
    before = kept(runs)
    half = [{**m, "rate": samples.rate(m["rate"]["value"] / 2)} for m in samples.probed()["matrix"]]
    newer = samples.probed(matrix=half, time=1_790_000_001)
    folder(runs, "probe-2", probe=newer, file="probe.yaml")
    folder(runs, "demo-3", lines((9.0, *[0.7] * 4)))
    capsys.readouterr()
    measure(runs, "--from", "probe-2", "--from", "demo-3")
    assert json.loads((runs.parent / "here.measured.json.1").read_text()) == before
    assert "what was there before is" in capsys.readouterr().err
    now = {ran["run"]: ran for ran in kept(runs)["runs"]}
    assert (kept(runs)["run"], list(now)) == ("probe-2", ["demo-1", "demo-3"])
    # the earlier run is compared with the new probe, which computes at half the rate
    assert now["demo-1"]["predicted"] > 1.2 * before["runs"][0]["predicted"]


def test_a_run_that_deepspeed_slowed_to_time_it_corrects_nothing(runs: Path) -> None:
    """wall_clock_breakdown waits for the device several times a step."""
    slowed = folder(runs, "demo-1", lines(), profile={"breakdown": True})
    assert measuring.figures(slowed, probe_of()) == "profile.breakdown has made its steps slower"


def test_runs_that_are_named_must_say_something(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(runs, "probe-1", file="probe.yaml")
    measure(runs, "--from", "probe-1", code=2)
    assert "probe-1 has measured nothing" in capsys.readouterr().err
    measure(runs, "--from", "absent", code=5)
    (runs / "probe-1" / "probe.json").write_text(json.dumps(samples.probed()))
    folder(runs, "demo-2", lines(end="failed"))
    measure(runs, "--from", str(runs / "probe-1"), "--from", "demo-2")
    assert "passed over demo-2: it has not ended well" in capsys.readouterr().err


def test_a_run_folder_in_the_cluster_is_read_from_the_log(runs: Path) -> None:
    own = folder(runs, "probe-1", file="probe.yaml")
    (own.path / "logs").mkdir()
    (own.path / "logs" / "rank-0.log").write_text(f"matrix\nprobe.json: {json.dumps(samples.probed())}\n")
    measure(runs, "--from", "probe-1")
    assert kept(runs)["run"] == "probe-1"


def test_a_measured_file_that_is_torn_is_measured_anew(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(runs, "probe-1", probe=samples.probed(), file="probe.yaml")
    (runs.parent / "here.measured.json").write_text("{")
    measure(runs)
    assert "not JSON" in capsys.readouterr().err
    assert kept(runs)["run"] == "probe-1"
    assert (runs.parent / "here.measured.json.1").read_text() == "{"
