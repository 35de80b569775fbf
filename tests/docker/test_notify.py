"""Who is told of what happens to a run, by a real HTTP server on loopback and real programs (docker/notify.py)."""

from __future__ import annotations

import contextlib
import http.server
import importlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.docker import entries

ending = importlib.import_module("ending")
events = importlib.import_module("events")
notify = importlib.import_module("notify")

TOKEN = "T0KEN-of-the-team"


class Server(http.server.ThreadingHTTPServer):
    """Answers every POST with `code`, and keeps what came."""

    def __init__(self, code: int = 200) -> None:
        self.code, self.got = code, list[tuple[str, Any]]()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{TOKEN}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/json"
        self.server.got.append((self.path, body))
        self.send_response(self.server.code)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving(code: int = 200) -> Iterator[Server]:
    with Server(code) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


EVERY = list(notify.KINDS)


def test_a_run_tells_each_cause_once_and_keeps_the_address_to_itself(
    new_job: Callable[..., entries.Job],
) -> None:
    """Two attempts fail the same way, the third goes well: start, failure and end are told once each."""
    job = new_job()
    option = f"--notify={json.dumps([{'on': EVERY, 'variable': 'LAUNCHER_NOTIFY_0'}])}"
    program = "import os, sys; print(*os.environ); sys.exit(int(os.environ['CODE']))"
    with serving() as server:
        for attempt, code in enumerate((3, 3, 0)):
            words = (option, "--attempt", str(attempt))
            job.start(0, program, *words, CODE=str(code), LAUNCHER_NOTIFY_0=server.url)
            assert job.codes() == [code]
    assert [body["event"] for _, body in server.got] == ["start", "failure", "end"]
    path, failure = server.got[1]
    assert path == f"/{TOKEN}"
    assert failure == {
        "event": "failure",
        "run": job.run,
        "attempt": "0",
        "time": pytest.approx(failure["time"]),
        "text": f"{job.run}: rank 0 on 127.0.0.1 ended with 3",
        "details": {"code": 3, "rank": 0, "host": "127.0.0.1"},
    }
    assert server.got[2][1]["text"] == f"{job.run}: succeeded"
    files = [path.read_text() for path in job.folder.rglob("*") if path.is_file()]
    assert not any(TOKEN in text or "LAUNCHER_NOTIFY_0 " in text for text in files)


def test_an_address_by_the_jobs_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Slurm a script hands the secret on; ranks do not get it."""
    environment = importlib.import_module("environment")
    monkeypatch.setenv("LAUNCHER_SECRET_0", "http://one")
    entries_of = {"LAUNCHER_NOTIFY_1": {"secret": "team", "from": "LAUNCHER_SECRET_0"}, "A": {"value": "b"}}
    (tmp_path / "environment.json").write_text(json.dumps(entries_of))
    assert environment.of_job(tmp_path / "environment.json") == {"A": "b"}
    found = notify.targets(
        '[{"on": ["end"], "variable": "LAUNCHER_NOTIFY_1"}, {"on": [], "url": "https://two"}]',
        environment.addresses(tmp_path / "environment.json"),
    )
    assert found == [notify.Target(("end",), "http://one"), notify.Target((), "https://two")]


def line(event: str, **values: Any) -> dict[str, Any]:
    return {"event": event, "time": 5.0, "attempt": "0", **values}


FAILED = {"code": 1, "rank": 0, "host": "n1"}


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (line("started"), "start"),
        (line("ended", code=0), "end"),
        (line("ended", code=ending.UNFIT), "failure"),  # before there was a rank that could fail
        (line("ended", code=ending.SAVED), None),
        (line("failed", **FAILED), "failure"),
        *((line("failed", **{**FAILED, "code": code}), None) for code in (130, 143)),  # cancelled
        *((line("ended", code=code), None) for code in (130, 143)),
        (line("failed", **{**FAILED, "code": ending.NOT_FINITE}), "divergence"),
        (line("saved", rank=0, host="n1"), None),
        (line("stalled", seconds=600), "stall"),
        (line("slow", rank=5, host="n1", ratio=1.8, step=9), "slow"),
        (line("met"), None),
    ],
)
def test_what_an_event_is_to_others(event: dict[str, Any], kind: str | None) -> None:
    assert notify.kind(event) == kind
    if kind:
        assert notify.message(event, "run-1")["text"].startswith("run-1: ")


def told(target: Any, tmp_path: Path, *given: dict[str, Any]) -> list[str]:
    """What the job's log says when these events are told."""
    said: list[str] = []
    notifier = notify.Notifier([target], "run-1", said.append)
    notifier.start(tmp_path / events.FILE)
    for event in given:
        notifier.event(event)
    notifier.finish()
    return said


