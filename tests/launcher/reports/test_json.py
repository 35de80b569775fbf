"""The machine-readable output is as launcher/reports/README.md documents it: every key, and the type of its value."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT, doctor
from launcher.cli import commands, main
from launcher.doctor import looking
from launcher.runs import certificate
from launcher.runs.certificate import Certificate, Part
from launcher.runs.evidence import Check
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "launcher" / "reports" / "README.md").read_text(encoding="utf-8")
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "null": (type(None),),
}
# objects that are null as a whole
WHOLE = {"memory", "bound", "checkpoints", "fewer", "forecast", "hang", "hours", "inference"}


def documented(*sections: str) -> dict[str, str]:
    """Key → type, from the tables below the headings `sections`."""
    keys: dict[str, str] = {}
    for section in sections:
        text = re.search(rf"^##+ {section}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
        assert text, section
        rows = re.findall(r"^\| `(\S+)` \| ([a-z ]+) \| \S.* \|$", text[1], re.MULTILINE)
        assert len(rows) == text[1].count("\n| `"), f"{section}: a row that is not | `key` | type | meaning |"
        keys |= dict(rows)
    return keys


def values(data: Any, keys: dict[str, str], above: str = "") -> list[tuple[str, Any]]:
    """(key, value) of everything in `data`; objects whose keys are free are `above.*`."""
    if isinstance(data, dict):
        if f"{above}.*" in keys:
            return [(f"{above}.*", value) for value in data.values()]
        inner = [values(value, keys, f"{above}.{key}" if above else key) for key, value in data.items()]
        return [pair for pairs in inner for pair in pairs]
    if isinstance(data, list) and any(key.startswith(f"{above}[].") for key in keys):
        return [pair for entry in data for pair in values(entry, keys, f"{above}[]")]
    return [(above, data)]


def check(data: Any, keys: dict[str, str], optional: tuple[str, ...] = ()) -> None:
    """`data` has the documented keys, all of them but those that start with `optional`, with their types."""
    pairs = values(data, keys)
    missing = {key for key in keys if key not in {key for key, _ in pairs} and not key.startswith(optional)}
    assert missing == set()
    for key, value in pairs:
        if key in WHOLE and value is None:
            continue
        assert key in keys, f"{key} is not documented"
        if keys[key] != "any":
            kinds = [kind for word in keys[key].split(" or ") for kind in TYPES[word]]
            assert type(value) in kinds, (key, value, keys[key])


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def submitted(runs: Path, name: str) -> None:
    """A run that ended well after two steps."""
    (runs / name).mkdir(parents=True)
    fields = {"scheduler": "local", "native_id": "1:2", "submitted": 0.0, "nodes": 1, "slots": 1, "place": {}}
    (runs / name / "run.json").write_text(json.dumps({"id": name, **fields}))
    (runs / name / "exit_code").write_text("0\n")
    step = {"loss": 2.0, "reward": 1.0, "tokens_per_second": 5, "memory_bytes": 7, "time": 3.5}
    lines = [{"step": 1, **step}, {"step": 2, **step}, {"event": "eval", "step": 2, "loss": 1.5}]
    (runs / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    slow = {"event": "slow", "time": 1, "rank": 0, "host": "n1", "ratio": 2, "step": 9}
    (runs / name / "events.jsonl").write_text(json.dumps(slow) + "\n")
    hang = {
        "verdict": "rank 0 sleeps",
        "cause": "stall",
        "rank": 0,
        "host": "n1",
        "of_host": False,
        "time": 1,
    }
    (runs / name / "stacks" / "0-1").mkdir(parents=True)
    (runs / name / "stacks" / "0-1" / "verdict.json").write_text(json.dumps(hang))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    for name in ("a", "b"):
        submitted(tmp_path, name)
    return tmp_path


EMPTY = (
    "sizes[]",
    "left_out[]",
    "tried[]",
    "communication[]",
    "too_large[]",
    "fewer.",
    "forecast.",
    "memory.",
    "bound.",
    "checkpoints.",
    "inference.",
    "args.*",
)


ENGINE = ("--set", "args.engine=zero")


def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    keys = documented("plan", "Estimate", "Forecast")
    absent = ("inference.", "forecast.", "sizes[]", "left_out[]")
    check(printed(capsys, "plan", "jobs/llama-7b.yaml"), keys, absent)
    words = ("plan", "jobs/inference/generate.yaml", "--set", "model=llama-2-7b")
    check(printed(capsys, *words), keys, tuple(key for key in EMPTY if key != "inference."))
    small = printed(
        capsys, *words, "--set", "cluster.memory=1GB", "--set", "deepspeed=zero3-offload", *ENGINE
    )
    assert small["fits"] is small["inference"]["fits"] is False
    assert small["reasons"] == ["needs 6.7 GB per host, 1.0 GB available"]
    assert small["parameters"] == 6_738_415_616
    for job in ("quickstart", "smoke/allreduce", "llama-70b"):
        data = printed(capsys, "plan", f"jobs/{job}.yaml")
        check(data, keys, EMPTY)
        assert set(data) == {re.split(r"[.\[]", key)[0] for key in keys}, "the same keys, whatever is known"


def test_plan_with_a_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(samples.JOB)
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    (tmp_path / "here.measured.json").write_text(json.dumps(samples.measured()))
    keys = documented("plan", "Estimate", "Forecast")
    data = printed(capsys, "plan", str(tmp_path / "job.yaml"))
    check(data, keys, tuple(key for key in EMPTY if key != "forecast."))
    assert {f"forecast.{key}" for key in data["forecast"]} == documented("Forecast").keys()


def test_plan_of_several_numbers_of_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--set", "nodes={min: 1, max: 3}", "--set", "batch={micro: 1, global: 16}")
    data = printed(capsys, "plan", "jobs/quickstart.yaml", *settings)
    given = tuple(key for key in EMPTY if key not in {"sizes[]", "left_out[]"})
    check(data, documented("plan", "Estimate", "Forecast"), given)


def test_plan_of_a_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    data = printed(capsys, "plan", "jobs/chat.yaml")
    for stage in data["stages"].values():
        check(stage, documented("plan", "Estimate", "Forecast"), EMPTY)


def test_plan_limits(capsys: pytest.CaptureFixture[str]) -> None:
    estimate = documented("Estimate")
    check(
        printed(capsys, "plan", "jobs/llama-7b.yaml", "--max-model", "llama"),
        {**documented("Largest model"), **estimate},
    )
    check(
        printed(capsys, "plan", "jobs/llama-7b.yaml", "--min-nodes"),
        {**documented("Fewest hosts"), **estimate},
        EMPTY,
    )


def test_status_and_list(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(printed(capsys, "status", "a"), documented("status"))
    listed = printed(capsys, "list")
    assert len(listed) == 2
    for entry in listed:
        check(entry, documented("status"))


def test_status_of_a_pipeline(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "p-pipeline-1").mkdir()
    stages = [{"stage": "one", "run": "a", "needs": []}, {"stage": "two", "run": "b", "needs": ["one"]}]
    (runs / "p-pipeline-1" / "pipeline.json").write_text(json.dumps({"id": "p-pipeline-1", "stages": stages}))
    check(printed(capsys, "status", "p-pipeline-1"), documented("Pipeline"))


def test_report(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "b" / "metrics.jsonl").write_text("")
    (runs / "b" / "events.jsonl").write_text(
        '{"event": "allocated", "time": 1}\n{"event": "ended", "time": 2}\n'
    )
    for entry in printed(capsys, "report", "a", "b"):
        check(entry, documented("report", "GPU hours"), ("points.",))
    assert [entry["hours"]["whole"] for entry in printed(capsys, "report", "a", "b")] == [False, True]


def test_report_of_a_sweep(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "s-sweep-1").mkdir()
    entries = [{"run": name, "settings": [f"args.lr={name}"]} for name in ("a", "b")]
    (runs / "s-sweep-1" / "sweep.json").write_text(json.dumps({"id": "s-sweep-1", "runs": entries}))
    for entry in printed(capsys, "report", "s-sweep-1"):
        check(entry, documented("Sweep"))


def test_compare(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("a", "b")):
        (runs / name / "plan.json").write_text(json.dumps({"args": {"seed": seed}}))
    check(printed(capsys, "compare", "a", "b"), documented("compare"))


def test_prove() -> None:
    checks = [Check("losses", 9, 3, (1.5, 2.5), largest=0.5, bound=1e-4), Check("samples", 9)]
    part = Part("moved", "demo-1", 1, ["0"], checks, after=8)
    made = Certificate("demo", "local", 16, [part], ["a note"], "2026-01-01T00:00:00+00:00")
    check(json.loads(certificate.as_json(made)), documented("prove"))


def test_checkpoints(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tag in ("step-00000001", "step-00000002"):
        (runs / "a" / "checkpoints" / tag).mkdir(parents=True)
    identity = dict.fromkeys(("model", "model_fingerprint", "tokenizer", "tokenizer_fingerprint"), "x")
    marker = {
        "progress": {"step": 2, "samples": 8, "tokens": 64},
        "identity": {**identity, "world_size": 2, "zero_stage": 1, "precision": "fp32"},
        "files": {},
    }
    (runs / "a/checkpoints/step-00000002/complete.json").write_text(json.dumps(marker))
    whole, half = printed(capsys, "checkpoints", "a")
    assert (whole["state"], whole["tokens"], half["state"]) == ("complete", 64, "unfinished")
    for entry in (whole, half):
        check(entry, documented("checkpoints"))


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, text in (
        ("0" * 16, '{"tokens": 1, "documents": 1, "bytes": 1, "sources": ["a"]}'),
        ("1" * 16, ""),
    ):
        (tmp_path / key).mkdir()
        (tmp_path / key / "corpus.json").write_text(text)
    for entry in printed(capsys, "data", "list", "--cache", str(tmp_path)):
        check(entry, documented("data"))
    for action in ("show", "remove"):
        check(printed(capsys, "data", action, "0", "--cache", str(tmp_path)), documented("data"))


def test_tune(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["tune", "jobs/quickstart.yaml", "--dry-run", "--json"]) == 0
    check(json.loads(capsys.readouterr().out), documented("tune"))


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    for entry in printed(capsys, "env", "infiniband"):
        check(entry, documented("env"))


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "checks", lambda python: [looking.Check("python", "torch", "ok", "2.9")])
    for entry in printed(capsys, "doctor"):
        check(entry, documented("doctor"))


def test_every_verb_with_json_is_documented() -> None:
    table = next(action for action in commands.parser()._actions if action.dest == "verb").choices
    assert table
    verbs = {name for name, verb in dict(table).items() if "--json" in verb._option_string_actions}
    assert verbs == {
        *(
            "plan",
            "tune",
            "status",
            "list",
            "report",
            "compare",
            "checkpoints",
            "data",
            "env",
            "doctor",
            "stacks",
            "profile",
            "prove",
        ),
    }
    for verb in verbs:
        assert f"`python -m launcher {verb}" in PAGE or f"`{verb} --json`" in PAGE
