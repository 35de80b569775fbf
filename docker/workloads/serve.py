"""Serve a model to OpenAI's clients: `python -m workloads.serve`, once per rank.

The server is vLLM's own, or `transformers serve` where there is no GPU; this module derives its parallel sizes from
the ranks, starts it and ends it. vLLM starts a process for each GPU of a host by itself, so the first rank of each
host runs it and the others only wait. It needs no Ray: hosts meet at the run's master address
(https://docs.vllm.ai/en/stable/serving/parallelism_scaling/). Torch is never imported here.

The first host answers. Its address is in endpoint.json of the run's folder once it does. A signal ends the server with
code 75, so that a run whose time is over is put back into the queue.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workloads import architectures, inference, metrics, options, session, tokenizer
from workloads.session import Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Mapping

TRAITS = Traits(serves=True)

ENDPOINT, MODEL = "endpoint.json", "model"
PATIENCE = 30.0  # seconds that a server has to end, after SIGTERM


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    made = argparse.ArgumentParser(
        prog="python -m workloads.serve",
        description="Serve a model to OpenAI's clients.",
        allow_abbrev=False,
    )
    options.launcher(made, only=("run-dir", "model"))
    group = made.add_argument_group("serving")
    group.add_argument(
        "--engine",
        choices=("vllm", "transformers"),
        default="vllm",
        help="vllm: on all ranks, for GPUs; transformers: on the first rank alone, to try it without one",
    )
    group.add_argument(
        "--host", default="0.0.0.0", metavar="ADDRESS", help="where it listens; 127.0.0.1: this host only"
    )
    group.add_argument(
        "--port", type=options.port, default=8000, metavar="N", help="0 takes a free one (endpoint.json)"
    )
    group.add_argument(
        "--tensor-parallel",
        type=options.positive,
        metavar="N",
        help="ranks that each layer is split over (default: those of a host)",
    )
    group.add_argument(
        "--pipeline-parallel",
        type=options.positive,
        metavar="N",
        help="groups of layers, one after the other (default: as many as hosts, or 1 with --tensor-parallel); ranks "
        "that are left make replicas",
    )
    group.add_argument(
        "--max-length", type=options.positive, metavar="N", help="tokens of prompt and answer (vllm)"
    )
    group.add_argument(
        "--chat-template", metavar="FILE", help="for models that bring none: a Jinja template (vllm)"
    )
    group.add_argument(
        "--engine-options",
        nargs="+",
        default=[],
        metavar="NAME[=VALUE]",
        help="more of the server's own options, without dashes: max-num-seqs=64 enable-prefix-caching",
    )
    group.add_argument(
        "--random-weights",
        action=options.SWITCH,
        default=False,
        help="rehearsal: does this model fit, and how fast is it? Its text means nothing",
    )
    return made


@dataclass(frozen=True)
class Place:
    """This rank among the ranks, as the node entry tells it."""

    rank: int
    host: int
    hosts: int
    slots: int  # ranks of a host
    master: str
    port: int  # of the master

    @property
    def first(self) -> bool:
        """Whether this is its host's first rank, the one that runs a server."""
        return self.rank == self.host * self.slots


@dataclass(frozen=True)
class Layout:
    """How the ranks share a model: ranks a layer, groups of layers, copies. Their product is the world size."""

    tensor: int
    pipeline: int
    replicas: int


def here(env: Mapping[str, str]) -> Place:
    """This rank's Place; alone where nothing tells."""
    slots = int(env.get("LOCAL_SIZE", "1"))
    rank = int(env.get("RANK", "0"))
    hosts = int(env.get("WORLD_SIZE", "1")) // slots
    return Place(
        rank,
        rank // slots,
        hosts,
        slots,
        env.get("MASTER_ADDR", "127.0.0.1"),
        int(env.get("MASTER_PORT", "0")),
    )


