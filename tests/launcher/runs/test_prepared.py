"""Prepared texts: what is listed, shown and removed, and what is never touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.errors import PlanError, RunNotFoundError, SpecError
from launcher.runs import claims, prepared

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY, OTHER = "0123456789abcdef", "0123456789abcdff"
FACTS = {
    "format": 3,
    "sources": ["/data/a b", '{"path": "/data/c", "weight": 0.7}'],
    "tokenizer": "gpt2",
    "dtype": "uint16",
    "vocabulary": 50257,
    "tokens": 1_000_000,
    "documents": 10,
    "bytes": 4_000_000,
    "shards": [["00000", 1_000_000, 10]],
    "created": "2026-11-25T12:00:00Z",
}


def text(cache: Path, key: str = KEY, facts: Any = FACTS, **files: bytes) -> Path:
    """A folder of `cache` as the workload leaves it; unfinished where `facts` is None."""
    folder = cache / key
    folder.mkdir(parents=True)
    for name, content in {
        "00000.bin": b"\0" * 2000,
        "00000.idx": b"MMIDIDX",
        "held-out": b"",
        **files,
    }.items():
        (folder / name).write_bytes(content)
    if facts is not None:
        (folder / "corpus.json").write_text(facts if isinstance(facts, str) else json.dumps(facts))
        os.utime(folder / "corpus.json", (1e9, 1e9))
    return folder


def test_what_is_known_of_a_text(tmp_path: Path) -> None:
    text(tmp_path)
    (found,) = prepared.listed([tmp_path, tmp_path])
    assert (found.key, found.state, found.last_used) == (KEY, "finished", 1e9)
    assert (found.tokens, found.documents, found.text_bytes) == (1_000_000, 10, 4_000_000)
    assert found.sources == tuple(FACTS["sources"])  # type: ignore[arg-type]
    assert found.bytes == 2007 + (tmp_path / KEY / "corpus.json").stat().st_size


def test_the_last_used_is_first(tmp_path: Path) -> None:
    text(tmp_path)
    text(tmp_path / "more", OTHER, None)
    assert [t.state for t in prepared.listed([tmp_path, tmp_path / "more"])] == ["unfinished", "finished"]
    assert prepared.listed([tmp_path / "absent"]) == []


@pytest.mark.parametrize(
    "facts",
    [
        "",
        "[]",
        "{",
        '{"tokens": NaN}',
        '{"tokens": "many", "sources": 3, "documents": -1}',
        f'{{"tokens": {"9" * 400}, "documents": {"9" * 400}}}',
        "[" * 99_999,
    ],
)
def test_what_others_wrote_breaks_nothing(
    facts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text(tmp_path, facts=facts)
    for words in (["list"], ["show", KEY], ["list", "--json"], ["show", KEY, "--json"]):
        assert main.main(["data", *words, "--cache", str(tmp_path)]) == 0
        assert KEY in capsys.readouterr().out
    (found,) = prepared.listed([tmp_path])
    assert (found.tokens, found.documents, found.sources) == (None, None, ())


def test_links_are_no_texts(tmp_path: Path) -> None:
    text(tmp_path / "there")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / KEY).symlink_to(tmp_path / "there" / KEY)
    (tmp_path / "cache" / OTHER).write_text("")
    (tmp_path / "cache" / "other").mkdir()
    assert prepared.listed([tmp_path / "cache"]) == []
    with pytest.raises(RunNotFoundError):
        prepared.find([tmp_path / "cache"], KEY)


def test_a_fact_file_that_is_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"tokenizer": "secret"}')
    text(tmp_path, facts=None)
    (tmp_path / KEY / "corpus.json").symlink_to(tmp_path / "secret.json")
    text(tmp_path, OTHER, None)
    os.mkfifo(tmp_path / OTHER / "corpus.json")
    assert [t.tokenizer for t in prepared.listed([tmp_path])] == ["", ""]


def test_the_start_of_a_key_is_enough_where_it_is_one_text(tmp_path: Path) -> None:
    text(tmp_path)
    text(tmp_path, OTHER)
    assert prepared.find([tmp_path], KEY[:15]).key == KEY
    with pytest.raises(RunNotFoundError, match="starts 2 prepared texts"):
        prepared.find([tmp_path], KEY[:4])
    with pytest.raises(RunNotFoundError, match="no prepared text 'aa'"):
        prepared.find([tmp_path], "aa")
    for word in ("", "../x", KEY.upper(), f"{KEY}/..", "*", "0" * 17):
        with pytest.raises(SpecError, match="is no key"):
            prepared.find([tmp_path], word)


@pytest.mark.parametrize("facts", [FACTS, None])
def test_a_text_is_removed_whole(facts: Any, tmp_path: Path) -> None:
    folder = text(tmp_path, facts=facts)
    for name in ("00001.npz", ".00001.bin.host.4711", ".held-out.host.4711", "00002.claim", "corpus.claim"):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (1e9, 1e9))
    text(tmp_path, OTHER)
    prepared.remove(prepared.find([tmp_path], KEY))
    assert [t.key for t in prepared.listed([tmp_path])] == [OTHER]
    assert not list(tmp_path.glob("*.removed"))


def test_a_removal_that_was_cut_short_is_seen_and_ended(tmp_path: Path) -> None:
    text(tmp_path, f"{KEY}.removed")
    text(tmp_path)
    assert {t.state for t in prepared.listed([tmp_path])} == {"finished", "half removed"}
    prepared.remove(prepared.find([tmp_path], KEY))
    assert prepared.listed([tmp_path]) == []
    text(tmp_path, f"{KEY}.removed")
    prepared.remove(prepared.find([tmp_path], KEY))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("claim", "facts", "does"),
    [("00001.claim", None, "writes"), ("corpus.host.7.0a.reader", FACTS, "reads")],
)
def test_a_text_in_use_stays(claim: str, facts: Any, does: str, tmp_path: Path) -> None:
    folder = text(tmp_path, facts=facts)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        told = {"host": "here", "kernel": claims._kernel(), "process": owner.pid}
        told["started"] = claims._started(owner.pid) or ""
        (folder / claim).write_text(json.dumps(told))
        os.utime(folder / claim, (1e9, 1e9))  # a process that is seen needs no touch
        found = prepared.find([tmp_path], KEY)
        assert found.state == "in use"
        with pytest.raises(PlanError, match=f"is in use: a run {does} it"):
            prepared.remove(found)
        assert (folder / "00000.bin").exists()
        owner.communicate(b"\n")
    prepared.remove(prepared.find([tmp_path], KEY))
    assert not folder.exists()


@pytest.mark.parametrize(
    "content", ['{"kernel": "of another host", "process": 1, "started": "1"}', "", "{", "[]"]
)
def test_of_another_host_a_claim_counts_while_it_is_touched(content: str, tmp_path: Path) -> None:
    claim = text(tmp_path, facts=None) / "corpus.claim"
    claim.write_text(content)
    assert prepared.find([tmp_path], KEY).state == "in use"
    os.utime(claim, (time.time() - claims.VOID - 5,) * 2)
    assert prepared.find([tmp_path], KEY).state == "unfinished"


def test_who_comes_between_keeps_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text(tmp_path)
    found = prepared.find([tmp_path], KEY)
    looks = iter([None, tmp_path / "claim"])
    monkeypatch.setattr(claims, "held", lambda folder: next(looks))
    with pytest.raises(PlanError, match="is in use"):
        prepared.remove(found)
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def _linked(folder: Path) -> None:
    (folder / "00001.bin").symlink_to(folder.parent / "precious")


def _nested(folder: Path) -> None:
    (folder / "held-out-of-me").mkdir()


def _named(folder: Path) -> None:
    (folder / "thesis.txt").write_text("")


@pytest.mark.parametrize("spoil", [_linked, _nested, _named])
def test_a_folder_with_something_else_stays(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    spoil(text(tmp_path))
    with pytest.raises(SpecError, match="is no prepared text alone: it holds"):
        prepared.remove(prepared.find([tmp_path], KEY))
    assert (tmp_path / KEY / "00000.bin").exists()
    assert (tmp_path / "precious").read_text() == "mine"


# The verb


def test_where_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keys(*words: str) -> list[str]:
        assert main.main(["data", "list", "--json", *words]) == 0
        return [entry["key"] for entry in json.loads(capsys.readouterr().out)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("DATA_CACHE", raising=False)
    text(tmp_path / "runs" / "demo-1" / "data", "1" * 16)
    text(tmp_path / "cache", "2" * 16)
    text(tmp_path / "site", "3" * 16)
    (tmp_path / "runs" / "demo-2").mkdir()
    (tmp_path / "runs" / "demo-2" / "data").symlink_to(tmp_path / "cache")
    (tmp_path / "here.yaml").write_text(f"slots: 1\ndata_cache: /c/site\nmounts: {{/c: {tmp_path}}}\n")
    assert keys() == ["1" * 16]
    assert keys("--cluster", "here.yaml") == ["3" * 16]
    monkeypatch.setenv("DATA_CACHE", str(tmp_path / "cache"))
    assert keys() == ["2" * 16]
    assert keys("--cache", "site") == ["3" * 16]


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text(tmp_path)
    at = ["--cache", str(tmp_path)]
    assert main.main(["data", "list", *at]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["KEY", "STATE", "SIZE", "TOKENS"]
    assert line.split()[0] == KEY
    assert "1,000,000" in line
    assert main.main(["data", "show", KEY[:6], *at]) == 0
    shown = capsys.readouterr().out
    assert "vocabulary 50257" in shown
    assert "/data/a b" in shown
    assert main.main(["data", "remove", KEY[:6], *at]) == 0
    assert f"{KEY}: removed" in capsys.readouterr().err
    assert main.main(["data", "list", *at]) == 0
    assert "no prepared texts in" in capsys.readouterr().out
