"""Example files of each kind give the same rows; what is broken is said with its file and line."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest
from workloads import rows
from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [{"prompt": "Is 'a' $b?\n", "completion": "ja – été 🎉"}, {"prompt": "c", "completion": "d"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(path: Path) -> list[object]:
    return [row for _, row in rows.read(str(path))]


@pytest.mark.heavy  # reads pandas
def test_each_kind_of_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the train extra is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="the train extra is not installed")
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES, mtime=0))
    (tmp_path / "c.json").write_text(json.dumps(ROWS))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_text("not an example")
    for name in ("a.jsonl", "b.jsonl.gz", "c.json", "d.parquet"):
        assert read(tmp_path / name) == ROWS
    assert read(tmp_path) == ROWS * 4
    assert read(tmp_path / "*.json*") == ROWS * 3
    places = [place.removeprefix(f"--data {tmp_path}/") for place, _ in rows.read(str(tmp_path))]
    assert places[::2] == ["a.jsonl:1", "b.jsonl.gz:1", "c.json: row 1", "d.parquet: row 1"]


def test_empty_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\n"))
    assert read(path) == ROWS
    assert [place.rpartition(":")[2] for place, _ in rows.read(str(path))] == ["1", "3"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: not JSON: Expecting value"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl:2: not UTF-8 (byte 8)"),
        ("a.jsonl", b'{"a":' * 100000, "a.jsonl:1: JSON that is nested too deeply"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], "a.jsonl.gz: not a whole gzip file"),
        ("a.jsonl.gz", LINES, "a.jsonl.gz: not a whole gzip file (Not a gzipped file"),
        ("a.json", b'{"a": 1}', "a.json: not a list of objects"),
        ("a.json", b"[1,", "a.json: not JSON"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', "a file with an object on each line is called .jsonl"),
        ("a.jsonl", b'{"a": "\\ud800"}\n', "a.jsonl:1: half of a surrogate pair"),
        ("a.parquet", b"PAR1 or not", "a.parquet: not a whole Parquet file"),
    ],
)
def test_a_broken_file(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="the train extra is not installed")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Stop) as stop:
        read(tmp_path / name)
    assert message in stop.value.message
    assert stop.value.message.startswith(f"--data {tmp_path}/")
    assert "\n" not in stop.value.message


@pytest.mark.heavy  # reads datasets
def test_rows_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the train extra is not installed")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(LINES)
    source = f"hf:{tmp_path / 'set'}"
    assert list(rows.read(source)) == [(f"--data {source}: row {n}", row) for n, row in enumerate(ROWS, 1)]


@pytest.mark.heavy  # reads datasets
def test_rows_of_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the train extra is not installed")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "set")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    assert read(tmp_path / "set") == read(tmp_path / "splits") == ROWS


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"no .jsonl, .jsonl.gz, .json, .parquet file in this folder"):
        read(tmp_path)
    with pytest.raises(Stop, match="no such file or folder"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(Stop, match="weights are for text to pretrain on"):
        list(rows.read('{"path": "a.jsonl", "weight": 1}'))
