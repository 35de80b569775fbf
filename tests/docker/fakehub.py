"""A Hugging Face hub on loopback with one model, which answers as it is told: too many requests, cut connections.

Owns the parts of the hub's protocol that its client asks for; what is fetched over it is the tests'.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL, COMMIT = "team/tiny", "0" * 40
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES: dict[str, bytes] = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a second copy",
    "onnx/model.onnx": b"of another framework",
    "tokenizer.json": b"{}",
}


class Hub:
    """What is asked, and what goes wrong. `kind` is info, tree, head or get."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()  # kind, and "get NAME"
        self.refusals: dict[str, list[int]] = {}  # kind → status codes of the next answers
        self.cuts: list[int] = []  # bytes after which the next answers with weights are cut
        self.files = dict(FILES)
        self.lock = threading.Lock()
        self.address = ""

    def next(self, kind: str) -> int:
        """The status of an answer."""
        with self.lock:
            self.asked[kind] += 1
            return self.refusals[kind].pop(0) if self.refusals.get(kind) else 200

    def next_cut(self) -> int | None:
        with self.lock:
            return self.cuts.pop(0) if self.cuts else None


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        told = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    told: Hub
    protocol_version = "HTTP/1.1"
    # else the second packet of an answer waits 40 ms for the client to acknowledge the first
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file("head")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{MODEL}/tree/"):
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": _tag(c)}
                for n, c in self.told.files.items()
            ]
            self._json("tree", entries)
        elif path.startswith(f"/api/models/{MODEL}"):
            files = [{"rfilename": n, "size": len(c), "blobId": _tag(c)} for n, c in self.told.files.items()]
            self._json("info", {"id": MODEL, "sha": COMMIT, "siblings": files})
        elif path.startswith("/api/"):
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})
        else:
            self._file("get")

    def _json(self, kind: str, content: Any) -> None:
        if (status := self.told.next(kind)) != 200:
            self._refuse(status, {"Retry-After": "0"})
            return
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, kind: str) -> None:
        match = re.fullmatch(rf"/{MODEL}/resolve/[^/]+/(.+)", self.path.partition("?")[0])
        content = self.told.files.get(match[1]) if match else None
        if content is None or match is None:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
            return
        if (status := self.told.next(kind)) != 200:
            self._refuse(status, {"Retry-After": "0"})
            return
        if kind == "get":
            self.told.next(f"get {match[1]}")
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{_tag(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if kind == "head":
            return
        cut = self.told.next_cut() if match[1] == "model.safetensors" else None
        self.wfile.write(content[first:] if cut is None else content[first : first + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
