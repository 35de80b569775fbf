"""The Python of the ranks where a cluster names its own: an interpreter, a virtual environment, or conda's.

    python interpreter.py PYTHON [ARGUMENT…]    start it with ARGUMENTs, as ranks are; without any, say which it is

Owns finding it on this host, and the variables that activating it would set. No activation script runs: what they do
depends on a shell, and conda's own variables are in files that can be read. Scripts of packages below
etc/conda/activate.d are not run either; the ranks' log names them.

conda's files: https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-environments.html
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ending import BAD_INPUT, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_BASES = ("miniconda3", "miniforge3", "mambaforge", "anaconda3", ".conda", "micromamba")
_UNSET = "***unset***"  # conda/base/constants.py, CONDA_ENV_VARS_UNSET_VAR
_ELSEWHERE = ("/opt/conda", "/opt/miniconda3", "/opt/miniforge3")


@dataclass(frozen=True)
class Interpreter:
    """`python`: its path; `variables`: what activating its environment sets; `notes`: what that leaves out."""

    python: str
    folder: str
    variables: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """`variables` of a process as they are with this environment active."""
        path = variables.get("PATH", os.defpath)
        folders = path.split(os.pathsep)
        # an environment's programs go first; a plain interpreter's folder, such as /usr/bin, hides nothing
        if self.folder not in (folders[:1] if self.variables else folders):
            path = f"{self.folder}{os.pathsep}{path}"
        inactive = ("PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL")
        kept = {k: v for k, v in variables.items() if not self.variables or k not in inactive}
        return {**kept, **self.variables, "PATH": path}


def resolve(named: str, variables: Mapping[str, str]) -> Interpreter:
    """The interpreter that `named` means on this host. Raises Stop when there is none."""
    try:
        path = Path(named).expanduser()
    except RuntimeError:
        raise Stop(BAD_INPUT, f"python {named}: there is no such user on this host") from None
    if not path.is_absolute():
        path = _conda(named, variables)
    if _holds(path.is_dir):
        environment, python = path, path / "bin" / "python"
        if not _holds(python.exists):
            raise Stop(BAD_INPUT, f"python {named}: {path} is no environment: it has no bin/python")
    else:
        environment, python = path.parent.parent, path
    if not _holds(python.exists):
        raise Stop(BAD_INPUT, f"python {named}: {_absent(python)}")
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise Stop(BAD_INPUT, f"python {named}: {python} is no program that can be started")
    folder = str(python.parent)
    if _holds((environment / "pyvenv.cfg").is_file):
        return Interpreter(str(python), folder, {"VIRTUAL_ENV": str(environment)})
    if _holds((environment / "conda-meta").is_dir):
        return Interpreter(str(python), folder, _conda_variables(environment), _left_out(environment))
    return Interpreter(str(python), folder)


def _conda(name: str, variables: Mapping[str, str]) -> Path:
    """The folder of a conda environment that has a name. Raises Stop with where it was looked for."""
    folders = dict.fromkeys(_conda_folders(variables))
    for folder in folders:
        if folder.name == name or (name == "base" and _holds((folder / "condabin").is_dir)):
            return folder
    seen = ", ".join(sorted({str(folder.parent) for folder in folders})) or "no conda was found"
    what = f"no conda environment of this name on this host ({seen})"
    raise Stop(BAD_INPUT, f"python {name}: {what}; write its absolute path")


def _conda_folders(variables: Mapping[str, str]) -> Iterator[Path]:
    """The environments here, those of the conda that is active first."""
    home = Path(variables.get("HOME") or "/")
    roots = [Path(variables[n]) for n in ("CONDA_ROOT", "MAMBA_ROOT_PREFIX") if variables.get(n)]
    if variables.get("CONDA_EXE"):
        roots.append(Path(variables["CONDA_EXE"]).parent.parent)
    roots += [home / base for base in _BASES] + [Path(base) for base in _ELSEWHERE]
    named = variables.get("CONDA_ENVS_PATH") or variables.get("CONDA_ENVS_DIRS") or ""
    parents = [Path(p) for p in named.split(os.pathsep) if p] + [root / "envs" for root in roots]
    for parent in parents:
        yield from sorted(p for p in _entries(parent) if _holds((p / "conda-meta").is_dir))
    yield from (root for root in roots if _holds((root / "conda-meta").is_dir))
    try:  # every environment that conda made for this user, wherever it lies
        lines = (home / ".conda" / "environments.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    yield from (Path(line.strip()) for line in lines if line.strip())


def _holds(question: Callable[[], bool]) -> bool:
    """What a path says of itself; no, where it cannot be asked: pathlib raises below a folder that nobody may enter."""
    try:
        return question()
    except OSError:
        return False


def _absent(path: Path) -> str:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        return f"{path} cannot be reached on this host: {error.strerror}"
    return f"there is no {path} on this host"


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _conda_variables(environment: Path) -> dict[str, str]:
    """What `conda activate` sets beside PATH: its own names, those of packages, and of `conda env config vars`."""
    own = {
        "CONDA_PREFIX": str(environment),
        "CONDA_DEFAULT_ENV": environment.name if environment.parent.name == "envs" else str(environment),
        "CONDA_SHLVL": "1",
    }
    packages = sorted(_entries(environment / "etc" / "conda" / "env_vars.d"))
    named = [_read(file) for file in packages if file.suffix == ".json"]
    state = _read(environment / "conda-meta" / "state").get("env_vars")
    named += [state] if isinstance(state, dict) else []
    given = {name: str(value) for part in named for name, value in part.items()}
    return own | {name: value for name, value in given.items() if value != _UNSET}


def _read(file: Path) -> dict[str, object]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _left_out(environment: Path) -> tuple[str, ...]:
    names = sorted(
        p.name for p in _entries(environment / "etc" / "conda" / "activate.d") if p.suffix == ".sh"
    )
    if not names:
        return ()
    return (
        f"{environment}/etc/conda/activate.d is not run ({', '.join(names)}): put what it sets into `env:`",
    )


def main() -> int:
    named, *words = sys.argv[1:] or [""]
    try:
        chosen = resolve(named, os.environ)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    if not words:
        print(chosen.python)
        return 0
    try:
        os.execve(chosen.python, [chosen.python, *words], chosen.environment(os.environ))
    except OSError as error:
        print(f"python {named}: {chosen.python} cannot be started: {error.strerror}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
