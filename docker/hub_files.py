"""Which files of a hub's repository are wanted, and which of them the hub's cache on this host has."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Files that no workload reads: other frameworks' weights, and a model's second copy of its own.
_FOREIGN = (
    *("*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.gguf", "*.mlmodel", "original/*", "onnx/*"),
    "consolidated*",  # Mistral's own copy beside that of transformers
)
_SAFE = ("*.safetensors", "*.safetensors.index.json", "*.bin.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model", "config.json")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")  # not needed where there are safetensors


def wanted(files: Iterable[str], weights: bool = True) -> list[str]:
    """Those of a repository's files that workloads read."""
    names = list(files)
    safe = any(name.endswith(".safetensors") and "/" not in name for name in names)
    left_out = (*_FOREIGN, *(_PICKLED if safe or not weights else ()), *(() if weights else _SAFE))
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in left_out)]


def size(cache: Path) -> int:
    """Bytes of all files that the cache has of the model, unfinished ones too."""
    bytes_ = 0
    with contextlib.suppress(OSError):
        for path in (cache / "blobs").iterdir():
            with contextlib.suppress(OSError):
                bytes_ += path.stat().st_size
    return bytes_


def is_whole(cache: Path, weights: bool = True) -> bool:
    """Whether the cache has a configuration and all weights, or a tokenizer, as far as that is seen without the hub."""
    try:
        commit = (cache / "refs" / "main").read_text(encoding="ascii").strip()
        snapshot = cache / "snapshots" / commit
        if not weights:
            return any((snapshot / name).exists() for name in TOKENIZER)
        return _has_weights(snapshot)
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _has_weights(snapshot: Path) -> bool:
    weights = [
        path for path in snapshot.iterdir() if path.suffix in (".safetensors", ".bin") and path.exists()
    ]
    weights = [path for path in weights if path.name != "training_args.bin"]
    numbered = [part for path in weights if (part := re.search(r"-of-(\d+)\.", path.name))]
    if any(len(numbered) < int(part[1]) for part in numbered):  # their index may come last
        return False
    indices = list(snapshot.glob("*.index.json"))
    shards = {name for index in indices for name in json.loads(index.read_text())["weight_map"].values()}
    whole = all((snapshot / str(name)).exists() for name in shards)
    return (snapshot / "config.json").exists() and bool(weights) and whole
