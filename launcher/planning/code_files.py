"""Which files of the user's own code travel: the look at the disk, before anything is copied.

Owns what is left out. In a git checkout git says what belongs to it (tracked and new files, its ignore rules);
elsewhere it is the folder, without caches and virtual environments. Secrets and .git travel from neither.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launcher import workloads
from launcher.errors import LauncherError, PlanError, Problem, shown
from launcher.planning import checkout, secret_files
from launcher.planning.code import NONE, Code, File

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.files.job import Job

MOST_BYTES = 64 * 2**20
MOST_FILES = 10_000
SMALL = 2**22  # bytes up to which contents are read at once: what a run on Kubernetes may bring
_CACHES = {
    *("__pycache__", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"),
    *(".tox", ".nox", ".venv", ".cache", ".idea", ".vscode"),
}


class Found(NamedTuple):
    """The code that travels, or why it cannot. Both are None where there is none to send."""

    code: Code | None = None
    problem: Problem | None = None


def find(job: Job, beside: Path, runs: str) -> Found:
    """The code of `job`, whose paths start at the folder `beside`. The run folders below `runs` are no part of it."""
    runs = os.path.realpath(runs)  # as the paths of files are compared with it
    script = workloads.is_script(job.workload) and job.command is None
    if job.code == NONE and script and not job.workload.startswith("/"):
        what = f"workload {shown(job.workload)}: with `code: none` nothing brings it to the ranks"
        hint = "write the absolute path that it has there, or leave `code` out"
        return Found(problem=Problem(what, hint, about=("job", "workload")))
    if job.code == NONE or (job.code is None and not script and not _names_files(job.command, beside)):
        return Found()
    try:
        program = _program(job.workload, beside) if script else None
        root = _root(job, program, beside)
        code = _collected(root, program, runs)
        stays = next(_staying(job.command or (), Path(code.root), code), None)
        return Found(problem=stays) if stays else Found(code)
    except LauncherError as error:
        return Found(problem=error.problems[0])
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # a closed folder, a long name, a NUL, `~name` of nobody
        about = ("job", "code") if job.code else ("job", "workload")
        reason = getattr(error, "strerror", None) or error
        return Found(problem=Problem(f"the code cannot be read: {reason}", about=about))


def of_snapshot(folder: Path, program: str, paths: Sequence[str]) -> Code:
    """The code that a run carries in `folder`, to travel once more: what was put there, not what ranks wrote there."""
    files = (_file(folder, path, follow=False) for path in paths)
    code = Code(str(folder), program, tuple(file for file in files if isinstance(file, File)))
    return _with_contents(code) if code.size <= SMALL else code


def _names_files(command: list[str] | None, beside: Path) -> bool:
    """Whether a command has a word that is a file or folder beside the job: then that folder travels."""
    words = [word for word in command or () if word and not word.startswith(("-", "/"))]
    packages = [after.partition(".")[0] for word, after in itertools.pairwise(command or ()) if word == "-m"]
    return any(_is_there(beside / name) for name in (*words, *packages, *(f"{p}.py" for p in packages)))


def _staying(command: Sequence[str], root: Path, code: Code) -> Iterator[Problem]:
    """Words of a command that are files here, and will not be where it starts."""
    travels = {file.path for file in code.files}
    for number, word in enumerate(command):
        inside = os.path.normpath(word)
        if word.startswith(("-", "/")) or inside in travels or not _is_file(root / word):
            continue
        outside = inside.startswith("..")
        why = "outside of the code that travels" if outside else "a file that does not travel"
        hint = (
            "write `code: FOLDER`, a folder that holds both"
            if outside
            else "git ignores it, or it looks like a secret: give its absolute path, or rename it"
        )
        yield Problem(f"command: {shown(word)} is {why}", hint, about=("job", "command", number))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a word that is too long for a name
        return False


def _program(written: str, beside: Path) -> Path:
    """The script, or the folder with a __main__.py, that a job names. Raises PlanError."""
    path, about = _absolute(beside / written), ("job", "workload")
    what = f"workload {shown(written)}"
    try:
        is_folder = path.is_dir()
        start = path / "__main__.py" if is_folder else path
        if not start.exists():
            hint = "name a Python file in it"
            if is_folder:
                raise PlanError(Problem(f"{what} is a folder without a __main__.py", hint, about=about))
            hint = (
                "check the path, or write `code: none` if the image or a mount has it"
                if written.startswith("/")
                else "check the path, which starts at the job file's folder"
            )
            raise PlanError(Problem(f"{what} is not here", hint, about=about))
        if not start.is_file():
            raise PlanError(Problem(f"{what} is no file", "name a Python file", about=about))
        with start.open("rb"):
            return path
    except OSError as error:
        raise PlanError(Problem(f"{what} cannot be read: {error.strerror}", about=about)) from None


def _absolute(path: Path) -> Path:
    """`path` with links in its folders resolved, as git has them; a program that is a link keeps its name."""
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def _root(job: Job, program: Path | None, beside: Path) -> Path:
    """The folder that travels: `code:`, else the git checkout that holds the program, else the program's folder."""
    written = job.code
    if written is None:
        if program is None:  # a command's words start at the job file's folder
            return _absolute(beside).resolve()
        start = program if program.is_dir() else program.parent
        return checkout.top(start) or start
    path, about = _absolute(beside / Path(written).expanduser()).resolve(), ("job", "code")
    if not path.is_dir():
        what = f"code {shown(written)} is {'no folder' if path.exists() else 'not here'}"
        hint = "name a folder; a path starts at the job file's folder"
        raise PlanError(Problem(what, hint, about=about))
    if program and not program.is_relative_to(path):
        hint = "name a folder that holds it, or leave `code` out"
        raise PlanError(
            Problem(f"code {shown(written)} does not hold workload {shown(job.workload)}", hint, about=about)
        )
    return path


