"""Of a repository of the hub what workloads read is wanted, and no other framework's weights."""

from __future__ import annotations

import hub_files
import pytest


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        (["a.safetensors", "b.bin", "c.json"], ["a.safetensors", "c.json"]),
        (["b.bin", "original/b.pth", "c.json"], ["b.bin", "c.json"]),
        (["x/a.safetensors", "b.bin"], ["x/a.safetensors", "b.bin"]),
        (["tf_model.h5", "flax_model.msgpack", "m.gguf"], []),
    ],
)
def test_wanted(files: list[str], kept: list[str]) -> None:
    assert hub_files.wanted(files) == kept


def test_of_a_tokenizer_all_but_weights_is_wanted() -> None:
    names = ["a.safetensors", "model.safetensors.index.json", "b.bin", "vocab.json", "chat_template.jinja"]
    assert hub_files.wanted(names, weights=False) == ["vocab.json", "chat_template.jinja"]
