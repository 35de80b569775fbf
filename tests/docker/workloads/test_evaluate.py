"""Scores are those of the model's own probabilities, on one rank or two."""

from __future__ import annotations

import json
import types
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lm_eval", reason="the train extra is not installed")

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

ROWS = [{"start": f"{n} and", "right": str(n * 7), "wrong": "x" * (n % 3 + 1)} for n in range(11)]
TASK = """
task: which
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{start}}}}"
doc_to_choice: "{{{{[right, wrong]}}}}"
doc_to_target: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

WRITE = """
task: write
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{start}}}}"
doc_to_target: "{{{{right}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def run(folder: Path, size: int, *args: str, code: int = 0) -> ranks.Ranks:
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    data = tasks / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    (tasks / "which.yaml").write_text(TASK.format(data=data))
    (tasks / "write.yaml").write_text(WRITE.format(data=data))
    options = (f"--task-folder={tasks}", "--random-weights", *args)
    return ranks.run(
        folder,
        size,
        {},
        *options,
        model="byte-gpt",
        workload="evaluate",
        given=("run-dir", "model"),
        code=code,
    )


def expected(folder: Path) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def nats(start: str, end: str) -> float:
        ids = torch.tensor([list(f"{start} {end}".encode())])
        with torch.no_grad():
            shares = model(ids[:, :-1]).logits.log_softmax(-1)
        return float(shares[0].gather(1, ids[0, 1:, None])[len(start.encode()) - 1 :].sum())

    return sum(nats(r["start"], r["right"]) > nats(r["start"], r["wrong"]) for r in ROWS) / len(ROWS)


@pytest.mark.parametrize("size", [1, 2])
def test_scores_are_those_of_the_models_probabilities(size: int, tmp_path: Path) -> None:
    done = run(tmp_path, size, "--tasks=which")
    results = json.loads((done.run_dir / "results.json").read_text())
    assert results["documents"] == {"which": len(ROWS)}
    score = expected(done.run_dir / "random-weights")
    assert 0 < score < 1
    assert results["results"] == {"which": {"acc": pytest.approx(score)}}
    (event,) = done.events("score")
    assert (event["task"], event["acc"]) == ("which", pytest.approx(score))
    assert done.events("end")[0]["status"] == "done"


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    refused = run(tmp_path, 1, "--tasks=whitch", code=64)
    assert refused.output(0).splitlines()[-1] == (
        "evaluate: error: --tasks whitch: lm-evaluation-harness has no such task, nor has --task-folder"
    )


def test_each_filter_of_a_tasks_answers_has_its_score(tmp_path: Path) -> None:
    from workloads import evaluate, metrics

    args = evaluate.parser().parse_args([f"--run-dir={tmp_path}", "--model=m", "--tasks", "gsm8k"])
    scores = {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A"}
    scores |= {"exact_match,flexible-extract": 0.5, "acc,none": 1, "alias": "gsm8k"}
    scored = {"results": {"gsm8k": scores}, "versions": {}, "n-samples": {"gsm8k": {"effective": 4}}}
    this: Any = types.SimpleNamespace(run_dir=tmp_path)
    evaluate.report(scored, args, this, log=metrics.Log(tmp_path, True), seconds=1.0)
    kept = {"exact_match,strict-match": 0.25, "exact_match,flexible-extract": 0.5, "acc": 1.0}
    assert json.loads((tmp_path / "results.json").read_text())["results"] == {"gsm8k": kept}


def test_a_tokenizer_without_an_end_token_writes_no_answers(tmp_path: Path) -> None:
    refused = run(tmp_path, 1, "--tasks=write", code=64)
    assert refused.output(0).splitlines()[-1] == (
        "evaluate: error: a task of --tasks has the model write answers, and its tokenizer has no end token for them"
    )
