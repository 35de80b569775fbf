"""How preflight judges what hosts and ranks report; tests/real/slurm/test_preflight.py has real hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import preflight
from preflight import Check

if TYPE_CHECKING:
    from pathlib import Path


def test_a_failed_all_reduce_accuses_nobody_whom_something_else_explains() -> None:
    hosts = {
        "n1": [Check("/dev/shm", True, ""), Check("all-reduce", False, "timed out")],
        "n2": [Check("driver", False, "too old"), Check("all-reduce", False, "no end")],
    }
    assert preflight.culprits(hosts) == {"n2": "driver: too old"}
    del hosts["n2"]
    assert preflight.culprits(hosts) == {"n1": "all-reduce: timed out"}


def test_a_host_is_fit_when_it_is_fast_with_one_neighbour() -> None:
    slow = {"gb_per_s": 3.0, "pair_gb_per_s": 40.0}
    assert preflight.judged([slow], 1, 30.0)[-1].ok
    assert not preflight.judged([{**slow, "pair_gb_per_s": 3.0}], 1, 30.0)[-1].ok
    assert preflight.judged([{"gb_per_s": 31.0}], 1, 30.0)[-1].finding == "31 GB/s"
    assert preflight.judged([slow], 1, 30.0)[-1].rate == 40.0
    assert preflight.judged([{"gb_per_s": 31.0}], 1, 0.0)[-1].rate == 0, "nobody was measured alone"


def test_a_rank_that_says_nothing_fails_its_host() -> None:
    check = preflight.judged([{"gb_per_s": 31.0}], 2, 0.0)[-1]
    assert (check.ok, check.finding) == (False, "no end within the time limit")


def test_a_python_without_torch_accuses_no_host() -> None:
    (check,) = preflight.judged([{"rank": 0, "absent": "torch"}], 1, 10.0)
    assert (check.ok, check.finding) == (True, "not measured: this Python has no torch")


def test_driver_and_ops_are_told_by_name() -> None:
    ops = {"fused_adam_op": "undefined symbol: x"}
    checks = preflight.judged([{"driver": "image has CUDA 13.0: too old", "ops": ops, "error": "x"}], 1, 0.0)
    assert [(c.name, c.ok) for c in checks] == [
        ("driver", False),
        ("prebuilt ops", False),
        ("all-reduce", False),
    ]
    assert checks[1].finding == "fused_adam_op: undefined symbol: x"


def test_room_is_measured_where_it_is_wanted(tmp_path: Path) -> None:
    assert preflight._room("scratch", tmp_path / "made", 0.0).ok
    short = preflight._room("scratch", tmp_path, 1e9)
    assert not short.ok
    assert f"free in {tmp_path}, 1e+09 wanted" in short.finding
    (tmp_path / "file").touch()
    assert not preflight._room("scratch", tmp_path / "file", 0.0).ok


def test_the_table_marks_what_failed() -> None:
    rows = {"n1": [Check("scratch", True, "9 GiB free")], "node-two": [Check("scratch", False, "full")]}
    assert preflight.table(rows, 1.25) == (
        "preflight, 1.2 s\n  host      scratch\n  n1        9 GiB free\n  node-two  FAILED full"
    )


def rates(**gb_per_s: float) -> dict[str, list[Check]]:
    return {host: [Check("all-reduce", True, "", rate)] for host, rate in gb_per_s.items()}


def test_the_first_host_is_the_spare_and_a_slow_one_before_it() -> None:
    """The batch script runs on the first host, so that one may be lost only while it is idle."""
    assert preflight.choose(rates(a=10, b=10, c=9.5), 2) == ["b", "c"]
    assert preflight.choose(rates(a=10, b=8, c=10), 2) == ["a", "c"]
    assert preflight.choose(rates(a=8, b=10, c=7, d=10), 3) == ["b", "c", "d"]
    assert preflight.choose({"a": [], "b": []}, 1) == ["b"], "nothing was measured"


def test_of_several_numbers_the_most_that_there_are_is_chosen() -> None:
    args, _ = preflight.arguments(["--choose=1", "--choose=2", "--choose=4", "--", "--run=x"])
    assert [preflight.most(args.choose, hosts) for hosts in (1, 2, 3, 4)] == [1, 2, 2, 4]
    assert preflight.most((), 3) == 3
