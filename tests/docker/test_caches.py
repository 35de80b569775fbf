"""Compile caches (docker/caches.py): nobody else's, kept, never shared by two node entries, and not for ever."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

caches = importlib.import_module("caches")
ending = importlib.import_module("ending")

NAMES = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR")
NOBODY = 65534


@contextlib.contextmanager
def caches_of(
    scratch: Path, made_for: str = "image:1, cpu", own: dict[str, str] | None = None
) -> Iterator[Any]:
    """(variables, what was said) of one node entry."""
    said: list[str] = []
    request = caches.Request(scratch, NAMES, made_for)
    with caches.variables(request, own or {}, said.append) as found:
        yield found, said


def base(scratch: Path) -> Path:
    return scratch / f"deepspeed-cache-{os.geteuid()}"


def test_the_next_run_has_the_same_folders(tmp_path: Path) -> None:
    scratch = tmp_path / "not" / "there"
    with caches_of(scratch) as (first, said):
        assert set(first) == set(NAMES)
        (Path(first["TRITON_CACHE_DIR"]) / "kernel").touch()
    with caches_of(scratch) as (second, _):
        assert second == first
        assert (Path(second["TRITON_CACHE_DIR"]) / "kernel").exists()
    assert said == []
    folder = Path(first["TRITON_CACHE_DIR"])
    for path in (folder, *folder.relative_to(base(scratch)).parents):
        assert (base(scratch) / path).stat().st_mode & 0o777 == 0o700


def test_a_permissive_umask_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with caches_of(tmp_path) as (found, said):
            assert all(Path(path).stat().st_mode & 0o777 == 0o700 for path in found.values())
    finally:
        os.umask(before)
    assert said == []


def test_what_does_not_fit_is_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with caches_of(tmp_path) as (one, _), caches_of(tmp_path, "image:2, cpu") as (other, _):
        assert not set(one.values()) & set(other.values())
        assert Path(one["TRITON_CACHE_DIR"]).parts[-2] == "0"
        assert Path(other["TRITON_CACHE_DIR"]).parts[-2] == "0"
    monkeypatch.setattr(caches, "_gpus", lambda: ["Model: H100"])
    with caches_of(tmp_path) as (gpu, _):
        assert not set(one.values()) & set(gpu.values())


def test_two_node_entries_at_once_do_not_share(tmp_path: Path) -> None:
    with caches_of(tmp_path) as (one, _):
        with caches_of(tmp_path) as (other, _):
            assert not set(one.values()) & set(other.values())
        with caches_of(tmp_path) as (again, _):
            assert again == other
    with caches_of(tmp_path) as (first, _):
        assert first == one


def test_a_lock_of_a_killed_compiler_is_removed(tmp_path: Path) -> None:
    """torch would wait for it for ever: torch/utils/file_baton.py."""
    with caches_of(tmp_path) as (found, _):
        lock = Path(found["TORCH_EXTENSIONS_DIR"]) / "cpu_adam" / "lock"
        lock.parent.mkdir()
        lock.touch()
    with caches_of(tmp_path) as (again, _):
        assert again == found
        assert not lock.exists()


def test_what_was_not_used_for_long_is_removed_unless_in_use(tmp_path: Path) -> None:
    with caches_of(tmp_path, "old") as (old, _), caches_of(tmp_path, "used") as (used, _):
        for folder in (old, used):
            lock = Path(folder["TRITON_CACHE_DIR"]).parent.with_suffix(".lock")
            os.utime(lock, (0, time.time() - caches.KEPT - 60))
        with caches_of(tmp_path, "new"):
            assert Path(old["TRITON_CACHE_DIR"]).exists(), "it is locked"
    (Path(used["TRITON_CACHE_DIR"]).parent.with_suffix(".lock")).touch()
    with caches_of(tmp_path, "new"):
        assert not Path(old["TRITON_CACHE_DIR"]).parent.exists()
        assert Path(used["TRITON_CACHE_DIR"]).exists()


def planted_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def planted_open(path: Path, _elsewhere: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def planted_foreign(path: Path, _elsewhere: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)


def planted_file(path: Path, _elsewhere: Path) -> None:
    path.touch()


PLANTED = {
    planted_link: "is a link or a file",
    planted_open: "can be opened by others (mode 777)",
    planted_foreign: f"belongs to user {NOBODY}",
    planted_file: "is a link or a file",
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("level", range(5))
def test_what_another_user_planted_is_not_used(
    plant: Callable[..., None], level: int, tmp_path: Path
) -> None:
    """At each level that the node entry makes: the user's folder, home, the kind, the folder in it, a cache."""
    if plant is planted_foreign and os.geteuid() != 0:
        pytest.skip("it needs root")
    scratch, elsewhere = tmp_path / "scratch", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with caches_of(scratch) as (before, _):
        cache = Path(before["TRITON_CACHE_DIR"])
    target = [base(scratch), base(scratch) / "home", cache.parents[1], cache.parent, cache][level]
    target.rename(tmp_path / "kept")
    plant(target, elsewhere)
    with caches_of(scratch) as (found, said):
        (line,) = said
        assert PLANTED[plant] in line
        folders = {Path(path).parent for path in found.values()}
        (folder,) = folders
        assert folder.parent == scratch
        assert str(folder) in line
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.stat().st_uid == os.geteuid()
    assert not folder.exists(), "nobody can find it again"
    assert list(elsewhere.iterdir()) == []


