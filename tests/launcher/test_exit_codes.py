"""One table of exit codes (docker/exit_codes.json): what reads it, and that no other copy of it exists."""

from __future__ import annotations

import importlib
import re
import signal

import pytest

from launcher import ROOT, exit_codes
from launcher.files import cluster
from launcher.runs import causes
from launcher.schedulers.kubernetes import waits

ending = importlib.import_module("ending")
NODE_ENTRYS = {n: e.code for n, e in exit_codes.BY_NAME.items() if e.code < 128}


def test_numbers_are_told_apart_and_mean_something() -> None:
    entries = list(exit_codes.BY_NAME.values())
    assert len({entry.code for entry in entries}) == len(entries)
    assert all(0 < entry.code < 256 and entry.meaning and entry.advice and entry.ends for entry in entries)
    assert {entry.restart for entry in entries} == {"never", "counted", "free"}


def test_the_node_entry_has_the_same_names() -> None:
    assert {name: getattr(ending, name) for name in NODE_ENTRYS} == NODE_ENTRYS


def test_codes_above_128_are_their_signals() -> None:
    for entry in exit_codes.BY_NAME.values():
        if entry.code > 128:
            assert signal.Signals(entry.code - 128).name in entry.ends


@pytest.mark.parametrize("entry", exit_codes.BY_NAME.values(), ids=lambda entry: entry.name)
def test_status_says_what_the_table_says(entry: exit_codes.ExitCode) -> None:
    found = causes.by_exit_code(entry.code)
    assert found
    assert (found.cause, found.fix) == (entry.meaning, entry.advice)
    assert waits.meaning(entry.code) == f", {entry.meaning}"


def test_what_is_not_in_the_table_says_nothing() -> None:
    assert causes.by_exit_code(1) is causes.by_exit_code(None) is causes.by_exit_code(0) is None
    assert waits.meaning("?") == waits.meaning(1) == ""


def test_kubernetes_ends_a_run_by_the_table() -> None:
    assert cluster.Kubernetes().fail_on == exit_codes.with_restart("never")


def test_the_readme_shows_the_table() -> None:
    text = (ROOT / "docker" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    wanted = [(str(e.code), e.ends, e.meaning, e.restart) for e in exit_codes.BY_NAME.values()]
    assert rows == wanted


SOURCES = sorted(
    path
    for folder in ("docker", "launcher", "templates")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".j2"} and "imagebuild" not in path.parts
)


def test_no_number_stands_beside_the_table() -> None:
    """Written as exit codes are: `exit 73`, `code == 75`, os.EX_USAGE, `UNFIT (76)`."""
    numbers, names = "|".join(map(str, exit_codes.BY_CODE)), "|".join(exit_codes.BY_NAME)
    written = re.compile(
        rf"os\.EX_(?!OK)|\b(exit|finish|codes?|Stop|{names})\b[ (=!\[{{,]{{1,4}}({numbers})\b"
    )
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES}
    assert [(path, m[0]) for path, text in texts.items() for m in written.finditer(text)] == []