def _collected(root: Path, program: Path | None, runs: str) -> Code:
    name = program.relative_to(root).as_posix() if program else ""
    paths = checkout.files(root) if checkout.top(root) else _walked(root, runs)
    files: dict[str, File] = {}
    left, size = list[str](), 0
    for path in [*([name] if program and program.is_file() else []), *paths]:
        reason = secret_files.reason(path) if path != name else ""
        if reason:
            left.append(f"{path}: {reason}")
        elif path not in files and not _within(root / path, runs):
            file = _file(root, path, follow=path == name)
            if isinstance(file, str):
                left.append(f"{path}: {file}")
            elif file:
                files[path] = file
                size += file.size
        if len(files) > MOST_FILES:  # a home folder need not be walked to its end
            break
    code = Code(str(root), name, tuple(files[path] for path in sorted(files)), tuple(left))
    if size > MOST_BYTES or len(files) > MOST_FILES:
        raise _too_large(code)
    return _with_contents(code) if size <= SMALL else code


def _too_large(code: Code) -> PlanError:
    what = f"the code in {code.root} has more than {MOST_BYTES // 2**20} MiB or {MOST_FILES:,} files"
    hint = (
        "let .gitignore name what is no code, or write `code: FOLDER`, the part that the ranks need; "
        "`code: none` sends nothing"
    )
    return PlanError(Problem(f"{what}, the largest {code.largest()}", hint, about=("job", "code")))


def _with_contents(code: Code) -> Code:
    read = (f if f.link else f._replace(content=Path(f.source).read_bytes()) for f in code.files)
    return code._replace(files=tuple(f if f.link else f._replace(size=len(f.content or b"")) for f in read))


def _walked(root: Path, runs: str) -> Iterator[str]:
    """Every file below a folder that is no checkout."""
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = sorted(n for n in names if not _passed_over(here / n, runs))
        links = [n for n in names if (here / n).is_symlink()]
        for name in sorted([*files, *links]):
            if not name.endswith((".pyc", ".pyo")):
                yield (here / name).relative_to(root).as_posix()


def _passed_over(folder: Path, runs: str) -> bool:
    environment = (folder / "pyvenv.cfg").exists() or (folder / "conda-meta").exists()
    return folder.name in _CACHES | secret_files.VERSIONS or environment or _within(folder, runs)


def _within(path: Path, runs: str) -> bool:
    return str(path) == runs or str(path).startswith(f"{runs}/")


def _file(root: Path, path: str, follow: bool) -> File | str | None:
    """The file at `path`, why it is left out, or None where it is gone: git lists what was deleted."""
    source = root / path
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if source.is_symlink() and not follow:
            return _link(root, path)
        facts = source.stat()
        if not stat.S_ISREG(facts.st_mode):
            return "neither a file nor a link"
        return File(path, str(source), facts.st_size, bool(facts.st_mode & 0o111))
    return None


def _link(root: Path, path: str) -> File | str:
    """A link to something below `root` that travels too; never what lies outside."""
    source = root / path
    target = os.path.normpath(source.parent / source.readlink())
    beneath = os.path.relpath(target, root)
    inside = not beneath.startswith("..") and Path(os.path.realpath(source)).is_relative_to(
        os.path.realpath(root)
    )
    if not inside or secret_files.reason(beneath):
        return f"a link to {source.readlink()}, outside of the code"
    return File(path, str(source), 0, link=os.path.relpath(target, source.parent))
