"""Rank 0's uploads to the mirror, beside training: one process at a time, the newest complete checkpoint first.

Owns that process (mirror.py), and what is said of it: a failure once for each cause. It never ends training: it is
tried again after a pause, and with the next checkpoint. The run's `mirror.json` says what is at the mirror.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import BAD_INPUT, NO_CHECKPOINT, SAVED

from workloads import checkpoint_folder, metrics, session
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = "mirror.json"
PAUSE = 60.0  # seconds until an upload that failed is tried again
# Seconds that the end waits for an upload; after a signal the scheduler does not wait for long.
AT_END, AFTER_SIGNAL = 600.0, 10.0
_BEAT = 5.0


def say(text: str) -> None:
    """One line of rank 0's output; the run's log may be closed by now."""
    print(text, flush=True)


@dataclass
class Uploads:
    """The uploads of one attempt, on a thread that waits for their process. `keep`: checkpoints at the mirror."""

    address: str
    run_dir: Path
    keep: int
    owner: str = ""
    pause: float = PAUSE
    wanted: list[str] = field(default_factory=list)  # tags that wait, the newest last
    busy: str | None = None  # the tag that is being uploaded, which nobody may delete
    hopeless: bool = False  # the last one failed in a way that does not pass
    _told: set[str] = field(default_factory=set)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _process: subprocess.Popen[str] | None = None
    _ended: bool = False

    def __post_init__(self) -> None:
        threading.Thread(target=self._work, name="mirror", daemon=True).start()

    def want(self, tag: str) -> None:
        """Upload a complete checkpoint, before those that wait; of these no more than `keep` go on waiting."""
        with self._changed:
            self.wanted = [*self.wanted, tag][-self.keep :]
            self._changed.notify_all()

    @property
    def missing(self) -> list[str]:
        """The tags that are still to be uploaded."""
        return [*([self.busy] if self.busy else []), *self.wanted]

    def finish(self, limit: float) -> list[str]:
        """Wait for what is to be uploaded; returns the tags of what is not after `limit` seconds."""
        end = time.monotonic() + limit
        with self._changed:
            while self.missing and not self.hopeless and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, _BEAT))
                heartbeat.mine().alive()
            missing = self.missing
            self._ended = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()
        return missing

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.wanted or self._ended)
                if self._ended:
                    return
                tag = self.busy = self.wanted.pop()
            done = self._upload(tag)
            with self._changed:
                self.busy = None
                if not done:
                    self.wanted = [tag, *self.wanted][-self.keep :]
                self._changed.notify_all()
                if not done:
                    self._pause(list(self.wanted))

    def _pause(self, waiting: list[str]) -> None:
        """Until it is time to try again, or something else waits."""
        self._changed.wait_for(lambda: self._ended or self.wanted != waiting, self.pause)

    def _upload(self, tag: str) -> bool:
        """Whether there is nothing more to do for this checkpoint."""
        folder = self.run_dir / checkpoint_folder.FOLDER
        words = ["push", self.address, f"--folder={folder}", f"--tag={tag}", f"--keep={self.keep}"]
        words.append(f"--owner={self.owner}")
        try:
            ended = ask(words, self.run_dir, self._started)
        except OSError as error:  # no process, no memory
            ended = {"failed": str(error)}
        finally:
            self._process = None
        if self._ended:
            return False
        self.hopeless = bool(ended.get("lasting"))
        if "done" in ended:
            note(self.run_dir, self.address, ended)
            if ended["bytes"]:
                rate = ended["bytes"] / max(ended["seconds"], 1e-9) / 1e6
                say(f"checkpoint {tag} is at the mirror: {ended['bytes']:,} bytes, {rate:.0f} MB/s")
            self._told.clear()
            return True
        cause = ended.get("gone") or ended["failed"]
        if cause not in self._told:
            self._told.add(cause)
            goes_on = "" if "gone" in ended else "; it is tried again, and training goes on"
            say(f"checkpoint {tag} could not be uploaded to {self.address}: {cause}{goes_on}")
        return "gone" in ended

    def _started(self, process: subprocess.Popen[str]) -> None:
        with self._changed:
            self._process = process
            if self._ended:
                process.kill()


_mine: Uploads | None = None


def completed(tag: str) -> None:
    """Rank 0 calls it once complete.json of a checkpoint is written: it is uploaded, where there is a mirror."""
    if _mine is not None:
        _mine.want(tag)


def in_use() -> str | None:
    """The tag of the checkpoint that must not be deleted now."""
    return _mine.busy if _mine is not None else None


def start(address: str, run_dir: Path, keep: int, owner: str = "") -> None:
    """From now on upload what `completed` tells, first what an earlier attempt has left; the end waits for it."""
    global _mine
    _mine = Uploads(address, run_dir, keep, owner)
    if newest := checkpoint_folder.newest(run_dir / checkpoint_folder.FOLDER):
        _mine.want(newest.tag)
    session.before_leaving.append(_finish)


def _finish(code: int) -> None:
    assert _mine is not None
    limit = AFTER_SIGNAL if code == SAVED else AT_END
    if _mine.missing:
        say(f"waiting for the upload of {', '.join(_mine.missing)}, {limit:.0f} s at most")
    if missing := _mine.finish(limit):
        say(
            f"checkpoint {', '.join(missing)} was not uploaded whole to {_mine.address}: the next start of this run "
            "goes on with it, from the run's folder"
        )
    with contextlib.suppress(OSError):  # one that was uploaded while newer ones were saved
        checkpoint_folder.prune(_mine.run_dir / checkpoint_folder.FOLDER, _mine.keep)


def restore(address: str, run_dir: Path, above: int, owner: str = "") -> str | None:
    """Try the mirror, and fetch from it what is newer than step `above` (-1: there is nothing); returns the tag.

    Raises Stop where the run's folder there is another run's, and where the mirror cannot be written or read, and
    nothing else says where to begin; else that is said.
    """
    folder = run_dir / checkpoint_folder.FOLDER
    words = ["pull", address, f"--folder={folder}", f"--above={above}", f"--owner={owner}"]
    ended = ask(words, run_dir, beat=heartbeat.mine().alive)
    if "done" in ended:
        note(run_dir, address, ended)
        tag: str | None = ended["done"]
        return tag
    if "foreign" in ended:
        raise Stop(f"the mirror {address}: {ended['foreign']}", BAD_INPUT)
    cause = ended.get("gone") or ended["failed"]
    if ended.get("lasting"):
        raise Stop(f"the mirror {address} cannot be used: {cause}. {_ADVICE}", BAD_INPUT)
    if above < 0:
        raise Stop(
            f"the mirror {address} does not answer: {cause}. Whether it has a checkpoint of this run is not known, so "
            "nothing is begun anew",
            NO_CHECKPOINT,
        )
    say(f"the mirror {address} does not answer: {cause}; training goes on, and uploads are tried again")
    return None


_ADVICE = (
    "Check that it exists, that the package of its scheme is in the image, and that the job's `env:` gives credentials "
    "which may list, read, write and delete there; or leave checkpoint.mirror out"
)


def note(run_dir: Path, address: str, ended: dict[str, Any]) -> None:
    """Keep what is at the mirror, and by which identity it is this run's; a full disk is no reason to stop."""
    known = {"address": address, "tags": ended["tags"], "identity": ended.get("identity", "")}
    try:
        metrics.write_atomically(run_dir / FILE, {**known, "time": time.time()})
    except OSError as error:
        say(f"{FILE}: {error}")


def identity(run_dir: Path) -> str:
    """The identity that the run has at its mirror, as its folder knows it; '' where it does not."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads((run_dir / FILE).read_text(encoding="utf-8")).get("identity", ""))
    return ""


def ask(
    words: list[str],
    run_dir: Path,
    started: Callable[[subprocess.Popen[str]], None] = lambda process: None,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """What mirror.py's process tells at its end; what it says before goes to rank 0's output. Raises OSError.

    `beat` is called with each sign that it goes on.
    """
    code = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "workloads.mirror", *words),
            *(
                f"--run={run_dir.resolve().name}",
                f"--parent={os.getpid()}",
                f"--identity={identity(run_dir)}",
            ),
        ],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    started(process)
    last: dict[str, Any] = {}
    assert process.stdout is not None
    for line in process.stdout:
        try:
            last = json.loads(line)
        except ValueError:
            continue
        beat()
        if text := last.pop("say", ""):
            say(text)
    ended = process.wait()
    return last or {"failed": f"its process ended with {ended}"}