@pytest.mark.heavy
def test_the_code_of_what_a_restart_would_not_cure_is_no_news(tmp_path: Path) -> None:
    with serving() as server:
        target = notify.Target(("failure",), server.url)
        told(target, tmp_path, line("failed", **FAILED), line("ended", code=ending.NOT_CURED))
        ((_, message),) = server.got
        assert message["text"].startswith("run-1: rank 0 on n1 ended with 1")
        told(target, tmp_path, line("ended", code=ending.NOT_CURED))
        assert len(server.got) == 2, "nobody was told why"


@pytest.mark.heavy
def test_only_what_was_asked_for(tmp_path: Path) -> None:
    with serving() as server:
        target = notify.Target(("divergence", "stall"), server.url)
        bad = line("failed", **{**FAILED, "code": ending.NOT_FINITE})
        assert told(target, tmp_path, line("started"), bad, bad, line("ended", code=ending.NOT_FINITE)) == []
    assert [body["event"] for _, body in server.got] == ["divergence"]


@pytest.mark.heavy
def test_a_webhook_that_fails_is_one_line_without_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PAUSE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/{TOKEN}"
    with serving(code=500) as server:
        for url, why in (
            (server.url, "HTTP 500"),
            (closed, "Connection refused"),
            (f"http://[{TOKEN}", "ValueError"),
            (f"http://127.0.0.1:{TOKEN}/", "InvalidURL"),
            (f"file:///{TOKEN}", "its address does not begin with http:// or https://"),
            ("", "its address does not begin with http:// or https://"),
        ):
            said = told(notify.Target(("start",), url), tmp_path, line("started"))
            assert said == [f"notify: webhook 1 could not be told of start: {why}"]
    assert len(server.got) == notify.TRIES


def test_a_webhook_that_never_answers_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "LAST", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert told(notify.Target(("start",), url), tmp_path, line("started")) == []


def test_a_command_gets_the_message(tmp_path: Path) -> None:
    command = ("sh", "-c", f'cat >"{tmp_path}/got $1"', "sh", "a 'b' $HOME")
    assert (
        told(
            notify.Target(("slow",), command=command),
            tmp_path,
            line("slow", rank=5, host="n1", ratio=2, step=9),
        )
        == []
    )
    got = json.loads((tmp_path / "got a 'b' $HOME").read_text())
    assert got["details"] == {"rank": 5, "host": "n1", "ratio": 2, "step": 9}


def test_a_command_that_fails_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "COMMAND", 0.2)
    for command, why in (
        (("/absent/program",), "No such file or directory"),
        (("sleep", "600"), "it took more than 0 s"),
    ):
        said = told(notify.Target(("start",), command=command), tmp_path, line("started"))
        assert said == [f"notify: command 1 could not be told of start: {why}"]
    assert told(notify.Target(("start",), command=("false",)), tmp_path, line("started")) == []


def test_what_is_no_list_of_targets_is_refused(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.start(0, "pass", "--notify=[1]")
    assert job.codes() == [ending.BAD_INPUT]
    assert "--notify is not JSON as notify.py describes it" in job.said(0)
