"""The versions of an interpreter's packages, read off the names of their folders.

Owns the question to another interpreter; none of its packages is imported.
"""

from __future__ import annotations

import json
import subprocess

SECONDS = 30
# {name: version} of the first folder on the path that has each, as an import finds it; names as PEP 503 writes them.
_LIST = """
import json, os, re, sys
found = {}
for folder in sys.path:
    for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        match = re.fullmatch(r"(.+?)-([^-]+)(?:-py[0-9.]+)?\\.(?:dist|egg)-info", entry)
        if match:
            found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])
print(json.dumps({"python": sys.version.split()[0], "packages": found}))
"""


def of(python: str) -> tuple[str, dict[str, str]]:
    """(version of the interpreter `python`, package → version); ('', {}) where it does not start."""
    try:
        done = subprocess.run(
            [python, "-c", _LIST], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
        told = json.loads(done.stdout)
        return str(told["python"]), dict(sorted(told["packages"].items()))
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
        return "", {}


def image_digest(engine: str, image: str) -> str:
    """The id of the local image that `engine` (docker or podman) calls `image`, `sha256:…`; '' where there is none."""
    words = [engine, "image", "inspect", "--format", "{{.Id}}", "--", image]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    identity = done.stdout.strip().removeprefix("sha256:")
    return f"sha256:{identity}" if done.returncode == 0 and identity.isalnum() else ""
