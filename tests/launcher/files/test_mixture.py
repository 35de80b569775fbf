"""A mixture of texts: from a job's file to the words that ranks get."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher import workloads
from launcher.errors import SpecError
from launcher.files import mixture
from launcher.planning import plan
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path


def words(folder: Path, data: str) -> list[str]:
    """What ranks get after --data, of a job's file."""
    (folder / "here.yaml").write_text(samples.CLUSTER)
    (folder / "job.yaml").write_text(f"{samples.JOB}args: {{data: {data}}}\n")
    made = plan.make(samples.loaded(str(folder / "job.yaml")), samples.SITE)
    option, *rest = workloads.command_line(made.args)
    assert option == "--data"
    return rest


def test_a_source_with_a_weight_is_a_word_of_json(tmp_path: Path) -> None:
    assert words(tmp_path, "[{weight: 0.70, path: /a}, {path: /b, weight: 3}]") == [
        '{"path":"/a","weight":0.7}',
        '{"path":"/b","weight":3}',
    ]


def test_sources_without_weights_mix_with_words(tmp_path: Path) -> None:
    assert words(tmp_path, "[/a, {path: /b}, 'hf:c']") == ["/a", '{"path":"/b"}', "hf:c"]


@pytest.mark.parametrize("path", ["a b", "'\"\\", "$HOME $(x)", "ü 😀", "line\nbreak", "{", "007", "-x"])
def test_any_path_arrives(path: str, tmp_path: Path) -> None:
    (word,) = words(tmp_path, f"[{{path: {json.dumps(path)}, weight: 1e-3}}]")
    assert json.loads(word) == {"path": path, "weight": 0.001}
    assert word.isascii()
    assert word.startswith("{")


def test_a_source_may_name_its_column(tmp_path: Path) -> None:
    assert words(tmp_path, "[{column: body, path: /a}]") == ['{"path":"/a","column":"body"}']
    with pytest.raises(SpecError, match=r"data\.0\.column must be the name of a column, not 3"):
        words(tmp_path, "[{column: 3, path: /a}]")


def test_paths_that_look_like_numbers_are_as_written(tmp_path: Path) -> None:
    assert words(tmp_path, "[{path: 007, weight: 1}]") == ['{"path":"007","weight":1}']


@pytest.mark.parametrize("value", [0, -1, float("inf"), "1", None, True, [1]])
def test_a_weight_is_a_number_above_zero(value: Any, tmp_path: Path) -> None:
    written = ".inf" if value == float("inf") else json.dumps(value)
    with pytest.raises(SpecError, match=r"data\.0\.weight must be a number above 0"):
        words(tmp_path, f"[{{path: a, weight: {written}}}]")


def test_workloads_that_read_text_take_one() -> None:
    taking = {name for name in workloads.names() if mixture.is_one(name, "data", [{"path": "a"}])}
    assert "pretrain" in taking
    assert not taking & {"chat_sft", "finetune", "generate", "serve"}
    assert not mixture.is_one("pretrain", "lr", [{"path": "a"}])
    assert not mixture.is_one("pretrain", "data", ["a"])
    assert not mixture.is_one("./train.py", "data", [{"path": "a"}])
