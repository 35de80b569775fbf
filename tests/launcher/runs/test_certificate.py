"""A certificate says what was compared and why something is not proven, as a table and as a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher.cli.verbs import prove
from launcher.reports import certificate as table
from launcher.runs import certificate
from launcher.runs.certificate import Certificate, Part
from launcher.runs.evidence import Check
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MOVED = [Check("losses", 8, largest=2e-6, bound=1e-4)]
PARTS = [
    Part("undisturbed", "demo-1", 2, ["0"], []),
    Part("interrupted", "demo-2", 2, ["KILL at step 4: 137", "0"], [Check("losses", 17)]),
    Part("moved", "demo-3", 1, ["0"], MOVED, after=8),
]
WHOLE = Certificate("demo", "local", 16, PARTS, ["a note"], "2026-01-01T00:00:00+00:00")


def test_what_holds_is_proven() -> None:
    assert WHOLE.proven
    assert table.text(WHOLE).splitlines() == [
        "RUN          ID      RANKS  ENDED",
        "undisturbed  demo-1  2      0",
        "interrupted  demo-2  2      KILL at step 4: 137; 0",
        "moved        demo-3  1      0",
        "",
        "RUN          WHAT    COMPARED  WITH THE UNDISTURBED RUN",
        "interrupted  losses  17        equal",
        "moved        losses  8         within 0.0001: at most 2.0e-06 apart",
        "",
        "note: a note",
        "proven: demo, 16 steps, on local",
    ]


def test_what_differs_is_not_and_the_first_step_is_named() -> None:
    differs = [
        Check("samples", 0),
        Check("losses", 17, 5, (1.25, 1.5)),
        Check("optimizer", 8, 6, ("aa", "bb")),
        Check("losses", 17, 5, (1.0, 1.0 + 1e-12)),
    ]
    made = WHOLE._replace(
        parts=[PARTS[0], PARTS[1]._replace(checks=differs), PARTS[2]._replace(problem="no")]
    )
    assert not made.proven
    assert made.problems == [
        "moved: no",
        "interrupted: there is nothing to compare of samples",
        "interrupted: losses of step 5: 1.25 undisturbed, 1.5 here",
        "interrupted: optimizer after step 6: aa undisturbed, bb here",
        "interrupted: losses of step 5: 1.0 undisturbed, 1.000000000001 here",
    ]
    assert "losses     17        differs from step 5 on" in table.text(made)


def test_nothing_compared_is_nothing_proven() -> None:
    assert not WHOLE._replace(parts=PARTS[:1]).proven


def test_it_is_kept_with_each_run(tmp_path: Path) -> None:
    for part in PARTS:
        (tmp_path / part.run).mkdir()
    files = certificate.keep(WHOLE, tmp_path)
    assert files == [tmp_path / part.run / "certificate.json" for part in PARTS]
    kept = json.loads(files[0].read_text())
    assert kept == json.loads(certificate.as_json(WHOLE))
    assert kept["proven"] is True
    assert kept["runs"][2]["checks"][0] == {
        "what": "losses",
        "steps": 8,
        "first": None,
        "values": None,
        "largest": 2e-6,
        "bound": 1e-4,
        "holds": True,
    }


def test_what_was_proven_is_told_on_a_full_disk_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo-1").mkdir()
    made = WHOLE._replace(parts=PARTS[:1])
    with samples.full_disk():
        prove.keep(made, tmp_path)
    assert capsys.readouterr().err == (
        f"warning: certificate.json cannot be written below {tmp_path}: File too large\n"
    )
    prove.keep(made, tmp_path)
    assert capsys.readouterr().err == f"kept as {tmp_path}/demo-1/certificate.json\n"
