"""Run folders as runs, users' own programs, other users and crashes leave them.

Owns records that the launcher reads back: valid ones of each scheduler, with places changed and texts damaged.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from launcher.runs import lock, record
from tests import samples
from tests.fuzz import values
from tests.fuzz.values import Raw

if TYPE_CHECKING:
    from random import Random

RUNS = ("demo-16fb92", "demo-16fb92-2", "demo-77aa00")
NATIVE = {"local": "99999:1", "slurm": "36", "kubernetes": "training/job/demo:0-1 site"}
STEP = {"step": 1, "loss": 2.5, "lr": 1e-4, "tokens_per_second": 900.0, "time": 1700000000.0, "max_steps": 4}
EVENTS = (
    {"event": "start", "time": 1700000000.0},
    {"event": "eval", "step": 1, "loss": 2.0},
    {"event": "checkpoint", "tag": "step-1", "time": 1700000001.0},
    {"event": "ready", "url": "http://h:8000"},
)
SHORT_PLAN = {"cluster": {"fabric": "infiniband"}, "job": {"name": "demo"}, "batch": {"micro": 1}}
CODE = {
    **{
        "root": "/x",
        "program": "train.py",
        "files": 1,
        "paths": ["train.py"],
        "bytes": 9,
        "sha256": "0" * 64,
    },
    "left_out": [],
}
KEYS = ("0123456789abcdef", "0123456789abcdee", "fedcba9876543210.removed")
CORPUS = {
    **{"format": 3, "sources": ["/data/a b"], "tokenizer": "bpe:512", "dtype": "uint16", "vocabulary": 512},
    **{
        "tokens": 9,
        "documents": 2,
        "bytes": 40,
        "unigram_entropy": 1.5,
        "longest_document": 5,
        "seconds": 0.1,
    },
    **{"shards": [["00000", 9, 2]], "created": "2026-01-01T00:00:00Z"},
}
CHECKPOINT = {
    "progress": {"step": 1, "samples": 4, "tokens": 64},
    "identity": {
        **{"model": "gpt2", "model_fingerprint": "m", "tokenizer": "bytes", "tokenizer_fingerprint": "t"},
        **{"world_size": 2, "zero_stage": 1, "precision": "bf16"},
    },
    "files": {"states.pt": 8},
    "xxh3_128": {"states.pt": "0f4c8e3b7a0d5c6e9b1a2f3d4c5b6a79"},
}
HOST = {"host": "127.0.0.1", "drivers": {}, "packages": {"torch": "2.13.0"}}


def folders(random: Random, recorded: bool = False) -> dict[str, bytes]:
    """Path → content of the files below the runs folder; with `recorded` mostly runs whose plan and lock are there."""
    made: dict[str, bytes] = {}
    for run in RUNS[: 2 if recorded else random.choice((1, 2, 3))]:
        made |= {f"{run}/{name}": content for name, content in _run(random, run, recorded).items()}
    if random.random() < 0.3:
        points = [{"run": run, "settings": [f"args.lr={at}"]} for at, run in enumerate(RUNS)]
        made["demo-sweep-1/sweep.json"] = _json(random, {"id": "demo-sweep-1", "runs": points})
    if random.random() < 0.3:
        stages = [{"stage": f"s{at}", "run": run, "needs": ["s0"][:at]} for at, run in enumerate(RUNS[:2])]
        made["demo-pipeline-1/pipeline.json"] = _json(random, {"id": "demo-pipeline-1", "stages": stages})
    if random.random() < 0.2:
        made["bad-hosts.txt"] = values.damaged(random, "node7 2099-01-01T00:00:00+00:00 GPU lost\nnode8 x\n")
    return made


def cache(random: Random) -> dict[str, bytes]:
    """Path → content of a cache of prepared texts: whole, unfinished, claimed, damaged."""
    made: dict[str, bytes] = {}
    for key in KEYS:
        if random.random() < 0.8:
            made[f"{key}/corpus.json"] = _json(random, CORPUS)
        for name, share in (("00000.bin", 0.8), ("00000.idx", 0.6), (".00001.idx", 0.2), ("mine.txt", 0.1)):
            if random.random() < share:
                made[f"{key}/{name}"] = b"MMIDIDX\0\0"
        if random.random() < 0.3:
            claim = {"host": "here", "pid": 1, "started": 1.0}
            made[f"{key}/00000.claim"] = _json(random, claim)
    return made


def _checkpoints(random: Random) -> dict[str, bytes]:
    made = {}
    for tag in ("step-00000001", "step-00000002", "checkpoint-3"):
        if random.random() < 0.3:
            made[f"checkpoints/{tag}/states.pt"] = b"12345678"
            made[f"checkpoints/{tag}/complete.json"] = _json(random, CHECKPOINT)
    return made


def _run(random: Random, run: str, recorded: bool) -> dict[str, bytes]:
    scheduler = random.choice(("local", "local", "slurm", "kubernetes"))
    run_record = {
        **{
            "id": run,
            "scheduler": scheduler,
            "native_id": NATIVE[scheduler],
            "folder": "x",
            "submitted": 1.7e9,
        },
        **{"nodes": 2, "slots": 2, "place": {"namespace": "a", "context": "b"}, "former": ["35"]},
    }
    if random.random() < (0.05 if recorded else 0.3):
        run_record["native_id"] = random.choice(
            ("0:", "1:", ":", "²:1", "9" * 5000, "1:x", "36_0", "a/b/c", "-1:1", "1,2")
        )
    whole = recorded and random.random() < 0.85
    made = {"run.json": values.text(run_record).encode() if whole else _json(random, run_record)}
    if random.random() < 0.7:
        made["metrics.jsonl"] = _metrics(random)
    if recorded or random.random() < 0.6:
        plan, locked = _recorded()
        made["plan.json"] = _json(random, plan if whole or random.random() < 0.8 else SHORT_PLAN)
        made["lock.json"] = _json(random, locked)
    if random.random() < 0.3:
        made["code.json"] = _json(random, CODE)
        made["code/train.py"] = b"print(1)\n"
    made |= _checkpoints(random)
    if random.random() < 0.2:
        made["hosts/0.json"] = _json(random, HOST)
    for name, content in (
        ("exit_code", random.choice(("0\n", "1\n", "75\n", "-9\n"))),
        ("outcome-0", "1 0 127.0.0.1 1700000000\n"),
        ("hostfile", "127.0.0.1 slots=2\n127.0.0.2 slots=2\n"),
        ("hostfile-1", "node1 slots=2\nnode2 slots=2\n"),
        ("spares", "node3\n"),
        ("waiting", "waits for demo-77aa00\n"),
        ("cancelled", ""),
        ("job.sh", "#!/bin/bash\n#SBATCH --nodes=2\nexit 0\n"),
        ("manifest.yaml", "kind: Job\nmetadata: {name: demo}\n"),
        ("logs/job.log", "waiting\nRuntimeError: CUDA out of memory\n"),
        ("logs/rank-0.log", "torch.OutOfMemoryError: CUDA out of memory\nNCCL WARN x\n"),
        ("events.jsonl", '{"stamp": "2024-01-01T00:00:00Z"}\n'),
    ):
        if random.random() < 0.35:
            hurt = random.random() < 0.3
            made[name] = values.damaged(random, content) if hurt else content.encode()
            if hurt and random.random() < 0.3:
                made[name] = values.text(values.hostile(random, "json")).encode("utf-8", "surrogatepass")
    return made


@functools.cache
def _recorded() -> tuple[Any, Any]:
    """plan.json and lock.json as a submission writes them, with few packages, so that more else is changed."""
    plan = samples.decided()
    locked = json.loads(lock.text(lock.of(plan, "local")))
    locked["packages"] = {name: locked["packages"].get(name, "1") for name in ("torch", "deepspeed")}
    return json.loads(record.plan_text(plan)), locked


def _json(random: Random, record: Any) -> bytes:
    """The record: as it is, with places changed, or damaged."""
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        record = values.mutated(random, record, "json")
    content = values.text(record) + "\n"
    return (
        values.damaged(random, content) if random.random() < 0.1 else content.encode("utf-8", "surrogatepass")
    )


def _metrics(random: Random) -> bytes:
    made = b""
    for at in range(random.choice((1, 2, 3, 30))):
        step: Any = {**STEP, "step": at + 1, "time": 1.7e9 + at}
        if random.random() < 0.3:
            step = values.mutated(random, step, "json")
        if random.random() < 0.1:
            step = {"step": at, "loss": random.choice((0.5, None, Raw("NaN"), "x", [1], Raw("1e400"), True))}
        made += values.text(step).encode("utf-8", "surrogatepass") + b"\n"
        if random.random() < 0.3:
            event: Any = random.choice(EVENTS)
            event = values.mutated(random, event, "json") if random.random() < 0.5 else event
            made += values.text(event).encode("utf-8", "surrogatepass") + b"\n"
    return made if random.random() < 0.8 else made[: random.randrange(len(made))]
