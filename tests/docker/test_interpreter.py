"""The ranks' own Python (docker/interpreter.py): a venv, conda's environments by path and name, a plain interpreter."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from pathlib import Path

interpreter = importlib.import_module("interpreter")
ending = importlib.import_module("ending")
SHOW = "import json, os, sys; print(json.dumps([sys.executable, sys.prefix, dict(os.environ)]))"


def conda(folder: Path, **files: object) -> Path:
    """An environment as conda leaves it: this Python, and its own files."""
    (folder / "bin").mkdir(parents=True)
    (folder / "conda-meta").mkdir()
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def started(named: str, **env: str) -> list[object]:
    words = [sys.executable, str(entries.DOCKER / "interpreter.py"), named, "-c", SHOW]
    done = subprocess.run(words, env={**entries.CLEAN, **env}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("named", ["", "/bin/python"])
def test_a_venv_is_as_activated(named: str, tmp_path: Path) -> None:
    folder = tmp_path / "it's mine"
    venv.create(folder, symlinks=True)
    executable, prefix, env = started(
        f"{folder}{named}", PATH="/usr/bin:/bin", PYTHONHOME="", CONDA_PREFIX="/c"
    )
    assert (executable, prefix) == (f"{folder}/bin/python", str(folder))
    assert isinstance(env, dict)
    assert env["VIRTUAL_ENV"] == str(folder)
    assert env["PATH"] == f"{folder}/bin:/usr/bin:/bin"
    assert not {"PYTHONHOME", "CONDA_PREFIX"} & set(env)


def test_condas_variables_are_set_without_its_scripts(tmp_path: Path) -> None:
    state = {"env_vars": {"MINE": "a $b 'c'", "GONE": "***unset***"}}
    folder = conda(
        tmp_path / "miniforge3" / "envs" / "train",
        **{"conda-meta__state": state, "etc__conda__env_vars.d__x_json": {"OF_PACKAGE": "1"}},
    )
    scripts = folder / "etc" / "conda" / "activate.d"
    scripts.mkdir()
    (scripts / "cuda.sh").write_text("touch pwned")
    for named in ("train", str(folder), f"{folder}/bin/python"):
        chosen = interpreter.resolve(named, {"HOME": str(tmp_path)})
        assert chosen.python == f"{folder}/bin/python"
        assert chosen.variables == {
            "CONDA_PREFIX": str(folder),
            "CONDA_DEFAULT_ENV": "train",
            "CONDA_SHLVL": "1",
            "MINE": "a $b 'c'",
            "OF_PACKAGE": "1",
        }
        assert chosen.notes == (f"{scripts} is not run (cuda.sh): put what it sets into `env:`",)


@pytest.mark.parametrize("where", ["CONDA_ENVS_PATH", "CONDA_EXE", "MAMBA_ROOT_PREFIX", "environments.txt"])
def test_conda_keeps_its_environments_in_many_places(where: str, tmp_path: Path) -> None:
    folder, home = conda(tmp_path / "root" / "envs" / "train"), tmp_path / "home"
    (home / ".conda").mkdir(parents=True)
    env = {"HOME": str(home)}
    if where == "environments.txt":
        (home / ".conda" / where).write_text(f"{tmp_path}/gone\n{folder}\n")
    elif where == "CONDA_EXE":
        env[where] = str(tmp_path / "root" / "bin" / "conda")
    else:
        env[where] = str(folder.parent if where == "CONDA_ENVS_PATH" else tmp_path / "root")
    assert interpreter.resolve("train", env).folder == f"{folder}/bin"
    assert not (tmp_path / "pwned").exists()


def test_a_plain_interpreter_hides_no_program(tmp_path: Path) -> None:
    own = tmp_path / "bin" / "python3.12"
    own.parent.mkdir()
    own.symlink_to(sys.executable)
    chosen = interpreter.resolve(str(own), {})
    assert chosen.variables == {}
    assert chosen.environment({"PATH": "/usr/bin", "VIRTUAL_ENV": "/v"}) == {
        "PATH": f"{own.parent}:/usr/bin",
        "VIRTUAL_ENV": "/v",
    }
    assert chosen.environment({"PATH": f"/usr/bin:{own.parent}"}) == {"PATH": f"/usr/bin:{own.parent}"}


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("{}/gone", "python {0}/gone: there is no {0}/gone on this host"),
        ("{}", "python {0}: {0} is no environment: it has no bin/python"),
        ("{}/file", "python {0}/file: {0}/file is no program that can be started"),
        ("train", "python train: no conda environment of this name on this host"),
        ("envs/train", "python envs/train: no conda environment"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(named: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ending.Stop) as caught:
        interpreter.resolve(named.format(tmp_path), {"HOME": str(tmp_path)})
    assert said.format(tmp_path) in str(caught.value)
    assert caught.value.code == ending.BAD_INPUT
    words = [sys.executable, str(entries.DOCKER / "interpreter.py"), named.format(tmp_path)]
    done = subprocess.run(words, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (ending.BAD_INPUT, f"{caught.value}\n")


def test_folders_that_cannot_be_asked_are_none(tmp_path: Path) -> None:
    """As a home that this host does not let the user enter; a name that is too long is refused to root as well."""
    closed = f"{tmp_path}/{'x' * 300}"
    with pytest.raises(ending.Stop, match="cannot be reached on this host: File name too long"):
        interpreter.resolve(f"{closed}/bin/python", {})
    mine = conda(tmp_path / "envs" / "mine")
    found = interpreter.resolve("mine", {"HOME": closed, "CONDA_ROOT": str(tmp_path)})
    assert found.python == f"{mine}/bin/python"
