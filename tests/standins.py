"""A folder in which a rendered script runs for real, among stand-ins that write down what they were started with.

Owns the stand-ins and what is read of them; what must arrive is the tests' to say.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import environment

from launcher.planning import plan

PROGRAMS = {
    # what it was started with, each word and variable ended by a NUL
    "python": """printf "%s\\0" "$@" >"$DUMP/words"; env -0 >"$DUMP/environment"
attempt=0
while [ "$1" != -- ]; do
  case $1 in --folder) folder=$2 ;; --attempt) attempt=$2 ;; esac
  shift
done
echo "0 -1 host-1 1.0" >"$folder/outcome-$attempt\"""",
    "apptainer": 'printf "%s\\0" "$@" >"$DUMP/apptainer"',
    "srun": 'printf "%s\\0" "$@" >"$DUMP/srun"; while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": "echo host-1",
}


@dataclass
class Stage:
    """A folder for one run: stand-ins on PATH, a home, a working folder that code would write to."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("bin", "cwd", "home", "dump"):
            (self.folder / name).mkdir()
        for name, body in PROGRAMS.items():
            self.program(self.folder / "bin" / name, body)

    def program(self, path: Path, body: str) -> None:
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def site(self, name: str) -> plan.Workspace:
        """Run folders, interpreter and checkout, each below a folder called `name`."""
        own = self.folder / "named" / name
        own.mkdir(parents=True)
        self.program(own / "python", PROGRAMS["python"])
        return plan.Workspace(f"{own}/checkout", f"{own}/runs", f"{own}/python", "tag")

    def run(self, script: str, *words: str, **more: str) -> int:
        """The exit code of `script words…`, run by bash as a job of Slurm would be; `more` are variables."""
        (self.folder / "job.sh").write_text(script, encoding="utf-8")
        variables = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "HOME": f"{self.folder}/home",
            "DUMP": f"{self.folder}/dump",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "host-1",
        }
        variables |= more
        command = ["/bin/bash", str(self.folder / "job.sh"), *words]
        return subprocess.run(command, cwd=self.folder / "cwd", env=variables, timeout=60).returncode

    def dumped(self, name: str) -> list[str]:
        text = (self.folder / "dump" / name).read_bytes().decode("utf-8", "surrogateescape")
        return text.split("\0")[:-1]

    def environment(self) -> dict[str, str]:
        """What the ranks would get: the node entry's own variables, with the job's on top as it reads them."""
        words, own = self.dumped("words"), dict(entry.split("=", 1) for entry in self.dumped("environment"))
        with mock.patch.dict(os.environ, own, clear=True):
            path = Path(words[words.index("--environment") + 1])
            return environment.inherited() | environment.of_job(path)

    def ran(self) -> list[str]:
        """Files that only code in a value can have made."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("pwned"))