def test_scratch_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ending.Stop) as stop, caches_of(tmp_path / "file" / "below"):
        pass
    assert str(stop.value) == f"scratch {tmp_path}/file/below cannot be written: Not a directory"
    assert stop.value.code == ending.BAD_INPUT


def test_what_an_image_keeps_in_a_shared_place_is_moved(tmp_path: Path) -> None:
    """docker/Dockerfile's HOME and caches lie below /tmp, which may be the host's, with other users' folders in it."""
    own = {
        "HOME": "/tmp",
        "HF_HOME": "/tmp/cache/huggingface",
        "XDG_CACHE_HOME": "/tmp/cache",
        "X": "/tmp/cached",
    }
    with caches_of(tmp_path, own=own) as (found, _):
        home = str(base(tmp_path) / "home")
        wanted = {"HOME": home, "HF_HOME": f"{home}/.cache/huggingface", "XDG_CACHE_HOME": f"{home}/.cache"}
        assert {name: value for name, value in found.items() if name not in NAMES} == wanted
    with caches_of(tmp_path, own={"HOME": "/home/me", "HF_HOME": "/data/cache"}) as (found, _):
        assert set(found) == set(NAMES)


def test_an_image_says_nothing_of_a_shared_place_that_is_not_moved() -> None:
    """Every path below /tmp in an image's ENV is HOME or below the folder that is moved."""
    for name in ("Dockerfile", "serve.Dockerfile"):
        words = (entries.DOCKER / name).read_text().split()
        values = [word.split("=", 1) for word in words if "=/tmp" in word and not word.startswith("target")]
        paths = [v for k, v in values if k.isupper() and (k, v) != ("HOME", caches.IMAGE_HOME)]
        assert paths
        assert all(p == caches.IMAGE_CACHE or p.startswith(f"{caches.IMAGE_CACHE}/") for p in paths), paths


@pytest.mark.heavy
def test_ranks_have_them_unless_the_job_names_its_own(tmp_path: Path) -> None:
    with entries.jobs(tmp_path) as make:
        job = make(hosts=2)
        path = job.folder / "environment.json"
        path.write_text(json.dumps({"HOME": {"value": "/tmp"}, "XDG_CACHE_HOME": {"value": "/mine"}}))
        names = ["HOME", "XDG_CACHE_HOME", "HF_HOME", *NAMES]
        dump = f"import json, os; print(json.dumps([os.environ.get(n) for n in {names!r}]))"
        options = ("--scratch", str(tmp_path), "--caches", ",".join(NAMES), "--caches-for", "x")
        job.start_all(
            entries.WAIT + f"; {dump}",
            *options,
            "--environment",
            str(path),
            HOME="/tmp",
            HF_HOME="/tmp/cache/hf",
        )
        job.ranks()
        job.go_on()
        assert job.codes() == [0, 0]
        found = [json.loads(job.log(rank)) for rank in (0, 1)]
    home = str(base(tmp_path) / "home")
    assert [f[:3] for f in found] == [["/tmp", "/mine", f"{home}/.cache/hf"]] * 2
    slots = {Path(f[4]).parent.name for f in found}
    assert slots == {"0", "1"}
    assert all(Path(f[4]).is_dir() for f in found)


def test_a_killed_node_entry_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(entries.DOCKER)!r}); import caches; from pathlib import Path\n"
        f"with caches.variables(caches.Request(Path({str(tmp_path)!r}), {NAMES!r}, 'x'), {{}}, print) as found:\n"
        "    print(found['TRITON_CACHE_DIR'], flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        theirs = process.stdout.readline().strip()
        with caches_of(tmp_path, "x") as (found, _):
            assert Path(found["TRITON_CACHE_DIR"]).parent.name == "1"
        process.kill()
    with caches_of(tmp_path, "x") as (found, _):
        assert found["TRITON_CACHE_DIR"] == theirs
