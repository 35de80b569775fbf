"""Which state of docker/ a run's ranks have: that of their image, and not of the checkout that submits."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.images import registry
from launcher.submission import programs
from tests import samples

HERE = samples.SITE.image_tag
LABELS = {"deepspeed-job.ops": "CPU_ADAM", "deepspeed-job.flavour": "cpu"}


@pytest.mark.parametrize(
    ("image", "revision", "docker"),
    [
        ("registry.example.com/deepspeed-train", "", HERE),
        ("registry.example.com/deepspeed-train:fedcba987654-cuda", "", "fedcba987654"),
        ("registry.example.com/deepspeed-train:mine", "fedcba98765432100000", "fedcba987654"),
        ("registry.example.com/deepspeed-train:mine", "", ""),
    ],
)
def test_an_images_own(image: str, revision: str, docker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {**LABELS, "org.opencontainers.image.revision": revision}
    monkeypatch.setattr(registry, "inspect", lambda name: ({"Labels": labels} if revision else {}, ""))
    assert programs.of(samples.decided(image=image), "kubernetes") == docker


@pytest.mark.parametrize("cluster", [{"image": "python:3.12"}, {}])
def test_what_a_run_brings_with_it_or_has_on_this_machine(cluster: dict[str, Any]) -> None:
    scheduler = "kubernetes" if cluster else "local"
    assert len(programs.of(samples.decided(**cluster), scheduler)) == 64
