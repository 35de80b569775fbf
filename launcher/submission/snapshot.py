"""What a run carries in its folder: the user's code as it is now, and for a foreign image our programs.

Owns the copies. They are made once, before the run is submitted, so that nothing that is edited while it waits, or
before it is resumed, changes what it runs.

    <run>/code/        the user's code          code.json   what it was taken from, with its hash
    <run>/programs/    docker/ for the ranks of an image that has none
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import atomic, units
from launcher.errors import SubmitError
from launcher.rendering import own_image

if TYPE_CHECKING:
    from launcher.planning.code import Code, File
    from launcher.planning.plan import Plan

FACTS = "code.json"


def write(plan: Plan, scheduler: str) -> None:
    """Put into the plan's folder what its ranks need there. Raises SubmitError for a file that is gone by now."""
    folder = Path(plan.folder)
    if plan.code:  # on Kubernetes it is part of the manifest, and here for `rerun` and `compare`
        _copy(plan.code, folder / own_image.CODE)
        told = json.dumps(facts(plan.code, folder / own_image.CODE), indent=1, ensure_ascii=False)
        atomic.write(folder / FACTS, units.escaped(f"{told}\n").encode())
    if own_image.carries(plan, scheduler) and scheduler != "kubernetes":
        for path, content in own_image.programs():
            target = folder / own_image.PROGRAMS / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _copy(code: Code, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in code.files:
        target = folder / file.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.link:
                target.symlink_to(file.link)
                continue
            if file.content is None:
                shutil.copyfile(file.source, target)
            else:
                target.write_bytes(file.content)
            target.chmod(Path(file.source).stat().st_mode & 0o755)  # what only its owner reads stays so
        except OSError as error:
            what = f"{file.source} cannot be copied into the run folder: {error.strerror}"
            raise SubmitError(what, hint="submit the job again") from None


def facts(code: Code, copy: Path) -> dict[str, object]:
    """code.json: where the code came from, how much it is, and the hash of its paths, modes and contents."""
    digest = hashlib.sha256()
    for file in code.files:
        content = hashlib.sha256(_bytes(file, copy)).hexdigest()
        kind = "link" if file.link else "executable" if file.executable else "file"
        digest.update(f"{kind} {content} ".encode() + atomic.encoded(file.path) + b"\0")
    return {
        "root": code.root,
        "program": code.program,
        "files": len(code.files),
        "paths": [file.path for file in code.files],
        "bytes": code.size,
        "sha256": digest.hexdigest(),
        "left_out": list(code.left_out),
    }


def _bytes(file: File, copy: Path) -> bytes:
    if file.link:
        return atomic.encoded(file.link)
    return file.content if file.content is not None else (copy / file.path).read_bytes()
