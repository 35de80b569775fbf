"""Model folders and config.json files of this machine: found, read, or why not. What is in them is models.py's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST = 2**22  # characters of a config.json


def local(model: str) -> Path | None:
    """The config.json that `model` names here. Raises SpecError for a folder without one, or a path that is none."""
    if not model:
        return None
    try:
        path = Path(model).expanduser()
        file = path / "config.json" if path.is_dir() else path
        if file.is_file():
            return file
    except OSError as error:
        raise errors.SpecError(f"model {errors.shown(model)} cannot be read: {error.strerror}") from None
    except RuntimeError:  # of `~name`
        user = model.partition("/")[0].removeprefix("~")
        raise errors.SpecError(f"model {errors.shown(model)}: there is no user {user!r} here") from None
    if path.is_dir():
        raise errors.SpecError(f"{path} has no config.json", hint="name the folder that holds the model")
    return None


def read(file: Path) -> Mapping[str, object]:
    """A config.json. Raises SpecError when it cannot be read, or is no JSON object."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_MOST + 1)
        if len(text) > _MOST:
            raise errors.SpecError(f"{file}: larger than {_MOST:,} characters, so no model's configuration")
        config = json.loads(text)
    except json.JSONDecodeError as error:
        place = errors.Place(str(file), error.lineno, error.colno)
        raise errors.SpecError(errors.Problem(f"not JSON: {error.msg}", "correct the file", place)) from None
    except (ValueError, RecursionError) as error:
        what = (
            "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "no model has such a number"
        )
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else what
        raise errors.SpecError(f"{file}: cannot be read: {reason}", hint="correct the file") from None
    except OSError as error:
        raise errors.SpecError(f"{file}: cannot be read: {error.strerror}") from None
    if not isinstance(config, dict):
        raise errors.SpecError(
            f"{file}: a model configuration is a JSON object, this is a {type(config).__name__}"
        )
    return config


def elsewhere(path: Path) -> str:
    """Why a path may be the ranks' alone; empty where it is here, or can be nowhere."""
    try:
        return "" if path.exists() else "is not on this machine"
    except PermissionError as error:  # in a folder that others may enter
        return f"cannot be read by this user ({error.strerror})"
    except OSError:  # such as a name that is too long
        return ""
