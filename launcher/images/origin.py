"""Whether an image is one of this project's, by its name.

Owns the names. One of ours under another name is started like a foreign one, with the programs mounted, and works too.
"""

from __future__ import annotations

# What docker/imagebuild/build.py and docker/serve.Dockerfile call them; exports add an ending or a folder's name.
OURS = ("deepspeed-train", "deepspeed-inference", "vllm-serve")


def is_ours(image: str) -> bool:
    """Whether `image`, a registry's name or a path, is called like an image of docker/."""
    parts = image.partition("@")[0].rstrip("/").removesuffix("/rootfs").split("/")  # of an unpacked bundle
    return parts[-1].startswith(OURS)
