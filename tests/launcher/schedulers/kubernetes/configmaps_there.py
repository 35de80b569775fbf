"""What a kubelet makes of ConfigMaps: the files of a volume, from one of them or projected from several."""

from __future__ import annotations

import base64
from typing import Any

Object = dict[str, Any]


def contents(documents: list[Object], volume: Object) -> dict[str, bytes]:
    """Path → bytes of a pod's `volume`, from the ConfigMaps among `documents`."""
    maps = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ConfigMap"}
    sources = volume["projected"]["sources"] if "projected" in volume else [volume]
    files: dict[str, bytes] = {}
    for source in (entry["configMap"] for entry in sources):
        held = maps[source["name"]]
        values = {key: text.encode() for key, text in held.get("data", {}).items()}
        values |= {key: base64.b64decode(text) for key, text in held.get("binaryData", {}).items()}
        for item in source.get("items") or [{"key": key, "path": key} for key in values]:
            assert item["path"] not in files, f"{item['path']} is there twice"
            files[item["path"]] = values[item["key"]]
    return files
