"""An image that is not this project's: which it is, how its own Python starts the node entry, what it is given.

Owns the words of that start and the files of docker/ that such an image lacks; a runtime's mounts are containers.py's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from launcher import ROOT, exit_codes, workloads
from launcher.images import origin

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

CODE = "code"  # below a run's folder: the user's code
PROGRAMS = "programs"  # below a run's folder: docker/
INSIDE = "/opt/launcher"  # where an image that is not ours sees them
OLDEST = (3, 10)
_BAD = exit_codes.BY_NAME["BAD_INPUT"].code

# One message, before any rank starts, for an image without a Python that can run the node entry; the outcome as
# docker/ending.py writes it, because srun reports the last host to end and not the first to fail.
_START = f"""\
fail() {{
  echo "node: error: $said" >&2; folder="" attempt=""
  while [ $# -gt 1 ]; do
    case $1 in --folder) folder=${{folder:-$2}} ;; --attempt) attempt=${{attempt:-$2}} ;; esac
    shift
  done
  set -C
  [ -d "${{folder:-}}" ] && echo "{_BAD} -1 $(uname -n) $(date +%s)" 2>/dev/null >"$folder/outcome-${{attempt:-0}}"
  exit {_BAD}
}}
if ! command -v "$1" >/dev/null; then
  said="the image has no $1; image_python in the cluster file names its Python"; fail "$@"
elif ! "$1" -c 'import sys; sys.exit(sys.version_info < {OLDEST})'; then
  said="$1 of the image is $("$1" --version 2>&1), and the node entry needs {OLDEST[0]}.{OLDEST[1]} or newer"; fail "$@"
fi
exec "$@\""""


def python(plan: Plan) -> str:
    """The Python of an image that is not this project's, as the cluster file names it; '' for one of ours."""
    if plan.cluster.image_python:
        return plan.cluster.image_python
    return "" if plan.image_facts or origin.is_ours(plan.image) else "python3"


def start(plan: Plan) -> list[str]:
    """The words in front of a program of `INSIDE`."""
    return ["/bin/sh", "-c", _START, "sh", python(plan)]


def carries(plan: Plan, scheduler: str) -> bool:
    """Whether a run brings this project's programs into its image."""
    return plan.runtime(scheduler) != "none" and bool(python(plan))


def folders(plan: Plan, scheduler: str) -> list[str]:
    """What a script needs in its run folder, which only a submission puts there."""
    return [*([CODE] if plan.code else []), *([PROGRAMS] if carries(plan, scheduler) else [])]


@functools.cache
def programs() -> tuple[tuple[str, bytes], ...]:
    """(path, content) of the node entry, preflight and our workloads, as /opt/job has them in our images."""
    home = ROOT / "docker"
    paths = [*home.glob("*.py"), *(home / f"{name}.json" for name in ("exit_codes", "frames", "limits"))]
    paths += [p for p in (home / "workloads").rglob("*") if p.suffix in {".py", ".json", ".yaml"}]
    return tuple((path.relative_to(home).as_posix(), path.read_bytes()) for path in sorted(paths))


def needed(plan: Plan) -> list[tuple[str, bytes]]:
    """Those of `programs` that the plan's ranks use: a program of the user's own needs none of our workloads."""
    ours = not workloads.is_script(plan.job.workload)
    return [(path, content) for path, content in programs() if ours or not path.startswith("workloads/")]
