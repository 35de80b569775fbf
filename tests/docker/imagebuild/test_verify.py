"""What a good image is: each way to go wrong, set by hand, is found."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from imagebuild import check, verify

if TYPE_CHECKING:
    from pathlib import Path

CUDA = check.make("train", "cuda", {})
VERSIONS = {"torch": "2.15.0+cu132", "cuda": "13.2", "nccl": CUDA.nccl, "deepspeed": "0.19.8"}


def test_the_versions_asked_for_are_fine() -> None:
    assert verify.version_problems(VERSIONS, CUDA) == []
    cpu = check.make("train", "cpu", {})
    assert verify.version_problems({**VERSIONS, "torch": "2.13.0+cpu", "cuda": "", "nccl": ""}, cpu) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("torch", "2.13.0", "torch is 2.13.0 in the image, but 2.15.0 was asked for"),
        ("cuda", "", "cuda is (none) in the image, but 13.2 was asked for"),
        ("nccl", "2.20.5", "nccl is 2.20.5 in the image"),
        ("deepspeed", "0.19.7", "deepspeed is 0.19.7 in the image, but 0.19.8 was asked for"),
    ],
)
def test_another_version_is_found(name: str, value: str, message: str) -> None:
    (problem,) = verify.version_problems({**VERSIONS, name: value}, CUDA)
    assert message in problem


def test_an_image_holds_neither_compilers_nor_remote_shells() -> None:
    clean: dict[str, str | None] = dict.fromkeys((*verify.COMPILERS, *verify.UNWANTED))
    assert verify.extra_problems(clean, compiler=False) == []
    with_gcc = {**clean, "gcc": "/usr/bin/gcc"}
    assert verify.extra_problems(with_gcc, compiler=False) == ["gcc is in the image (/usr/bin/gcc)"]
    assert verify.extra_problems(with_gcc, compiler=True) == []
    assert verify.extra_problems({**clean, "sshd": "/usr/sbin/sshd"}, compiler=True) == [
        "sshd is in the image (/usr/sbin/sshd)"
    ]


def test_a_library_that_is_not_the_inspected_one_is_found(tmp_path: Path) -> None:
    entry = {"file": "ops/cpu_adam_op.so", "sha256": hashlib.sha256(b"inspected").hexdigest()}
    (missing,) = verify.file_problems({"CPU_ADAM": entry}, tmp_path)
    assert missing.endswith("cpu_adam_op.so is missing")
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "cpu_adam_op.so").write_bytes(b"another")
    (other,) = verify.file_problems({"CPU_ADAM": entry}, tmp_path)
    assert other.endswith("is not the file of the wheel")
    (tmp_path / "ops" / "cpu_adam_op.so").write_bytes(b"inspected")
    assert verify.file_problems({"CPU_ADAM": entry}, tmp_path) == []


def test_a_mislabelled_wheel_is_none_of_pips_problems() -> None:
    said = (
        "deepspeed-kernels 0.0.1.dev1698255861 is not supported on this platform\n"
        "torch 2.13.0 is not supported on this platform\n"
        "trl 1.10.0 requires accelerate, which is not installed.\n"
    )
    assert verify.pip_problems(said) == [
        "pip check: torch 2.13.0 is not supported on this platform",
        "pip check: trl 1.10.0 requires accelerate, which is not installed.",
    ]
