"""Whose a run's folder at the mirror is: two equal jobs have equal ids, and two runs with one id would mix there.

Owns `<address>/<run>/owner.json`, written before anything else. Its `identity` is drawn once and kept in the run's
folder (mirror.json) as well; so a run is known whoever starts it again. Where the run's folder is gone, or has never
met the mirror, `owner` tells: who submitted it, and the folder of runs that it is in, where no two runs have one id.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from workloads.mirror_files import Mirror

FILE = "owner.json"


class ForeignError(Exception):
    """The folder at the mirror is another run's."""


def claim(mirror: Mirror, identity: str, owner: str) -> str:
    """Make the folder this run's, if it is nobody's, and return the run's identity.

    `identity`: as the run's folder knows it, or ''. Raises ForeignError, or what the mirror's file system raises.
    """
    there = _read(mirror)
    if not there:
        identity = identity or secrets.token_hex(16)
        ours = {"identity": identity, "owner": owner, "since": _now()}
        mirror.write(FILE, json.dumps(ours).encode())
        there = _read(mirror)  # of two that come at once, the one that was last has it
    known = str(there.get("identity"))
    if known == identity or (not identity and owner and there.get("owner") == owner):
        return known
    run = mirror.base.rpartition("/")[2]
    raise ForeignError(
        f"{run} there is of another run ({there.get('owner') or 'of nobody known'}, since {there.get('since')}): give "
        f"this one a name of its own (--name NAME), or another checkpoint.mirror. If that run is gone, and this one is "
        f"to go on in its place, delete {run}/{FILE} there"
    )


def of_process(run_dir: Path) -> str:
    """Who runs it, and from where, of a run that was not submitted by the launcher."""
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        return f"{getpass.getuser()}, {run_dir.resolve().parent}"
    return f"{os.getuid()}, {run_dir.resolve().parent}"


def _read(mirror: Mirror) -> dict[str, object]:
    """What owner.json says; nothing where there is none. One that cannot be read is somebody's."""
    try:
        found = json.loads(mirror.read(FILE))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    return found if isinstance(found, dict) and found else {"owner": f"unknown: {FILE} cannot be read"}


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC"
