"""A hub model's config.json: from the Hugging Face cache of this machine, else from the hub.

Owns the look; what a configuration means is sizing/models.py's. huggingface_hub is not used, since its import takes
longer than a whole command; its variables hold here too:
https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables

    look("owner/model") -> models.Found(config, source) or models.Found(None, reason)
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import errors, workloads
from launcher.sizing import model_files, models
from launcher.sizing.models import Found

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPMessage
    from typing import IO
    from urllib.request import Request

    from launcher.files.load import Loaded

_Answer = tuple["models.Config | None", str]
_SECONDS = 5.0  # for one model, names of hosts included
_MOST = 2**20  # bytes of a config.json
_TRUE = {"1", "ON", "YES", "TRUE"}  # what huggingface_hub takes as such
_unanswered: set[str] = set()  # hubs that did not answer this process, which asks them once


def with_model(loaded: Loaded) -> Loaded:
    """`loaded` with what is known of its model, where that is one of the hub and its size matters."""
    name = loaded.job.model
    own, traits = workloads.is_script(loaded.job.workload), workloads.traits(loaded.job.workload)
    if name is None or not (own or traits.estimated or traits.generates) or not models.is_of_hub(name):
        return loaded
    return loaded._replace(hub=look(name))


@functools.cache
def look(name: str) -> Found:
    """The configuration of hub model `name`, or why it is not known."""
    cache = _cache()
    path = _cached(cache / f"models--{name.replace('/', '--')}")
    if path:
        try:
            return Found(model_files.read(path), str(path))
        except errors.SpecError as error:
            return Found(None, error.problems[0].message)
    where = f"{name} is not in the Hugging Face cache here ({cache})"
    if any(os.environ.get(v, "").upper() in _TRUE for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        return Found(None, f"{where}, and HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"
    if not re.fullmatch(r"https?://[!-~]+", endpoint):
        return Found(None, f"{where}, and HF_ENDPOINT is no address of a hub")
    if endpoint in _unanswered:
        return Found(None, f"{where}, and {_shown(endpoint)} did not answer")
    found = _within(_SECONDS, lambda: _ask(f"{endpoint}/{name}/resolve/main/config.json"))
    if found is None:
        _unanswered.add(endpoint)
        return Found(None, f"{where}, and {_shown(endpoint)} did not answer")
    config, reason = found
    return (
        Found(config, _shown(endpoint))
        if config is not None
        else Found(None, f"{where}; {_shown(endpoint)} {reason}")
    )


def _cache() -> Path:
    """The folder of cached repositories, as huggingface_hub finds it."""
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(own).expanduser() if own else _home() / "hub"


def _home() -> Path:
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = os.environ.get("HF_HOME") or f"{shared}/huggingface"
    try:
        return Path(named).expanduser()
    except RuntimeError:  # no home, or of nobody here
        return Path(named)


def _cached(repository: Path) -> Path | None:
    """config.json of the branch main; None where it is not there, or cannot be read."""
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
        path = repository / "snapshots" / commit / "config.json"
        return path if re.fullmatch("[0-9A-Za-z]+", commit) and path.is_file() else None
    except (OSError, ValueError):
        return None


def _token() -> str:
    """The user's token; '' where there is none that a header can hold."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    if not token:
        path = os.environ.get("HF_TOKEN_PATH")
        try:
            token = (Path(path) if path else _home() / "token").read_text(encoding="ascii")
        except (OSError, ValueError):
            return ""
    return token.strip() if re.fullmatch("[!-~]+", token.strip()) else ""


def _within(seconds: float, ask: Callable[[], _Answer | None]) -> _Answer | None:
    """What `ask` returns, or None after `seconds`: a timeout of sockets does not bound the search for a host's name."""
    answers: list[_Answer | None] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _ask(address: str) -> _Answer | None:
    """(the configuration, '') or (None, what the hub says); None where it does not answer."""
    import http.client
    import urllib.error

    try:
        text = _open(address)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return (
                None,
                f"shows it only to users with a token ({error.code}): set HF_TOKEN, or name a local folder",
            )
        return None, "has no config.json of it" if error.code == 404 else f"answers with {error.code}"
    except (OSError, ValueError, http.client.HTTPException):  # no network, no such host, broken off
        return None
    try:
        config = json.loads(text.decode("utf-8")) if len(text) <= _MOST else None
    except (ValueError, RecursionError):
        config = None
    return (config, "") if isinstance(config, dict) else (None, "sends no configuration of a model")


def _open(address: str) -> bytes:
    """What is there, up to a byte more than `_MOST`. The token goes to that host alone, not where it redirects to."""
    import urllib.request
    from urllib.parse import urlsplit

    token = _token()

    def signed(request: Request) -> Request:
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        return request

    class Redirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> Request | None:
            again = super().redirect_request(req, fp, code, msg, headers=headers, newurl=newurl)
            same = urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]
            return signed(again) if again and same else again

    request = signed(urllib.request.Request(address, headers={"User-Agent": "deepspeed-job-templates"}))
    with urllib.request.build_opener(Redirect).open(request, timeout=_SECONDS) as answer:
        return bytes(answer.read(_MOST + 1))


def _shown(endpoint: str) -> str:
    """An address without the user and password that may be in it."""
    return re.sub("//[^/@]*@", "//", endpoint)
