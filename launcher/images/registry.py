"""The labels of an image in a registry, read by skopeo.

Owns the one request to a registry, which is made when a job is really submitted, and never by `--dry-run`.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from launcher.images import facts as images_facts

if TYPE_CHECKING:
    from launcher.images.facts import Facts

SECONDS = 10  # a slower registry does not delay a submission


def facts(name: str) -> tuple[Facts | None, str]:
    """The facts that the labels of image `name` give, and a note when the registry could not be read.

    The facts are None where skopeo, the registry or such labels are missing.
    """
    answer, note = inspected(name)
    if answer is None:
        return None, note
    return images_facts.from_labels(answer.get("Labels") or {}, f"labels of {name}"), ""


def variables(name: str) -> dict[str, str]:
    """The ENV of image `name`; empty where it cannot be read."""
    answer, _ = inspected(name)
    entries = (str(entry).partition("=") for entry in (answer or {}).get("Env") or [])
    return {variable: value for variable, _, value in entries}


@functools.cache
def inspected(name: str) -> tuple[dict[str, Any] | None, str]:
    """skopeo's answer, and a note when the registry could not be read. None without skopeo, or without a registry."""
    if not in_registry(name) or not shutil.which("skopeo"):
        return None, ""
    # An image for other hosts than this one (a laptop of another kind) is still the one to ask for.
    words = [
        "skopeo",
        "inspect",
        "--no-tags",
        "--override-os=linux",
        "--override-arch=amd64",
        f"docker://{name}",
    ]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
        if not isinstance(answer.get("Labels"), dict | None):
            raise TypeError("its labels are none")
    except subprocess.TimeoutExpired:
        return None, f"{name} was not checked: its registry did not answer within {SECONDS} s"
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return None, f"{name} was not checked: skopeo: {error}"
    if done.returncode:
        return (
            None,
            f"{name} was not checked: {_words(done.stderr) or f'skopeo exited with {done.returncode}'}",
        )
    return answer, ""


def _words(log: str) -> str:
    """The last line of skopeo's log, without its time and level."""
    last = log.strip().rpartition("\n")[2]
    message = re.search(r'msg="((?:\\.|[^"\\])*)"', last)
    return re.sub(r"\\(.)", r"\1", message[1]) if message else last


def in_registry(name: str) -> bool:
    """Whether `name` names its registry: example.org/team/image:tag, localhost:5000/image; no file, no bare name.

    `localhost/image`, without a port, is how podman and buildah call what they built: it is in no registry.
    """
    host, slash, _ = name.partition("/")
    return bool(slash) and ("." in host or ":" in host) and not name.startswith((".", "/"))
