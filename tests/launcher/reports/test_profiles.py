"""A profile as text: where the traces lie, and the operators with their shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.reports import profiles


def rank(number: int, device: float = 0.0, name: str = "aten::mm") -> dict[str, Any]:
    one = {"name": name, "calls": 30, "cpu": 0.5, "device": device / 2}
    file = f"rank-{number}.pt.trace.json.gz"
    times = {"from": 5, "to": 14, "seconds": 4.125, "bytes": 23_100_000, "cpu": 2.0, "device": device}
    return {"rank": number, "host": "gpu01", "file": file, "operators": [one], **times}


def test_each_rank_has_its_table() -> None:
    failed = {"rank": 2, "host": "gpu02", "file": "", "error": "OSError"}
    text = profiles.text({"ranks": [rank(0), rank(1, device=4.0), failed]}, Path("/runs/x/profiles/0-1"))
    assert text == (
        "rank 0 on gpu01: steps 5 to 14 in 4.12 s, 23.1 MB: /runs/x/profiles/0-1/rank-0.pt.trace.json.gz\n"
        "operator  calls  CPU s   share\n"
        "aten::mm  30     0.5000  25%\n"
        "\n"
        "rank 1 on gpu01: steps 5 to 14 in 4.12 s, 23.1 MB: /runs/x/profiles/0-1/rank-1.pt.trace.json.gz\n"
        "operator  calls  CPU s   share  GPU s   share\n"
        "aten::mm  30     0.5000  25%    2.0000  50%\n"
        "\n"
        "https://ui.perfetto.dev opens them; so does chrome://tracing"
    )


def test_of_nsys_the_reports_alone_are_named() -> None:
    report = {**rank(0), "file": "rank-0.nsys-rep", "operators": []}
    text = profiles.text({"ranks": [report]}, Path("/runs"))
    assert text == (
        "rank 0 on gpu01: steps 5 to 14 in 4.12 s, 23.1 MB: /runs/rank-0.nsys-rep\n\n"
        "Nsight Systems opens them (nsys-ui), `nsys stats FILE` says what took the time"
    )


def test_long_names_are_cut_and_nothing_drives_the_terminal() -> None:
    text = profiles.text({"ranks": [rank(0, name="\x1b" + "k" * 500)]}, Path("/runs"))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 120
