"""The first process of a pod in kubelet.py: makes its file system, then becomes the container's command.

    pod.py SPEC.json      as root, alone in new mount, UTS, IPC, PID and network namespaces

Owns mounts, user and rights, as a container runtime does. The image is this machine's own file system, overlaid so
that nothing of it changes, with docker/ at /opt/job and the interpreter's environment at /opt/venv, as in the image.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def main() -> None:
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    socket.sethostname(spec["hostname"])
    mount("--make-rprivate", "/")
    root = Path(spec["folder"]) / "root"
    _overlay(root, spec)
    for path, source in spec["binds"].items():  # (host path, read only)
        _bind(root, path, *source)
    for path, size in spec["tmpfs"].items():
        _folder(root, path)
        mount("-t", "tmpfs", "-o", f"mode=1777{f',size={size}' if size else ''}", "tmpfs", f"{root}{path}")
    _folder(root, "/proc")
    mount("-t", "proc", "proc", f"{root}/proc")
    if spec["readonly"]:
        mount("-o", "remount,bind,ro", str(root))
    os.chroot(root)
    os.chdir(spec["workdir"])
    words = ["setpriv", f"--reuid={spec['user']}", f"--regid={spec['group']}"]
    words += [f"--groups={spec['fs_group']}", "--inh-caps=-all", "--bounding-set=-all"]
    words += ["--no-new-privs"] if spec["no_new_privileges"] else []
    os.execvpe("setpriv", [*words, "--", *spec["command"]], spec["env"])


def _overlay(root: Path, spec: dict[str, Any]) -> None:
    """This machine's file system at `root`; what is written to it stays in memory and goes with the namespace."""
    memory = Path(spec["folder"]) / "memory"
    memory.mkdir()
    mount("-t", "tmpfs", "tmpfs", str(memory))
    for name in ("upper", "work"):
        (memory / name).mkdir()
    root.mkdir()
    mount(
        "-t",
        "overlay",
        "overlay",
        "-o",
        f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work",
        str(root),
    )
    mount("--rbind", "/dev", f"{root}/dev")
    # The image's interpreter is anybody's to run; here it may lie in a home folder.
    for folder in Path(spec["interpreter"]).resolve().parents:
        place = root / folder.relative_to("/")
        place.chmod(place.stat().st_mode | 0o011)


def _folder(root: Path, path: str) -> None:
    (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _bind(root: Path, path: str, source: str, readonly: bool) -> None:
    if Path(source).is_dir():
        _folder(root, path)
    else:
        (root / path.lstrip("/")).touch()
    mount("--bind", source, f"{root}{path}")
    if readonly:
        mount("-o", "remount,bind,ro", f"{root}{path}")


if __name__ == "__main__":
    main()
