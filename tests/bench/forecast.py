"""`python -m tests.bench.forecast`: how far forecasts are from step times, before and after five runs correct them.

Owns the configurations and the errors. Fifteen tiny GPTs train on two CPU ranks of this machine, by a user's command
line: `cluster probe`, `local` for each, `cluster measured` with the first five. Of the ten others the error is that of

    bound      every product at the best rate of the probe, links and memory at theirs: what `plan` says "at best", and
               all that it says before the cluster is calibrated
    probe      the forecast from the probe alone
    five runs  the forecast that five runs corrected

and beside it how many of them lie within the forecast's bar. Takes minutes; nothing here is a test.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import ROOT
from launcher.files import load
from launcher.files.measured import Measured
from launcher.planning import forecast, recorded, residuals
from launcher.reports import tables
from launcher.runs import measuring
from launcher.sizing import gpus, traffic

if TYPE_CHECKING:
    from launcher.planning.fit import Estimate

CLUSTER = "slots: 2\nfabric: loopback\ninterface: lo\n"
STEPS = 10


class Case(NamedTuple):
    """A tiny GPT and how it trains; `family` is gpt2 or llama."""

    family: str
    hidden: int
    layers: int
    sequence: int
    micro: int
    accumulation: int
    stage: int
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return (
            f"{self.family}-{self.hidden}x{self.layers}-s{self.sequence}-b{self.micro}x{self.accumulation}"
            f"-z{self.stage}-{self.precision}"
        )


# The first five correct; they span widths, lengths, accumulation and stages. The ten others lie between and beyond.
CASES = (
    Case("gpt2", 64, 2, 64, 2, 1, 1),
    Case("gpt2", 256, 4, 128, 4, 1, 2),
    Case("llama", 128, 8, 64, 2, 2, 3),
    Case("llama", 512, 2, 256, 2, 1, 1),
    Case("gpt2", 128, 4, 128, 2, 4, 2),
    Case("gpt2", 64, 8, 128, 2, 1, 1),
    Case("gpt2", 128, 2, 256, 4, 1, 2),
    Case("gpt2", 256, 2, 64, 2, 2, 3),
    Case("gpt2", 384, 4, 128, 2, 1, 1),
    Case("gpt2", 512, 4, 128, 2, 1, 2),
    Case("llama", 64, 4, 64, 4, 2, 1),
    Case("llama", 128, 4, 128, 4, 1, 2),
    Case("llama", 256, 8, 64, 2, 1, 1),
    Case("llama", 256, 4, 256, 2, 1, 3),
    Case("llama", 384, 2, 128, 4, 2, 2),
)
CORRECTING = 5


def write(folder: Path, case: Case) -> Path:
    """The job file of a case, and its model's folder."""
    heads = max(2, case.hidden // 64)
    config: dict[str, Any] = {"model_type": case.family, "vocab_size": 512}
    if case.family == "gpt2":
        dropouts = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        config |= {
            "n_positions": 256,
            "n_embd": case.hidden,
            "n_layer": case.layers,
            "n_head": heads,
            **dropouts,
        }
    else:
        config |= {
            "hidden_size": case.hidden,
            "intermediate_size": 3 * case.hidden,
            "num_hidden_layers": case.layers,
        }
        config |= {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 256}
    model = folder / f"model-{case.name}"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    job = {
        "name": case.name,
        "cluster": "./here.yaml",
        "walltime": "30m",
        "model": str(model),
        "precision": case.precision,
        "batch": {"micro": case.micro, "accumulation": case.accumulation},
        "deepspeed": f"zero{case.stage}",
        "args": {"seq-length": case.sequence, "max-steps": STEPS, "lr": 1e-3, "log-every": 1},
        "checkpoint": {"every": 1000},
    }
    path = folder / f"{case.name}.yaml"
    path.write_text(json.dumps(job))
    return path


def launcher(folder: Path, *words: str) -> str:
    """What a command printed. Raises CalledProcessError when it fails."""
    env = {**os.environ, "LAUNCHER_RUNS": str(folder / "runs"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launcher", *words]
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def at_best(estimate: Estimate, found: Measured, precision: str) -> float:
    """The bound of a machine whose data sheet says the best that the probe saw."""
    probe = found.probe
    best = max(m.rate.high for m in probe.matrix if m.type == precision)
    link = max(c.rate.high for c in probe.collectives)
    card = gpus.Gpu(
        name="CPU",
        memory=0,
        flops=int(best),
        bandwidth=int(probe.memory.high),
        link=int(link),
        host=int(probe.memory.high),
        capability=(0, 0),
    )
    evaluation = estimate.evaluation
    bound = traffic.bound(
        estimate.model, evaluation.settings, evaluation.setup, gpu=card, rates=traffic.Rates(None)
    )
    assert bound.step
    return bound.step


def main() -> None:
    """Measure in a folder that goes afterwards, or stays where the command line names it."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        run(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory(prefix="forecast-") as made:
        run(Path(made).resolve())


def run(folder: Path) -> None:
    (folder / "here.yaml").write_text(CLUSTER)
    print(launcher(folder, "cluster", "probe", "./here.yaml", "--on", "local"))
    paths = [write(folder, case) for case in CASES]
    for path in paths:
        launcher(folder, "local", path.name, "--wait")
    ids = [next((folder / "runs").glob(f"{case.name}-*")).name for case in CASES]
    words = [word for name in ids[:CORRECTING] for word in ("--from", name)]
    print(launcher(folder, "cluster", "measured", "./here.yaml", *words))
    report(folder / "runs", ids, kept(folder))


def kept(folder: Path) -> Measured:
    """What is beside the cluster file now."""
    from launcher.files import measured

    path = load.measured_path(folder / "here.yaml")
    found = measured.parse(path.read_text(), path.name)
    assert isinstance(found, Measured), found
    return found


def report(runs: Path, ids: list[str], found: Measured) -> None:
    """The step times, the three forecasts of each, and the errors of the ten that corrected nothing."""
    alone = Measured(**{**vars(found), "runs": []})
    rows, errors, within = list[tuple[str, ...]](), list[tuple[float, float, float]](), 0
    for index, name in enumerate(ids):
        own = measuring.folder(name, runs / name)
        ran = measuring.figures(own, found.probe)
        estimate, precision = recorded.estimate(own.plan), str(own.plan["precision"])
        assert estimate
        assert not isinstance(ran, str), ran
        before, after = (forecast.make(estimate, precision, one) for one in (alone, found))
        assert before
        assert after
        told = (at_best(estimate, found, precision), before.step, after.step)
        off = tuple(value / ran.seconds - 1 for value in told)
        if index >= CORRECTING:
            errors.append((abs(off[0]), abs(off[1]), abs(off[2])))
            within += after.low <= ran.seconds <= after.high
        mark = "" if index >= CORRECTING else " (corrects)"
        cells = [f"{value:.3g} s ({o:+.0%})" for value, o in zip(told, off, strict=True)]
        rows.append((f"{CASES[index].name}{mark}", f"{ran.seconds:.3g} s", *cells))
    print(tables.table(rows, ("CASE", "STEP", "BOUND", "PROBE", "FIVE RUNS")))
    for kind, summed in (("mean", statistics.fmean), ("median", statistics.median), ("largest", max)):
        figures = [f"{summed(column):.0%}" for column in zip(*errors, strict=True)]
        print(
            f"{kind} error of the ten others: bound {figures[0]}, probe {figures[1]}, five runs {figures[2]}"
        )
    print(f"{within} of {len(errors)} lie within the bar")
    line = residuals.fit([residuals.Point(r.predicted, r.passes, r.seconds) for r in found.runs])
    print(
        f"correction: {line.scale:.3g} × the probe's forecast + {line.each * 1e3:.3g} ms for each pass of a layer"
    )


if __name__ == "__main__":
    main()
