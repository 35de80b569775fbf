"""The server's side of exec: a program of this machine behind a WebSocket, as a kubelet has one in a container.

Owns frames (RFC 6455) and channels (v4.channel.k8s.io): a byte that says 0 stdin, 1 stdout, 2 stderr, 3 the end.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import threading
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from http.server import BaseHTTPRequestHandler
    from io import BufferedIOBase

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def execute(handler: BaseHTTPRequestHandler, words: Sequence[str], cut: int = 0) -> None:
    """Answer the upgrade and run `words`; with `cut` the connection breaks after so many bytes of stdout."""
    key = hashlib.sha1((handler.headers["Sec-WebSocket-Key"] + _MAGIC).encode()).digest()
    handler.send_response(101)
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    handler.send_header("Sec-WebSocket-Accept", base64.b64encode(key).decode())
    handler.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
    handler.end_headers()
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        lock, sent = threading.Lock(), 0
        threading.Thread(target=_typed, args=(handler.rfile, process.stdin), daemon=True).start()
        while block := os.read(process.stdout.fileno(), 2**15):
            sent += len(block)
            if cut and sent > cut:
                process.kill()
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            with lock, contextlib.suppress(OSError):
                _send(handler.wfile, b"\1" + block)
        said = process.stderr.read()
        code = process.wait()
    end = {"status": "Success"}
    if code:
        end = {
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": f"command terminated with exit code {code}",
        }
    with contextlib.suppress(OSError):
        if said:
            _send(handler.wfile, b"\2" + said)
        _send(handler.wfile, b"\3" + json.dumps(end).encode())
        _send(handler.wfile, struct.pack("!H", 1000), kind=8)


def _send(file: BufferedIOBase, data: bytes, kind: int = 2) -> None:
    size = len(data)
    head = (
        struct.pack("!BB", 0x80 | kind, size) if size < 126 else struct.pack("!BBH", 0x80 | kind, 126, size)
    )
    if size >= 2**16:
        head = struct.pack("!BBQ", 0x80 | kind, 127, size)
    file.write(head + data)
    file.flush()


def _typed(file: BufferedIOBase, stdin: IO[bytes]) -> None:
    """Hand on what the client sends, until it closes."""
    with contextlib.suppress(OSError, struct.error, ValueError), stdin:
        while True:
            kind, size = struct.unpack("!BB", file.read(2))
            size &= 0x7F
            if size >= 126:
                (size,) = struct.unpack("!H" if size == 126 else "!Q", file.read(2 if size == 126 else 8))
            mask, data = file.read(4), file.read(size)
            if kind & 15 == 8:
                return
            plain = bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
            stdin.write(plain[1:])
            stdin.flush()
