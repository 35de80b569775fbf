"""Host lists become hostfiles: in Slurm's order and in DeepSpeed's grammar."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import SpecError
from launcher.rendering import hostfile

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.lists(
    st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True),
    min_size=1,
    max_size=20,
    unique=True,
)


@st.composite
def ranges(draw: st.DrawFn) -> str:
    """`3`, `3-7` or `03-07`."""
    first = draw(st.integers(0, 50))
    width = draw(st.integers(1, 3))
    last = first + draw(st.integers(0, 4))
    return draw(st.sampled_from([f"{first:0{width}}", f"{first:0{width}}-{last:0{width}}"]))


@st.composite
def parts(draw: st.DrawFn) -> str:
    """A name with up to three brackets: `gpu[01-03,7]-r[1-2]`."""
    texts = draw(st.lists(st.sampled_from(["a", "gpu", "node-", "r", "x"]), min_size=1, max_size=4))
    brackets = [f"[{','.join(draw(st.lists(ranges(), min_size=1, max_size=3)))}]" for _ in texts[1:]]
    return "".join(text + bracket for text, bracket in zip(texts, [*brackets, ""], strict=True))


HOSTLISTS = st.lists(parts(), min_size=1, max_size=3).map(",".join)


@pytest.mark.parametrize(
    ("hostlist", "names"),
    [
        ("login", ["login"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("gpu[08-10]", ["gpu08", "gpu09", "gpu10"]),
        ("a[1-2]b[3-4]c", ["a1b3c", "a1b4c", "a2b3c", "a2b4c"]),
        (
            "a[1-2]b[1-2]c[1-2]",
            ["a1b1c1", "a1b1c2", "a2b1c1", "a2b1c2", "a1b2c1", "a1b2c2", "a2b2c1", "a2b2c2"],
        ),
        ("b a\nc\t", ["b", "a", "c"]),
        ("", []),
        (" , ", []),
    ],
)
def test_expand(hostlist: str, names: list[str]) -> None:
    assert hostfile.expand(hostlist) == names


@pytest.mark.hypothesis
@pytest.mark.slurm
def test_expand_is_scontrols(tmp_path: Path) -> None:
    if not shutil.which("scontrol"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("scontrol is not here")
    conf = tmp_path / "slurm.conf"  # it reads one even to expand a list; no daemon is asked
    conf.write_text("ClusterName=test\nSlurmctldHost=localhost\n")

    @settings(max_examples=150, deadline=None)
    @given(HOSTLISTS)
    def same(hostlist: str) -> None:
        words = ["scontrol", "show", "hostnames", hostlist]
        done = subprocess.run(
            words, env={**os.environ, "SLURM_CONF": str(conf)}, capture_output=True, text=True, check=True
        )
        assert hostfile.expand(hostlist) == done.stdout.split()

    same()


@given(st.text(max_size=30))
def test_any_text_is_expanded_or_refused(hostlist: str) -> None:
    try:
        names = hostfile.expand(hostlist)
    except SpecError:
        names = []
    assert not any(set(name) & set("[] \n\t,") for name in names)


@pytest.mark.parametrize("hostlist", ["node[1-65537]", "node[1-99999999999]", "a[1-40000],b[1-40000]"])
def test_a_list_without_end(hostlist: str) -> None:
    with pytest.raises(SpecError, match="names more than 65536 hosts"):
        hostfile.expand(hostlist)


def test_the_longest_list() -> None:
    names = hostfile.expand("node[1-65536]")
    assert len(names) == 65_536
    with pytest.raises(SpecError, match="'node9' is listed twice"):
        hostfile.text([*names, "node9"], 8)


def test_text() -> None:
    assert hostfile.text(["a", "b"], 8) == "a slots=8\nb slots=8\n"


def test_every_bad_name_is_said() -> None:
    with pytest.raises(SpecError) as caught:
        hostfile.text(["a", "-b", "c d", "$(e)", "f\n", ""], 8)
    assert len(caught.value.problems) == 5


def test_bad_names_are_said_once_and_of_many_the_first() -> None:
    with pytest.raises(SpecError) as caught:
        hostfile.text(["{#", "x{#", *["x{#"] * 399], 8)  # --seed 66735476 --input 9248 of the fuzzer
    assert len(caught.value.problems) == 2
    with pytest.raises(SpecError, match="and 3,990 more") as caught:
        hostfile.text([f"x{number}!" for number in range(4000)], 8)
    assert len(caught.value.problems) == 11
    with pytest.raises(SpecError, match=r"host 'a' is listed twice.*\nhost 'b' is listed twice"):
        hostfile.text(["a", "b", "a", "b", "c"], 8)


@pytest.mark.hypothesis
@pytest.mark.deepspeed
def test_deepspeed_reads_it(tmp_path: Path) -> None:
    from deepspeed.launcher import runner

    path = tmp_path / "hostfile"

    @settings(max_examples=100, deadline=None)
    @given(NAMES, st.integers(1, 100))
    def same(names: list[str], slots: int) -> None:
        path.write_text(hostfile.text(names, slots))
        assert list(runner.fetch_hostfile(str(path)).items()) == [(name, slots) for name in names]

    same()
