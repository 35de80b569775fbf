"""Packages are looked up on disk once."""

from __future__ import annotations

import importlib.metadata

import pytest
from workloads import lookups


@pytest.mark.torch
def test_a_package_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = pytest.importorskip("accelerate.utils.imports", reason="the train extra is not installed")
    monkeypatch.setattr(
        imports, "_is_package_available", imports._is_package_available
    )  # is put back afterwards
    read: list[str] = []
    monkeypatch.setattr(importlib.metadata, "metadata", read.append)
    lookups.look_up_once()
    lookups.look_up_once()
    assert [imports.is_peft_available() for _ in range(3)] == [True] * 3
    assert read == ["peft"]
    assert not imports._is_package_available("no_such_package")
