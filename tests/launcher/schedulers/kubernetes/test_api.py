"""An API server that is away for a moment, busy, behind a broken proxy, or has forgotten who asks."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import ToolMissingError
from launcher.reports import progress
from launcher.schedulers.kubernetes import api
from tests.launcher.schedulers.kubernetes.test_verbs import finish, state, submitted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any
# an answer that is none → what is said of it
TROUBLE: dict[str, tuple[list[Any], str]] = {
    "the connection is cut": ([0, ""], "does not answer"),
    "too many requests": ([429, ""], "the API server refused (429)"),
    "too many requests, come back much later": ([429, "40"], "the API server refused (429)"),
    "a proxy without a server": ([502, ""], "the API server refused (502)"),
    "a server that starts": ([503, "1"], "the API server refused (503)"),
    "an internal error": ([500, ""], "the API server refused (500)"),
    "credentials that expired": ([401, ""], "rejected the credentials"),
}


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a run is submitted and `--wait` begins to ask for its state."""
    begun, follow = threading.Event(), progress.follow

    def following(*words: Any) -> int:
        begun.set()
        return follow(*words)

    monkeypatch.setattr(progress, "follow", following)
    return begun


@pytest.mark.parametrize("name", TROUBLE)
@pytest.mark.heavy
def test_wait_outlives_it(name: str, cluster: Cluster, followed: threading.Event, run: Run, job: str) -> None:
    answer, words = TROUBLE[name]

    def life() -> None:
        assert followed.wait(60)
        (name,) = (n for p, n in cluster.objects() if p == "jobs")
        cluster.tell("rules", failures=[answer] * 6)
        while cluster.tell("failures"):
            time.sleep(0.01)
        finish(cluster, name, "Complete")

    thread = threading.Thread(target=life)
    thread.start()
    began = time.monotonic()
    code, _, err = run("kubernetes", job, "--wait")
    thread.join()
    assert code == 0, err
    assert "no status, trying again: " in err
    assert words in err
    assert time.monotonic() - began < 200  # what the server says of a later time would be 240 s
    assert "Traceback" not in err


def test_wait_that_gives_up_says_that_the_run_continues(
    cluster: Cluster, followed: threading.Event, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.2)

    def life() -> None:
        assert followed.wait(60)
        cluster.tell("rules", failures=[[503, ""]] * 1000)

    thread = threading.Thread(target=life)
    thread.start()
    code, _, err = run("kubernetes", job, "--wait")
    thread.join()
    assert code == 4
    assert "is still running" in err
    assert "python -m launcher logs " in err


def test_a_busy_server_is_not_waited_for_as_long_as_it_says(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.tell("rules", failures=[[429, "40"]] * 2)
    began = time.monotonic()
    code, _, err = run("status", name)
    assert code == 4
    assert "the server is busy: try again" in err
    assert time.monotonic() - began < 70  # and not 80
    cluster.tell("failures", clear=True)
    assert state(run, name)["state"] == "PENDING"


@pytest.mark.parametrize(
    "text",
    [
        *("contexts: true", "- 1", "[" * 500, "clusters: [1]\ncontexts: [1]\ncurrent-context: a", "\0"),
        "clusters: []\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: [b]}}]",
    ],
)
def test_a_kubeconfig_that_is_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ToolMissingError, match="no Kubernetes cluster is configured") as caught:
        api.connect(None)
    assert " object at 0x" not in str(caught.value)


@pytest.mark.parametrize("server", ["'", "10.0.0.1:6443", "https:", "ftp://site", "https://site:0"])
def test_a_server_without_an_address_is_named(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    site = {"clusters": [{"name": "a", "cluster": {"server": server}}], "users": [{"name": "a", "user": {}}]}
    site |= {"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}
    (tmp_path / "config").write_text(json.dumps({**site, "current-context": "a"}))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    code, _, err = run("cluster", "discover", "kubernetes")
    assert code == 6
    assert f"the server {server!r} of the kubeconfig is no address as https://HOST:PORT" in err


def test_the_proxy_of_a_cluster_is_used(cluster: Cluster, run: Run, job: str, tmp_path: Path) -> None:
    """Of a server that is reached no other way; this one answers what a proxy is asked."""
    path = cluster.kubeconfig(server="http://api.invalid")
    config = json.loads(path.read_text())
    config["clusters"][0]["cluster"]["proxy-url"] = cluster.url
    path.write_text(json.dumps(config))
    assert state(run, submitted(run, job))["state"] == "PENDING"
    config["clusters"][0]["cluster"]["proxy-url"] = "socks5://127.0.0.1:1080"
    path.write_text(json.dumps(config))
    code, _, err = run("kubernetes", job)
    assert code == 6
    assert "the proxy-url 'socks5://127.0.0.1:1080' of the kubeconfig is none of http or https" in err


@pytest.mark.parametrize("program", ["", "exit 1", 'echo "{}"'])
def test_a_program_that_brings_no_credentials_is_named(
    program: str, cluster: Cluster, run: Run, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not installed, logged out, or broken: the server would be asked as nobody, and would speak of rights."""
    (tmp_path / "bin").mkdir()
    if program:
        (tmp_path / "bin" / "cloud-auth").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "bin" / "cloud-auth").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    path = cluster.kubeconfig()
    config = json.loads(path.read_text())
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cloud-auth",
        "interactiveMode": "Never",
    }
    config["users"][0]["user"] = {"exec": {**plugin, "installHint": "Install it with `cloud components`\n"}}
    path.write_text(json.dumps(config))
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert (
        "'cloud-auth', from which user 'admin' of the kubeconfig has credentials, gave none; Install it with"
        in err
    )


def test_a_server_that_asks_for_no_user_needs_none(cluster: Cluster, run: Run) -> None:
    """As `kubectl proxy` is; this one wants a token after all."""
    path = cluster.kubeconfig()
    config = json.loads(path.read_text())
    del config["users"], config["contexts"][0]["context"]["user"]
    path.write_text(json.dumps(config))
    code, _, err = run("cluster", "discover", "kubernetes")
    assert (code, "rejected the credentials" in err) == (4, True), err


def test_a_user_that_acts_as_another_is_asked_for_as_that_one(
    cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    """As by kubectl: an admin who works with the rights of others."""
    name = submitted(run, job)
    path = cluster.kubeconfig()
    config = json.loads(path.read_text())
    config["users"][0]["user"]["as"] = "viewer"
    path.write_text(json.dumps(config))
    assert state(run, name)["state"] == "PENDING"
    code, _, err = run("cancel", name)
    assert (code, 'User "viewer" cannot delete' in err) == (4, True), err
    cluster.pod(name, 0)
    code, _, err = run("fetch", name, ".", str(tmp_path / "dest"))
    assert (code, "cannot be started as 'viewer'" in err) == (4, True), err
    config["users"][0]["user"]["as-groups"] = ["team"]
    path.write_text(json.dumps(config))
    code, _, err = run("status", name)
    assert (code, "its user has as-groups, and the launcher acts as a user alone" in err) == (6, True), err
