"""Who is told of a run: both files' targets, addresses by reference alone, and a real local run that tells."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.planning import notification
from tests import samples
from tests.docker.test_notify import TOKEN, serving

if TYPE_CHECKING:
    from pathlib import Path


def test_the_cluster_is_told_first_and_the_job_too() -> None:
    cluster = samples.cluster(slots=2, notify=[{"webhook": "http://alerts:9093/x", "on": ["failure"]}])
    job = samples.job(notify=[{"command": ["mail", "me"]}, {"webhook": {"secret": "team", "key": "hook"}}])
    (option,) = notification.option(job, cluster)
    first, second, third = json.loads(option.removeprefix("--notify="))
    assert first == {"on": ["failure"], "url": "http://alerts:9093/x"}
    assert second["command"] == ["mail", "me"]
    assert third["variable"] == "LAUNCHER_NOTIFY_2"
    assert list(notification.secrets(job, cluster)) == [("LAUNCHER_NOTIFY_2", "team", "hook")]
    assert notification.option(samples.job(), samples.cluster(slots=2)) == []


def test_every_occasion_is_one_of_the_node_entrys() -> None:
    import importlib

    job = samples.job(notify=[{"command": ["true"]}])
    assert tuple(job.notify[0].on) == importlib.import_module("notify").KINDS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{}", "needs a webhook or a command, and not both"),
        ("{command: []}", "needs a webhook or a command, and not both"),
        ("{command: [a], webhook: http://a}", "needs a webhook or a command, and not both"),
        ("{webhook: ftp://a}", "its webhook is no address"),
        ("{webhook: {key: url}}", "has a key but no secret to look it up in"),
        ("{webhook: https://hooks.slack.com/services/T/B/x}", "its webhook holds a secret"),
        ("{webhook: https://me:pass@host/x}", "its webhook holds a secret"),
        ("{webhook: 'https://host/x?token=1'}", "its webhook holds a secret"),
        (
            "{webhook: 'https://chat.example.org/hooks/xr3j5x3p4pfk7kk6ck7b4e6ghh'}",
            "its webhook holds a secret",
        ),
        ("{webhook: 'https://api.telegram.org/bot123:AAF/sendMessage'}", "its webhook holds a secret"),
        ("{webhook: https://outlook.office.com/webhook/a}", "its webhook holds a secret"),
        (
            "{webhook: https://host/0b7c2f0e-77a4-4f0c-9f0e-0d5a2b1c3d4e/alerts}",
            "its webhook holds a secret",
        ),
        ("{webhook: 'https://'}", "its webhook is no address; write https://HOST"),
        ("{webhook: 'http://a b'}", "its webhook is no address; write https://HOST"),
        ("{webhook: 'http://a:99999/'}", "its webhook is no address; write https://HOST"),
        ("{webhook: 'http://[::1/'}", "its webhook is no address; write https://HOST"),
        ("{command: ['']}", "its command has no program"),
        ("{webhook: http://a, on: []}", "its `on` names each occasion once"),
        ("{webhook: http://a, on: [end, end]}", "its `on` names each occasion once"),
        ("{webhook: http://a, on: [fail]}", "'fail' is not known; did you mean 'failure'?"),
    ],
)
@pytest.mark.parametrize("file", ["", "cluster."])
@pytest.mark.heavy
def test_mistakes(value: str, message: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "jobs/quickstart.yaml", "--set", f"{file}notify=[{value}]"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "token=1" not in said.replace(value, ""), "a message does not repeat the secret"


def test_words_in_an_address_are_no_key() -> None:
    address = "http://alerts.example.org:9093/api/v2/deepspeed-training-alerts/team-nlp-2026"
    samples.job(notify=[{"webhook": address}])


@pytest.mark.heavy
def test_a_local_run_tells_a_webhook_and_a_command(tmp_path: Path) -> None:
    """The address is in a file of secrets; the command has blanks, quotes and a dollar."""
    (tmp_path / "secrets").mkdir(mode=0o700)
    work = tmp_path / "work"
    work.mkdir()
    (work / "hello.py").write_text(
        "import os\nprint('addresses', [n for n in os.environ if 'NOTIFY' in n])\n"
    )
    got = tmp_path / "it's $HOME.json"
    with serving() as server:
        (tmp_path / "secrets" / "team").write_text(f"{server.url}\n")
        (tmp_path / "secrets" / "team").chmod(0o600)
        told: list[dict[str, Any]] = [
            {"webhook": {"secret": "team"}},
            {"command": ["sh", "-c", 'cat >"$1"', "sh", str(got)], "on": ["end"]},
        ]
        job = {
            "name": "hello",
            "workload": "./hello.py",
            "cluster": "laptop",
            "notify": told,
            "batch": {"micro": 1},
        }
        (work / "job.yaml").write_text(json.dumps(job))
        words = ["local", "job.yaml", "--wait", "--set", f"cluster.local.secrets={tmp_path}/secrets"]
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *words],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(ROOT), "LAUNCHER_RUNS": str(tmp_path / "runs")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert [body["event"] for _, body in server.got] == ["start", "end"]
    assert json.loads(got.read_text())["event"] == "end"
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert "addresses []" in (folder / "logs" / "rank-0.log").read_text()
    for path in folder.rglob("*"):
        with contextlib.suppress(IsADirectoryError):
            assert TOKEN not in path.read_text()
