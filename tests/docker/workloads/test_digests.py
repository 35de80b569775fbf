"""A file's digest is that of what was meant to be written; each file has a rank that compares it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from workloads import digests

if TYPE_CHECKING:
    from pathlib import Path

FILES = [
    "mp_rank_00_model_states.pt",
    "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "critic/zero_pp_rank_3_mp_rank_00_model_states.pt",
    "rng_state_2.pth",
    "trainer_state.json",
    "layer_0_expert_5_mp_rank_00_model_states.pt",
]


def test_what_is_written_piece_by_piece_has_the_digest_of_the_whole(tmp_path: Path) -> None:
    pieces = [b"", b"1", os.urandom(70_000), b"end"]
    with digests.HashingFile(str(tmp_path / "a")) as file:
        for piece in pieces:
            assert file.write(memoryview(piece)) == len(piece)
        written = file.to_disk()
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)
    assert digests.of(tmp_path / "a") == written
    assert written.size == 70_004


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_every_file_is_compared_by_one_rank_and_its_own_by_each(world_size: int) -> None:
    shares = [digests.share(FILES, rank, world_size) for rank in range(world_size)]
    assert sorted(name for share in shares for name in share) == sorted(FILES)
    if world_size >= 4:
        assert "critic/zero_pp_rank_3_mp_rank_00_model_states.pt" in shares[3]
        assert "rng_state_2.pth" in shares[2]


@pytest.mark.parametrize("place", [0, 5, 999])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_found(place: int, bit: int, tmp_path: Path) -> None:
    path = tmp_path / "states.pt"
    path.write_bytes(bytes(range(250)) * 4)
    known = {"states.pt": digests.of(path).digest}
    assert digests.damaged(tmp_path, known, known) == []
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    assert digests.damaged(tmp_path, known, known) == [
        "states.pt has other bytes than were written (xxh3_128 differs)"
    ]


def test_a_file_that_cannot_be_read_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "states.pt").mkdir()
    assert digests.damaged(tmp_path, ["states.pt"], {"states.pt": "0"}) == [
        "states.pt cannot be read: Is a directory"
    ]
    assert digests.damaged(tmp_path, ["states.pt"], {}) == []
