"""Files as ConfigMaps: each small enough for `kubectl apply`, none lost, and in one folder of the pod again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.schedulers.kubernetes import configmaps
from tests.launcher.schedulers.kubernetes import configmaps_there

ANNOTATIONS = 2**18  # https://kubernetes.io/docs/concepts/overview/working-with-objects/annotations/


def applied(held: configmaps.ConfigMap) -> str:
    """The object as `kubectl apply` writes it into its annotation: Go's JSON, which escapes what HTML would read."""
    text = json.dumps(document(held), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def document(held: configmaps.ConfigMap) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": held.name},
        "data": held.text,
        "binaryData": held.binary,
    }


@pytest.mark.parametrize(
    "content",
    [
        b"x" * 50_000,
        b'\n"\\' * 20_000,
        b"<>&" * 10_000,
        "\u2028é😀".encode() * 10_000,
        b"\x01\x1f\x7f" * 10_000,
        b"\xff" * 70_000,
    ],
    ids=["plain", "escaped", "html", "unicode", "control", "binary"],
)
def test_each_is_small_enough_for_kubectl_apply(content: bytes) -> None:
    files = [(f"folder/{n}.py", content, False) for n in range(12)]
    maps = configmaps.of("run-code", files)
    assert [held.name for held in maps] == ["run-code", *(f"run-code-{n}" for n in range(2, len(maps) + 1))]
    assert len(maps) > 1
    for held in maps:
        assert len(applied(held).encode()) < ANNOTATIONS - 16_000, "room for labels and annotations"
    arrived = configmaps_there.contents(list(map(document, maps)), configmaps.source(maps))
    assert arrived == {path: bytes_ for path, bytes_, _ in files}


def test_a_file_that_is_too_large_for_that_is_alone() -> None:
    files = [("a", b"1", False), ("large", b"x" * 300_000, False), ("z", b"2", True)]
    maps = configmaps.of("c", files)
    assert [list(held.text) for held in maps] == [["0-a"], ["1-large"], ["2-z"]]
    assert maps[2].items == [{"key": "2-z", "path": "z", "mode": 0o755}]


def test_few_files_are_one_configmap() -> None:
    maps = configmaps.of("c", [("a/b", b"1", False), ("a b", b"2", False)])
    assert configmaps.source(maps) == {
        "configMap": {
            "name": "c",
            "items": [{"key": "0-a_b", "path": "a/b"}, {"key": "1-a_b", "path": "a b"}],
        }
    }
