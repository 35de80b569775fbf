"""Which names are images of a registry."""

from __future__ import annotations

import pytest

from launcher.images import names

GOOD = [
    *("deepspeed-train", "deepspeed-train:0.1.0-cpu", "nvcr.io/nvidia/pytorch:25.01-py3", "localhost/a:b"),
    *("registry.example.com:5000/team/a__b/c-d:T_1", "localhost:5000/x", "library/x", f"x@sha256:{'0' * 64}"),
    *(f"x:y@sha256:{'a' * 64}", "127.0.0.1:1/x"),
]
BAD = [
    *("", " ", "a b:1", "a\nb", "-x:1", "--privileged", "a..b/x:1", "reg.io/täg:täg", "x:", "x:-y", "X:1"),
    *(
        "Team/x",
        "r:99999/x:1",
        "r:0/x",
        "r.io:٨/x",
        "x@sha256:12",
        "/x",
        "x/",
        "a//b",
        "$HOME/x",
        "x;id",
        "x:1:2",
    ),
    *("docker://x", "x" * 600, f"x:{'t' * 129}"),
]


@pytest.mark.parametrize("name", GOOD)
def test_names_of_registries(name: str) -> None:
    assert names.is_reference(name)


@pytest.mark.parametrize("name", BAD)
def test_names_of_none(name: str) -> None:
    assert not names.is_reference(name)
