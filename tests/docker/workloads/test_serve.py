"""Serving: a real server of a model that pretraining exported answers a real request; vLLM gets the right words."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from workloads import endpoint, placement, serve, session

from launcher import ROOT
from tests.docker.workloads import ranks

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

GIVEN = ("run-dir", "model")


def start(folder: Path, size: int, *args: str, model: str) -> ranks.Ranks:
    return ranks.start(folder, size, {}, *args, model=model, workload="serve", given=GIVEN)


def place(rank: int, hosts: int, slots: int) -> placement.Place:
    env = {"RANK": rank, "LOCAL_SIZE": slots, "WORLD_SIZE": hosts * slots}
    return placement.here(
        {**{k: str(v) for k, v in env.items()}, "MASTER_ADDR": "gpu01", "MASTER_PORT": "31000"}
    )


def options(*words: str) -> argparse.Namespace:
    return serve.parser().parse_args(["--run-dir=/run", "--model=org/model", "--host=0.0.0.0", *words])


def words(rank: int, hosts: int, slots: int, *args: str) -> list[str]:
    made = serve.command(options(*args), "org/model", 8000, place(rank, hosts, slots))
    assert made[2:5] == ["vllm.entrypoints.cli.main", "serve", "org/model"]
    return made[6:]


@pytest.mark.deepspeed
def test_an_exported_model_answers_openai_clients_until_a_signal_comes(
    exported: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    by = AutoTokenizer.from_pretrained(exported)
    ids = by("An assert statement", return_tensors="pt")
    whole = AutoModelForCausalLM.from_pretrained(exported).generate(
        **ids, max_new_tokens=8, do_sample=False, pad_token_id=0
    )

    run = start(tmp_path, 2, "--engine=transformers", "--host=127.0.0.1", "--port=0", model=str(exported))
    endpoint = run.run_dir / "endpoint.json"
    run.wait_until(endpoint.exists)
    told = json.loads(endpoint.read_text())
    answer = post(
        f"{told['url']}/completions",
        {"model": told["model"], "prompt": "An assert statement", "max_tokens": 8, "temperature": 0},
    )
    assert answer["choices"][0]["text"] == by.decode(whole[0, ids.input_ids.shape[1] :])
    assert answer["usage"]["completion_tokens"] == 8
    assert run.events("ready")[0]["url"] == told["url"]

    for process in run.processes:  # as the node entry does
        process.send_signal(signal.SIGUSR2)
    assert run.wait() == [os.EX_TEMPFAIL] * 2
    assert run.events("saved")[0]["signal"] == "SIGUSR2"
    assert not endpoint.exists()
    with pytest.raises(OSError, match="refused"):
        post(f"{told['url']}/completions", {})


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with plain.open(request, timeout=120) as answer:
        return json.loads(answer.read())


@pytest.mark.deepspeed
def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        engine = ("--engine=transformers", "--host=127.0.0.1")
        cases = [
            (start(tmp_path / "b", 1, *engine, model="tiny-llama"), "'tiny-llama' has no trained weights"),
            (
                start(tmp_path / "c", 1, *engine, f"--port={busy}", "--random-weights", model="tiny-llama"),
                f"--host 127.0.0.1 --port {busy}: Address already in use; give another --port",
            ),
            (start(tmp_path / "d", 1, "--port=70000", model="x"), "a port from 0 to 65535 is expected"),
            (
                start(tmp_path / "e", 1, "--engine-options", "api_key=abc", model="x"),
                "--engine-options api-key: a command line is no place for a key; env: {VLLM_API_KEY: {secret: NAME}}",
            ),
        ]
        if not importlib.util.find_spec("vllm"):
            missing = start(tmp_path / "a", 1, model="tiny-llama")
            cases.append((missing, "--engine vllm: the package vllm is not installed"))
        for run, message in cases:
            assert run.wait() == [os.EX_USAGE], run.output()
            assert message in run.output().splitlines()[-1]


@pytest.mark.deepspeed
def test_a_server_that_ends_ends_the_run_with_its_code(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({**ranks.LLAMA, "architectures": ["LlamaForCausalLM"]}))
    (model / "model.safetensors").write_bytes(b"no weights")
    run = start(tmp_path, 1, "--engine=transformers", "--host=127.0.0.1", "--port=0", model=str(model))
    (code,) = run.wait()
    assert code not in {0, os.EX_TEMPFAIL}
    assert run.output().splitlines()[-1] == (
        f"serve: error: the server ended with code {code}; its own words are above"
    )
    assert not (run.run_dir / "endpoint.json").exists()


def test_parallel_sizes_follow_from_the_ranks() -> None:
    layouts = {
        (2, 8, ()): placement.Layout(8, 2, 1),
        (1, 4, ()): placement.Layout(4, 1, 1),
        (2, 8, ("--tensor-parallel=16",)): placement.Layout(16, 1, 1),
        (2, 8, ("--tensor-parallel=4",)): placement.Layout(4, 1, 4),
        (1, 8, ("--pipeline-parallel=2", "--tensor-parallel=2")): placement.Layout(2, 2, 2),
    }
    for (hosts, slots, args), wanted in layouts.items():
        assert placement.layout(options(*args), place(0, hosts, slots)) == wanted
    with pytest.raises(session.Stop, match="3 x --pipeline-parallel 1 does not divide the 16 ranks"):
        placement.layout(options("--tensor-parallel=3"), place(0, 2, 8))
    with pytest.raises(session.Stop, match="2 replicas, which do not fit on hosts of 3 ranks"):
        placement.layout(options("--tensor-parallel=6"), place(0, 4, 3))


def test_vllm_gets_what_makes_several_hosts_one_server() -> None:
    sizes = ["--tensor-parallel-size=8", "--pipeline-parallel-size=2"]
    meeting = ["--master-addr=gpu01", "--master-port=31000"]
    assert words(0, 2, 8) == [
        *sizes,
        "--host=0.0.0.0",
        "--port=8000",
        "--nnodes=2",
        "--node-rank=0",
        *meeting,
    ]
    assert words(8, 2, 8) == [*sizes, "--headless", "--nnodes=2", "--node-rank=1", *meeting]
    assert words(0, 1, 1, "--max-length=64", "--engine-options", "max-num-seqs=4", "enforce-eager")[2:] == [
        "--max-model-len=64",
        "--host=0.0.0.0",
        "--port=8000",
        "--max-num-seqs=4",
        "--enforce-eager",
    ]
    replicas = words(2, 2, 2, "--tensor-parallel=1")
    assert replicas[2:] == [
        "--headless",
        "--data-parallel-size=4",
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=gpu01",
        "--data-parallel-rpc-port=31000",
    ]


def test_a_model_that_cannot_be_split_so_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_attention_heads": 12, "num_hidden_layers": 3}))
    placement.check_model(config, placement.Layout(4, 3, 1))
    with pytest.raises(session.Stop, match="12 attention heads cannot be split over --tensor-parallel 8"):
        placement.check_model(config, placement.Layout(8, 1, 1))
    with pytest.raises(session.Stop, match="3 layers cannot be cut into --pipeline-parallel 4 groups"):
        placement.check_model(config, placement.Layout(4, 4, 1))
    placement.check_model(tmp_path / "elsewhere", placement.Layout(5, 1, 1))


@pytest.mark.parametrize(
    "content",
    [
        {"num_hidden_layers": "x", "num_attention_heads": "x"},
        {"num_hidden_layers": True, "num_attention_heads": 1.5},
        {"text_config": "x", "num_attention_heads": 3},
        {"n_head": -3, "n_layer": None},
        ["x"],
    ],
)
def test_a_configuration_of_no_model_is_the_servers_to_judge(content: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    placement.check_model(tmp_path / "config.json", placement.Layout(2, 2, 1))


def test_a_server_is_open_to_others_where_it_has_to_be() -> None:
    alone, several = place(0, 1, 2), place(0, 2, 2)
    assert endpoint.default_host(alone, {}) == "127.0.0.1"
    assert endpoint.default_host(several, {}) == "0.0.0.0"
    assert endpoint.default_host(alone, {"SLURM_JOB_ID": "7"}) == "0.0.0.0"
    assert endpoint.default_host(alone, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "0.0.0.0"


@pytest.mark.parametrize(
    ("families", "listens"),
    [
        ([socket.AF_INET], "0.0.0.0"),
        ([socket.AF_INET6, socket.AF_INET], "0.0.0.0"),
        ([socket.AF_INET6], "::"),
        ([], "0.0.0.0"),
    ],
)
def test_a_host_without_ipv4_is_reached_too(
    families: list[int], listens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*_: Any) -> list[tuple[int, ...]]:
        if not families:
            raise socket.gaierror("Name or service not known")
        return [(family, 1, 6) for family in families]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert endpoint.everywhere() == listens
    assert [host for host in ("127.0.0.1", "::1", "localhost", "127.8.0.1") if endpoint.is_open(host)] == []
    assert all(endpoint.is_open(host) for host in ("0.0.0.0", "::", "10.1.2.3", "gpu01"))


def test_a_key_on_the_command_line_is_refused_before_a_job_is_submitted() -> None:
    for words in (["api-key=secret"], ["max-num-seqs=4", "api_key", "secret"]):
        refusal = serve.refusal(["--run-dir=/run", "--model=m", "--engine-options", *words], 1, 1)
        assert refusal
        assert "a command line is no place for a key" in refusal
        assert "secret=" not in refusal


def test_where_a_server_is_reached() -> None:
    assert endpoint.name("127.0.0.1", place(0, 1, 2)) == "127.0.0.1"
    assert endpoint.name("::1", place(0, 1, 2)) == "[::1]"
    assert endpoint.name("0.0.0.0", place(0, 2, 2)) == "gpu01"
    assert endpoint.name("0.0.0.0", place(0, 1, 2)) == socket.gethostname()


@pytest.mark.deepspeed
def test_the_twin_is_started_reached_and_cancelled_from_the_command_line(tmp_path: Path) -> None:
    def launcher(*words: str) -> str:
        env = {**os.environ, "LAUNCHER_RUNS": str(tmp_path)}
        command = [sys.executable, "-m", "launcher", *words]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run = launcher("local", "jobs/smoke/serve.yaml").strip()
    endpoint, end = tmp_path / run / "endpoint.json", time.monotonic() + 120
    while not endpoint.exists():
        assert json.loads(launcher("status", run, "--json"))["state"] == "RUNNING", launcher("logs", run)
        assert time.monotonic() < end, launcher("logs", run)
        time.sleep(0.5)
    told = json.loads(endpoint.read_text())
    answer = post(
        f"{told['url']}/completions", {"model": told["model"], "prompt": "An assert", "max_tokens": 4}
    )
    assert answer["object"] == "text_completion"
    launcher("cancel", run)
    assert json.loads(launcher("status", run, "--json"))["state"] == "CANCELLED"
