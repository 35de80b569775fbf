"""Which names are those of this project's images."""

from __future__ import annotations

import pytest

from launcher.images import origin


@pytest.mark.parametrize(
    ("image", "ours"),
    [
        ("deepspeed-train:0123-cuda", True),
        ("registry.example.com:5000/team/deepspeed-inference:1", True),
        ("registry.example.com/vllm-serve:0.33.0", True),
        ("registry.example.com/deepspeed-train@sha256:" + "0" * 64, True),
        ("/images/deepspeed-train-0123-cuda.sqsh", True),
        ("/images/deepspeed-train-0123-cuda/", True),
        ("/images/deepspeed-train-bundle/rootfs", True),
        ("/images/rootfs", False),
        ("nvcr.io/nvidia/pytorch:25.09-py3", False),
        ("python:3.12", False),
        ("deepspeed/deepspeed:latest", False),
        ("registry.example.com/deepspeed-train/mine:1", False),
        ("/images/pytorch.sqsh", False),
    ],
)
def test_is_ours(image: str, ours: bool) -> None:
    assert origin.is_ours(image) is ours
