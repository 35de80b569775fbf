"""What Prometheus reads of a run at http://HOST:PORT/metrics, served by each host's node entry on `--metrics-port`.

Owns names and the text format, version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). Every host
tells of its own ranks, from their heartbeats; the first one also of the run, from metrics.jsonl and events.jsonl.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import math
import socket
import socketserver
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import events
import heartbeat

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS = "metrics.jsonl"
_BROKEN = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # of lines that are no records
# key of metrics.jsonl → metric and its help
STEPS = {
    "step": ("launcher_step", "Optimizer steps done."),
    "max_steps": ("launcher_max_steps", "The step that the run ends with."),
    "loss": ("launcher_loss", "Training loss of the newest step that was logged."),
    "lr": ("launcher_learning_rate", "Learning rate of that step."),
    "grad_norm": ("launcher_gradient_norm", "2-norm of the gradient before clipping."),
    "tokens_per_second": ("launcher_tokens_per_second", "Of all ranks."),
    "step_seconds": ("launcher_step_seconds", "Seconds of a step."),
    "memory_bytes": ("launcher_memory_bytes", "Peak memory of rank 0."),
    "tokens": ("launcher_tokens", "Tokens trained on."),
}


Samples = list[tuple[dict[str, str], float]]


class Metric(NamedTuple):
    """A metric family: its samples are (labels, value)."""

    name: str
    help: str
    kind: str  # gauge or counter
    samples: Samples


def _gauge(name: str, words: str, samples: Samples) -> Metric:
    return Metric(name, words, kind="gauge", samples=samples)


def _counter(name: str, words: str, samples: Samples) -> Metric:
    return Metric(name, words, kind="counter", samples=samples)


def text(metrics: Iterable[Metric]) -> str:
    """In Prometheus' text format; families without samples are left out."""
    lines = []
    for metric in metrics:
        if metric.samples:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}" if labels else ""


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


@dataclass
class Follower:
    """The whole lines of a file of JSON lines, each read once; `newest` is the last one without an event."""

    path: Path
    at: int = 0
    newest: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    starts: set[tuple[str, str]] = field(default_factory=set)  # of attempts
    slow: dict[int, float] = field(default_factory=dict)

    def read(self) -> None:
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            file.seek(self.at)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self.at += len(whole)
            for line in whole.splitlines():
                with contextlib.suppress(*_BROKEN):
                    self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        event = line.get("event")
        if event is None:
            self.newest = line
            return
        self.counts[event] = self.counts.get(event, 0) + 1
        if event == "allocated":
            self.slow.clear()
            # rounds of preflight tell the same
            self.starts.add((str(line.get("attempt")), str(line.get("time"))))
        elif event == "slow":
            self.slow[int(line["rank"])] = float(line["ratio"])
        elif event == "not_slow":
            self.slow.pop(int(line["rank"]), None)


class Source:
    """What one host tells: of its `ranks`, by the folder of their heartbeats, and on the first one of the run."""

    def __init__(self, run: str, folder: Path, beats: str, ranks: Iterable[int]) -> None:
        self._run, self._beats, self._ranks = {"run": run}, beats, list(ranks)
        self._steps, self._events = Follower(folder / METRICS), Follower(folder / events.FILE)
        self._lock = threading.Lock()

    def metrics(self) -> list[Metric]:
        """All families, as they are now."""
        with self._lock:
            return [*(self._of_run() if 0 in self._ranks else ()), *self._of_ranks()]

    def _of_run(self) -> Iterable[Metric]:
        for follower in (self._steps, self._events):
            follower.read()
        for key, (name, words) in STEPS.items():
            value = self._steps.newest.get(key)
            known = [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []
            yield _gauge(name, words, [(self._run, number) for number in known])
        counts = self._events.counts
        restarts = max(0, len(self._events.starts) - 1)
        yield _counter("launcher_restarts_total", "Attempts after the first.", [(self._run, restarts)])
        stalls = [(self._run, float(counts.get("stalled", 0)))]
        yield _counter("launcher_stalls_total", "How often no rank advanced.", stalls)
        failures = [(self._run, float(counts.get("failed", 0)))]
        yield _counter("launcher_failures_total", "Attempts that failed.", failures)
        slow = [(self._run | {"rank": str(rank)}, ratio) for rank, ratio in sorted(self._events.slow.items())]
        words = "Time of a slow rank before it waits for others, over its peers'."
        yield _gauge("launcher_slow_rank_ratio", words, slow)

    def _of_ranks(self) -> Iterable[Metric]:
        found = {
            rank: heartbeat.read(heartbeat.path(self._beats, rank)) for rank in self._ranks if self._beats
        }
        beats = {str(rank): beat for rank, beat in found.items() if beat}
        steps = [(self._run | {"rank": rank}, float(beat.step)) for rank, beat in beats.items()]
        yield _gauge("launcher_rank_step", "The last step that a rank has done.", steps)
        own = [
            (self._run | {"rank": r}, b.steps.own[-1])
            for r, b in beats.items()
            if b.steps.own and b.steps.own[-1]
        ]
        words = "Seconds of its last step before the rank waited for others."
        yield _gauge("launcher_rank_own_seconds", words, own)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="where Prometheus reads (default: nowhere)"
    )


def serve(port: int | None, source: Source, say: Callable[[str], None]) -> None:
    """Answer on `port` of all addresses, in a thread; where the port is taken the run goes on without it."""
    if port is None:
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] in ("/metrics", "/")
            body = text(source.metrics()).encode() if found else b"metrics are at /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", TYPE if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

        def server_bind(self) -> None:
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # HTTPServer's own looks the host's full name up, which may take a minute
            socketserver.TCPServer.server_bind(self)

    try:
        server = Server(("", port), Handler)
    except (OSError, OverflowError) as error:
        say(f"metrics: port {port} cannot be had: {getattr(error, 'strerror', None) or error}")
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()
