"""Serve a model to OpenAI's clients: `python -m workloads.serve`, once per rank.

The server is vLLM's own, or the small one of openai_server/ where vLLM does not run; this module starts it, watches it
and ends it. vLLM starts a process for each GPU of a host by itself, so the first rank of each
host runs it and the others only wait. It needs no Ray: hosts meet at the run's master address
(https://docs.vllm.ai/en/stable/serving/parallelism_scaling/). Torch is never imported here.

A key that clients must give is the environment's VLLM_API_KEY, for both: a command line can be read by everyone on the
host. The first host answers. Its address is in endpoint.json of the run's folder once it does. A signal ends the server
with SAVED, so that a run whose time is over is put back into the queue.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

from ending import SAVED

from workloads import (
    architectures,
    endpoint,
    engine_options,
    inference,
    metrics,
    options,
    packages,
    placement,
    session,
    tokenizer,
)
from workloads.placement import Place
from workloads.session import Stop
from workloads.traits import Traits

TRAITS = Traits(serves=True, generates=True)

KEY = "VLLM_API_KEY"
ENDPOINT, MODEL = "endpoint.json", "model"
PATIENCE = 30.0  # seconds that a server has to end, after SIGTERM


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.serve",
        description="Serve a model to OpenAI's clients.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("run-dir", "model"))
    group = command.add_argument_group("serving")
    group.add_argument(
        "--engine",
        choices=("vllm", "transformers"),
        default="vllm",
        help="vllm: on all ranks, for GPUs; transformers: on the first rank alone, to try it without one",
    )
    group.add_argument(
        "--host",
        metavar="ADDRESS",
        help="where it listens (default: 0.0.0.0 under a scheduler or on several hosts, else 127.0.0.1, this host "
        "alone)",
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
        "--max-length", type=options.positive, metavar="N", help="tokens of prompt and answer at most"
    )
    group.add_argument("--chat-template", metavar="FILE", help="for models that bring none: a Jinja template")
    group.add_argument(
        "--engine-options",
        nargs="+",
        default=[],
        metavar="NAME[=VALUE]",
        help="more of the server's own options, without dashes: max-num-seqs=64 enable-prefix-caching (vllm), "
        "dtype=float32",
    )
    group.add_argument(
        "--random-weights",
        action=options.SWITCH,
        default=False,
        help="rehearsal: does this model fit, and how fast is it? Its text means nothing",
    )
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot serve on `hosts` of `slots` ranks, as far as it can be told before: None if it can.

    The launcher asks before it submits; a model that only the ranks can see is looked at by them.
    """
    args = parser().parse_args(words)
    place = Place(rank=0, host=0, hosts=hosts, slots=slots, master="", port=0)
    try:
        check_key(args)
        engine_options.check(args.engine_options)
        if args.engine == "transformers":
            check_hosts(hosts)
        else:
            placement.check_model(Path(args.model) / "config.json", placement.layout(args, place))
    except Stop as stop:
        return stop.message
    return None


def check_hosts(hosts: int) -> None:
    """Raise Stop when the small server, which is one process, shall run on several hosts."""
    if hosts > 1:
        raise Stop(f"--engine transformers is for one host, not {hosts}: use vllm, or nodes: 1")


def check_key(args: argparse.Namespace) -> None:
    """Raise Stop for a key among the options, which everyone on the host can read."""
    if "api-key" in engine_options.named(args.engine_options):
        raise Stop(
            f"--engine-options api-key: a command line is no place for a key; env: {{{KEY}: {{secret: NAME}}}} is"
        )


def command(args: argparse.Namespace, model: str, port: int, place: Place) -> list[str]:
    """The words that start this host's server. Raises Stop as `layout` and `check_model` do."""
    limits = [f"--max-model-len={args.max_length}"] if args.max_length else []
    limits += [f"--chat-template={args.chat_template}"] if args.chat_template else []
    listen = [f"--host={args.host}", f"--port={port}"]
    more = [f"--{option}" for option in args.engine_options]
    called = f"--served-model-name={args.model}"
    if args.engine == "transformers":
        return [sys.executable, "-m", "workloads.openai_server", model, called, *limits, *listen, *more]
    shares = placement.layout(args, place)
    placement.check_model(Path(model) / "config.json", shares)
    vllm = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, called]
    vllm += [
        f"--tensor-parallel-size={shares.tensor}",
        f"--pipeline-parallel-size={shares.pipeline}",
        *limits,
    ]
    if args.random_weights:
        vllm.append("--load-format=dummy")
    vllm += listen if place.host == 0 else ["--headless"]
    return [*vllm, *placement.meeting_options(shares, place), *more]


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal comes; returns SAVED then, else the code with which the server ended."""
    place, run_dir = placement.here(os.environ), Path(args.run_dir)
    args.host = args.host or endpoint.default_host(place, os.environ)
    check(args, place)
    if not place.first or (args.engine == "transformers" and place.rank):
        return wait()
    run_dir.mkdir(parents=True, exist_ok=True)
    log = metrics.Log(run_dir, place.rank == 0)
    port = args.port or endpoint.free_port()
    if place.rank == 0:
        endpoint.check_port(args.host, port)
        (run_dir / ENDPOINT).unlink(missing_ok=True)
    model = made_up(args, place) if args.random_weights else args.model
    words = command(args, model, port, place)
    log.event("start", 0, engine=args.engine, attempt=metrics.attempts(run_dir) + 1)
    log.say(f"{args.model} by {args.engine}: it is loaded")
    if endpoint.is_open(args.host) and not os.environ.get(KEY):
        log.say(
            f"everyone who reaches port {port} can use it: env: {{{KEY}: {{secret: NAME}}}} asks for a key"
        )
    server = subprocess.Popen(words)
    try:
        return attend(
            server, args, f"http://{endpoint.name(args.host, place)}:{port}/v1", place=place, log=log
        )
    finally:
        if place.rank == 0:
            (run_dir / ENDPOINT).unlink(missing_ok=True)  # nobody answers there any more
        log.close()


def check(args: argparse.Namespace, place: Place) -> None:
    """Raise Stop for what no server could do, before anything is started."""
    check_key(args)
    engine_options.check(args.engine_options)
    packages.require(args.engine, f"--engine {args.engine}")
    packages.require_for("engine", args.engine)
    if args.engine == "transformers":
        check_hosts(place.hosts)
    if not args.random_weights:
        inference.need_weights(args.model)
    if args.chat_template and not Path(args.chat_template).is_file():
        raise Stop(f"--chat-template {args.chat_template}: there is no such file")


def wait() -> int:
    """A rank whose GPU another process serves on: it stays, so that the run ends as one."""
    while session.asked_to_stop() is None:
        time.sleep(0.2)
    return SAVED


def attend(
    server: subprocess.Popen[bytes], args: argparse.Namespace, url: str, *, place: Place, log: metrics.Log
) -> int:
    """Watch a server to its end, and say when it answers. Returns the rank's exit code."""
    began, ready = time.monotonic(), place.rank != 0
    while server.poll() is None and session.asked_to_stop() is None:
        if not ready and endpoint.answers(args.host, urllib.parse.urlsplit(url).port):
            ready, seconds = True, time.monotonic() - began
            metrics.write_atomically(Path(args.run_dir) / ENDPOINT, {"url": url, "model": args.model})
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
    return SAVED


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


def main() -> None:
    """Run this rank; exits with a code of session.py, or the server's own."""
    session.run_apart(parser(), serve)


if __name__ == "__main__":
    main()
