"""A job file with some fields changed keeps all that was written."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.files import tuned

TEXT = """\
# yaml-language-server: $schema=schema/job.schema.json
name: llama-7b   # starts the id
batch: {micro: 4, global: 512}      # accumulation is derived
deepspeed: auto
args: {data: [/data/corpus], lr: 3.0e-4, "max-steps": 20_000}
walltime: 48:00:00
"""


def test_comments_and_spellings_stay() -> None:
    changes: dict[tuple[str, ...], Any] = {
        ("batch", "micro"): 8,
        ("batch", "global"): 512,
        ("deepspeed", "preset"): "zero2",
        ("args", "activation-checkpointing"): True,
    }
    text = tuned.changed(TEXT, changes)
    assert text == TEXT.replace("micro: 4", "micro: 8").replace(
        "deepspeed: auto", "deepspeed: zero2"
    ).replace("20_000}", "20_000, activation-checkpointing: true}")


def test_a_preset_becomes_a_mapping_where_keys_lie_over_it() -> None:
    changes: dict[tuple[str, ...], Any] = {
        ("deepspeed", "preset"): "zero3",
        ("deepspeed", "zero_optimization", "overlap_comm"): False,
    }
    text = tuned.changed("name: a\ndeepspeed: auto\n", changes)
    assert text == "name: a\ndeepspeed: {preset: zero3, zero_optimization: {overlap_comm: false}}\n"


def test_keys_that_the_job_has_over_a_preset_stay() -> None:
    text = "name: a\ndeepspeed:\n  preset: zero1\n  gradient_clipping: 0.5  # mine\n"
    assert tuned.changed(text, {("deepspeed", "preset"): "zero2"}) == text.replace("zero1", "zero2")


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("cluster: site.yaml", "cluster: /home/a/jobs/site.yaml"),
        ("cluster: ../site.yml # ours", "cluster: /home/a/site.yml # ours"),
        ("cluster: /etc/site.yaml", "cluster: /etc/site.yaml"),
        ("cluster: laptop", "cluster: laptop"),
        ("code: src", "code: /home/a/jobs/src"),
        ("code: none", "code: none"),
        ("code: ~/src", "code: ~/src"),
    ],
)
def test_a_path_leads_to_the_same_file_from_another_folder(written: str, whole: str) -> None:
    text = f"name: a\n{written}\n"
    assert tuned.changed(text, {}, "/home/a/jobs") == f"name: a\n{whole}\n"
    assert tuned.changed(text, {}) == text


def test_a_field_that_was_not_there_is_added_and_null_takes_one_out() -> None:
    text = tuned.changed(
        "name: a\nbatch: {micro: 1, accumulation: 2}\n",
        {("batch", "accumulation"): None, ("deepspeed", "preset"): "zero2"},
    )
    assert text == "name: a\nbatch: {micro: 1}\ndeepspeed: zero2\n"


@pytest.mark.parametrize("text", ["- a\n", "", "a: [", "7\n"])
def test_what_is_no_job_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        tuned.changed(text, {("name",): "b"})
