"""A hub model's configuration: from the cache, from a hub on this machine's loopback, or a line that says why not."""

from __future__ import annotations

import http.server
import json
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.planning import hub
from launcher.sizing import models
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "owner/a-model"
CONFIG = models.named()["llama-7b"]
TOKEN = "hf_never-to-be-shown"


class Hub(http.server.ThreadingHTTPServer):
    """Answers with what `replies` has for a path: (status, headers, body). `asked`: (path, token) of each question."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        status, headers, body = self.server.replies.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


PATH = f"/{NAME}/resolve/main/config.json"


@pytest.fixture
def servers() -> Iterator[list[Hub]]:
    made = [Hub(), Hub()]
    for server in made:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"),
        *(
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_ENDPOINT",
            "XDG_CACHE_HOME",
            "http_proxy",
            "HTTP_PROXY",
        ),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub.look.cache_clear()
    hub._unanswered.clear()


def cached(folder: Path, config: Any = CONFIG, commit: str = "0123abcd") -> None:
    """The layout of huggingface_hub's cache: a snapshot's files are links to blobs."""
    repository = folder / f"models--{NAME.replace('/', '--')}"
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (repository / part).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs" / "ff").write_text(config if isinstance(config, str) else json.dumps(config))
    (repository / "snapshots" / commit / "config.json").symlink_to("../../blobs/ff")


@pytest.mark.parametrize(
    ("variables", "below"),
    [
        ({}, "hf/hub"),
        ({"HF_HUB_CACHE": "cache"}, "cache"),
        ({"HF_HOME": "", "XDG_CACHE_HOME": "xdg"}, "xdg/huggingface/hub"),
    ],
)
def test_the_cache_is_read_without_a_network(
    variables: dict[str, str], below: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value else "")
    cached(tmp_path / below)
    assert hub.look(NAME).config == CONFIG


def test_the_hub_is_asked_with_the_token_and_once(
    servers: list[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers[0].replies[PATH] = (200, {}, json.dumps(CONFIG).encode())
    monkeypatch.setenv("HF_ENDPOINT", servers[0].url + "/")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.look(NAME) == hub.look(NAME) == models.Found(CONFIG, servers[0].url)
    assert servers[0].asked == [(PATH, f"Bearer {TOKEN}")]


def test_a_token_follows_a_redirection_on_the_same_host_alone(
    servers: list[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers[0].replies[PATH] = (307, {"Location": "/renamed/config.json"}, b"")
    servers[0].replies["/renamed/config.json"] = (302, {"Location": f"{servers[1].url}/blob"}, b"")
    servers[1].replies["/blob"] = (200, {}, json.dumps(CONFIG).encode())
    monkeypatch.setenv("HF_ENDPOINT", servers[0].url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.look(NAME).config == CONFIG
    assert [token for _, token in servers[0].asked] == [f"Bearer {TOKEN}"] * 2
    assert servers[1].asked == [("/blob", None)]


def test_the_token_of_a_login_is_used(
    servers: list[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("HF_ENDPOINT", servers[0].url)
    hub.look(NAME)
    assert servers[0].asked == [(PATH, f"Bearer {TOKEN}")]


@pytest.mark.parametrize("offline", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nobody(offline: str, servers: list[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", servers[0].url)
    monkeypatch.setenv(offline, "1")
    assert "and HF_HUB_OFFLINE is set" in hub.look(NAME).source
    assert servers[0].asked == []


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((401, {}, b""), "shows it only to users with a token (401): set HF_TOKEN, or name a local folder"),
        ((403, {}, b""), "shows it only to users with a token (403)"),
        ((404, {}, b""), "has no config.json of it"),
        ((503, {}, b""), "answers with 503"),
        ((200, {}, b"<html>"), "sends no configuration of a model"),
        ((200, {}, b"[1]"), "sends no configuration of a model"),
        ((200, {}, b"\xff"), "sends no configuration of a model"),
        ((200, {}, b"[" * 100_000), "sends no configuration of a model"),
        ((200, {}, b"{" + b" " * 2**20 + b"}"), "sends no configuration of a model"),
        ((302, {"Location": "file:///etc/passwd"}, b""), "answers with 302"),
    ],
)
def test_what_else_the_hub_may_say(
    reply: tuple[int, dict[str, str], bytes], reason: str, servers: list[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers[0].replies[PATH] = reply
    monkeypatch.setenv("HF_ENDPOINT", servers[0].url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = hub.look(NAME)
    assert found.config is None
    assert found.source.endswith(f"; {servers[0].url} {reason}") or reason in found.source
    assert TOKEN not in found.source


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and says nothing
        monkeypatch.setattr(hub, "_SECONDS", 0.2)
        monkeypatch.setenv("HF_ENDPOINT", f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}")
        asked: list[str] = []
        ask = hub._ask

        def noted(address: str) -> Any:
            asked.append(address)
            return ask(address)

        monkeypatch.setattr(hub, "_ask", noted)
        said = [hub.look(name).source for name in (NAME, "owner/another")]
    assert all(text.endswith(f"and http://127.0.0.1:{silent_port(text)} did not answer") for text in said)
    assert len(asked) == 1


def silent_port(text: str) -> str:
    return text.rpartition("127.0.0.1:")[2].split()[0]


@pytest.mark.parametrize("endpoint", ["file:///etc", "ftp://a", "huggingface.co", "http://a\nb"])
def test_an_endpoint_that_is_no_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert "HF_ENDPOINT is no address of a hub" in hub.look(NAME).source


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "not JSON"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "is not a causal language model"),
        ({"model_type": "unheard-of"}, "parameters of the family 'unheard-of' are not counted here"),
        ({"model_type": "llama", "hidden_size": "x"}, "hidden_size"),
    ],
)
def test_a_configuration_that_is_not_counted_is_no_error(config: Any, reason: str, tmp_path: Path) -> None:
    cached(tmp_path / "hf" / "hub", config)
    found = models.load(NAME, hub.look(NAME))
    assert isinstance(found, models.Unknown)
    assert reason in found.reason


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "here.yaml").write_text("slots: 1\ngpu: rtx3090-24gb\nmemory: 32GB\n")
    (tmp_path / "job.yaml").write_text(samples.JOB.replace("byte-gpt", NAME) + "deepspeed: zero2\n")
    return str(tmp_path / "job.yaml")


def test_a_plan_of_a_hub_model(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached(tmp_path / "hf" / "hub")
    assert main.main(["plan", job]) == 0
    assert "6.74 billion parameters" in capsys.readouterr().out
    assert main.main(["local", job, "--dry-run"]) == 3
    assert "zero2 does not fit" in capsys.readouterr().err
    assert main.main(["plan", job, "--min-nodes", "--set", "deepspeed=auto"]) in (0, 3)
    assert "not looked for" not in capsys.readouterr().err


def test_a_program_of_ones_own_has_its_hub_model_looked_up_too(
    job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached(tmp_path / "hf" / "hub")
    (tmp_path / "train.py").write_text("")
    own = ["--set", f"workload={tmp_path}/train.py", "--set", "args.seq-length=512"]
    assert main.main(["plan", job, *own]) == 0
    assert "6.74 billion parameters" in capsys.readouterr().out


def test_a_preset_does_not_silence_that_nothing_is_estimated(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main.main(["plan", job]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {NAME} is not in the Hugging Face cache here (")
    assert line.endswith("), and HF_HUB_OFFLINE is set; no memory is estimated")


def test_other_models_load_nothing_of_the_network() -> None:
    code = (
        "import sys; from launcher.cli import main; main.main(['plan', 'jobs/gpt2.yaml']);"
        "assert not {'urllib.request', 'http.client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
