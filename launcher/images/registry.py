"""The labels and the digest of an image in a registry, read by skopeo.

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
    answer, note = inspect(name)
    labels = answer.get("Labels") or {}
    known = images_facts.from_labels(labels, f"labels of {name}") if isinstance(labels, dict) else None
    return known, note


def absent(name: str) -> str:
    """What the registry says where it has no image `name`; '' where it has, or says nothing of it to this machine.

    The words are the OCI distribution specification's error codes, as skopeo tells them:
    https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#error-codes
    """
    note = inspect(name)[1]
    said = note.rpartition("was not checked: ")[2]
    return said if re.search("manifest unknown|name unknown|repository name not known", said) else ""


def variables(name: str) -> dict[str, str]:
    """The ENV of image `name`; empty where it cannot be read."""
    entries = (str(entry).partition("=") for entry in inspect(name)[0].get("Env") or [])
    return {variable: value for variable, _, value in entries}


def digest(name: str) -> str:
    """The digest that the registry gives for image `name`, `sha256:…`; '' where it is not known."""
    given = re.search(r"@(sha256:[0-9a-f]{64})$", name)
    return given[1] if given else str(inspect(name)[0].get("Digest") or "")


def local_digest(engine: str, image: str) -> str:
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


@functools.cache
def inspect(name: str) -> tuple[dict[str, Any], str]:
    """(what the registry says of image `name`, a note when it could not be asked)."""
    if not in_registry(name) or not shutil.which("skopeo"):
        return {}, ""
    # An image for other hosts than this one (a laptop of another kind) is still the one to ask for.
    words = ["skopeo", "inspect", "--no-tags", "--override-os=linux", "--override-arch=amd64"]
    words.append(f"docker://{name}")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
        if not isinstance(answer, dict):
            raise TypeError("its answer is no mapping")
    except subprocess.TimeoutExpired:
        return {}, f"{name} was not checked: its registry did not answer within {SECONDS} s"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return {}, f"{name} was not checked: skopeo: {error}"
    if done.returncode:
        return {}, f"{name} was not checked: {_words(done.stderr) or f'skopeo exited with {done.returncode}'}"
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