def layout(args: argparse.Namespace, place: Place) -> Layout:
    """How the options divide the ranks. Raises Stop when they cannot."""
    world = place.hosts * place.slots
    tensor = args.tensor_parallel or place.slots
    pipeline = args.pipeline_parallel or (1 if args.tensor_parallel else place.hosts)
    size = tensor * pipeline
    sizes = f"--tensor-parallel {tensor} x --pipeline-parallel {pipeline}"
    if world % size:
        raise Stop(f"{sizes} does not divide the {world} ranks")
    if size < world and place.slots % size:
        raise Stop(
            f"{sizes} leaves ranks for {world // size} replicas, which do not fit on hosts of {place.slots} ranks: "
            "let their product divide the ranks of a host, or be that of all ranks"
        )
    return Layout(tensor, pipeline, world // size)


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot serve on `hosts` of `slots` ranks, as far as it can be told before: None if it can.

    The launcher asks before it submits; a model that only the ranks can see is looked at by them.
    """
    args = parser().parse_args(words)
    try:
        if args.engine == "transformers":
            check_hosts(hosts)
        else:
            check_model(Path(args.model) / "config.json", layout(args, Place(0, 0, hosts, slots, "", 0)))
    except Stop as stop:
        return stop.message
    return None


def check_hosts(hosts: int) -> None:
    """Raise Stop when transformers' server, which is one process, shall run on several hosts."""
    if hosts > 1:
        raise Stop(f"--engine transformers is for one host, not {hosts}: use vllm, or nodes: 1")


def check_model(config: Path, shares: Layout) -> None:
    """Raise Stop when the model of a config.json cannot be shared so; a model elsewhere is vLLM's to judge."""
    with contextlib.suppress(OSError, ValueError):
        keys = json.loads(config.read_text(encoding="utf-8"))
        keys = keys.get("text_config", keys)
        heads = keys.get("num_attention_heads", keys.get("n_head"))
        layers = keys.get("num_hidden_layers", keys.get("n_layer"))
        if heads and heads % shares.tensor:
            raise Stop(f"{heads} attention heads cannot be split over --tensor-parallel {shares.tensor}")
        if layers and layers < shares.pipeline:
            raise Stop(f"{layers} layers cannot be cut into --pipeline-parallel {shares.pipeline} groups")


def command(args: argparse.Namespace, model: str, port: int, place: Place) -> list[str]:
    """The words that start this host's server. Raises Stop as `layout` and `check_model` do."""
    more = [f"--{option}" for option in args.engine_options]
    if args.engine == "transformers":
        module = ["transformers.cli.transformers", "serve", model, f"--host={args.host}", f"--port={port}"]
        return [sys.executable, "-m", *module, *more]
    shares = layout(args, place)
    check_model(Path(model) / "config.json", shares)
    words = ["vllm.entrypoints.cli.main", "serve", model, f"--served-model-name={args.model}"]
    words += [f"--tensor-parallel-size={shares.tensor}", f"--pipeline-parallel-size={shares.pipeline}"]
    if args.max_length:
        words.append(f"--max-model-len={args.max_length}")
    if args.chat_template:
        words.append(f"--chat-template={args.chat_template}")
    if args.random_weights:
        words.append("--load-format=dummy")
    words += [f"--host={args.host}", f"--port={port}"] if place.host == 0 else ["--headless"]
    return [sys.executable, "-m", *words, *_together(shares, place), *more]


def _together(shares: Layout, place: Place) -> list[str]:
    """How the servers of several hosts are one; which part is a host's follows from its number."""
    words = [f"--data-parallel-size={shares.replicas}"] if shares.replicas > 1 else []
    if place.hosts > 1:
        port = "data-parallel-rpc-port" if shares.replicas > 1 else "master-port"
        words += [f"--nnodes={place.hosts}", f"--node-rank={place.host}", f"--master-addr={place.master}"]
        words += [f"--{port}={place.port}"]
    return words


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal comes; returns 75 then, else the code with which the server ended."""
    place, run_dir = here(os.environ), Path(args.run_dir)
    check(args, place)
    if not place.first or (args.engine == "transformers" and place.rank):
        return wait()
    run_dir.mkdir(parents=True, exist_ok=True)
    log = metrics.Log(run_dir, place.rank == 0)
    port = args.port or free_port()
    if place.rank == 0:
        check_port(args.host, port)
        (run_dir / ENDPOINT).unlink(missing_ok=True)
    model = made_up(args, place) if args.random_weights else args.model
    words = command(args, model, port, place)
    log.event("start", 0, engine=args.engine, attempt=metrics.attempts(run_dir) + 1)
    log.say(f"{args.model} by {args.engine}: it is loaded")
    # `transformers` would ask a registry for a newer version of itself
    server = subprocess.Popen(words, env={**os.environ, "HF_HUB_DISABLE_UPDATE_CHECK": "1"})
    try:
        return attend(server, args, model, port, place, log)
    finally:
        if place.rank == 0:
            (run_dir / ENDPOINT).unlink(missing_ok=True)  # nobody answers there any more
        log.close()


def check(args: argparse.Namespace, place: Place) -> None:
    """Raise Stop for what no server could do, before anything is started."""
    metrics.require(args.engine, f"--engine {args.engine}")
    if args.engine == "transformers":
        for package in ("fastapi", "uvicorn", "openai"):
            metrics.require(package, "--engine transformers (transformers[serving])")
        check_hosts(place.hosts)
    if not args.random_weights:
        inference.need_weights(args.model)
    if args.chat_template and not Path(args.chat_template).is_file():
        raise Stop(f"--chat-template {args.chat_template}: there is no such file")


def wait() -> int:
    """A rank whose GPU another process serves on: it stays, so that the run ends as one."""
    while session.asked_to_stop() is None:
        time.sleep(0.2)
    return os.EX_TEMPFAIL


def attend(
    server: subprocess.Popen[bytes],
    args: argparse.Namespace,
    model: str,
    port: int,
    place: Place,
    log: metrics.Log,
) -> int:
    """Watch a server to its end, and say when it answers. Returns the rank's exit code."""
    began, ready = time.monotonic(), place.rank != 0
    while server.poll() is None and session.asked_to_stop() is None:
        if not ready and answers(args.host, port):
            ready = True
            seconds, url = time.monotonic() - began, f"http://{name(args.host, place)}:{port}/v1"
            served = model if args.engine == "transformers" else args.model  # the name that requests give
            metrics.write_atomically(Path(args.run_dir) / ENDPOINT, {"url": url, "model": served})
            log.event("ready", 0, url=url, seconds=seconds)
            log.say(f"{args.model} is served at {url} after {seconds:.1f} s")
        time.sleep(0.2)
    if session.asked_to_stop() is None:
        code = server.returncode if server.returncode >= 0 else 128 - server.returncode
        raise Stop(f"the server ended with code {code}; its own words are above", code or 1)
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(PATIENCE)
    server.kill()
    log.event("saved", 0, tag=None, signal=session.asked_to_stop())
    log.say("stopped by a signal: run it again to serve on")
    return os.EX_TEMPFAIL


def made_up(args: argparse.Namespace, place: Place) -> str:
    """A folder with the model's configuration, a tokenizer and, where they are needed, random weights."""
    folder = Path(args.run_dir) / MODEL
    if place.rank == 0 and not folder.exists():
        draft = folder.with_name(f".{MODEL}.{os.getpid()}")
        settings = architectures.config(args.model)
        if args.engine == "transformers":  # vLLM makes its own
            from transformers import AutoModelForCausalLM

            AutoModelForCausalLM.from_config(settings).save_pretrained(draft)
        settings.save_pretrained(draft)
        tokenizer.of_model(args.model).save_pretrained(draft)
        draft.replace(folder)
    while not folder.exists() and session.asked_to_stop() is None:
        time.sleep(0.2)
    return str(folder)


def free_port() -> int:
    """A port that is free on this host now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise Stop when another program listens there already, before a large model is loaded for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Stop(
                f"--host {host} --port {port}: {reason}; give another --port, or 0 for a free one"
            ) from None


def answers(host: str, port: int) -> bool:
    """Whether the server says that it is healthy."""
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with plain.open(f"http://{here}:{port}/health", timeout=5) as answer:
            return int(answer.status) == 200
    except OSError:  # not yet
        return False


def name(host: str, place: Place) -> str:
    """The name by which others reach a server that listens at `host`."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    return place.master if place.hosts > 1 else socket.gethostname()


def main() -> None:
    """Run this rank; exits with a code of session.py, or the server's own."""
    session.run_apart(parser(), serve)


if __name__ == "__main__":
    main()
