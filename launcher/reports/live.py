"""`report --serve`: the report of runs as a page that is drawn anew while they run.

Owns the HTTP server: on the loopback address unless another is asked for, GET of one page, nothing else.
"""

from __future__ import annotations

import errno
import http.server
import re
import socket
import threading
import time
from typing import TYPE_CHECKING

from launcher.errors import LauncherError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

REFRESH = 10  # seconds
_ADDRESS = re.compile(
    r"(?P<alone>[0-9]+)|(?:\[(?P<six>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]|(?P<host>[A-Za-z0-9.-]+))(?::(?P<port>[0-9]{1,5}))?"
)


def address(text: str) -> tuple[str, int]:
    """(host, port) of `PORT`, `HOST` or `HOST:PORT`; port 0 is any that is free. Raises SpecError."""
    match = _ADDRESS.fullmatch(text)
    port = int((match["alone"] or match["port"] or 0) if match and text.isascii() else -1)
    if not match or not 0 <= port <= 65535:
        raise SpecError(
            f"--serve {text!r} is no address", hint="write 8080, or 0.0.0.0:8080 for other machines"
        )
    return match["six"] or match["host"] or "127.0.0.1", port


class Page:
    """What `draw` returns, drawn at most once in REFRESH seconds, however many look at it."""

    def __init__(self, draw: Callable[[], bytes]) -> None:
        self._draw, self._lock = draw, threading.Lock()
        self._content, self._at = b"", float("-inf")

    def content(self) -> bytes:
        """The page; the last one where it cannot be drawn now. Raises LauncherError where there is none yet."""
        with self._lock:
            if time.monotonic() - self._at >= REFRESH:
                try:
                    self._content = self._draw()
                except LauncherError:
                    if not self._content:
                        raise
                self._at = time.monotonic()
            return self._content


def server(where: tuple[str, int], page: Page) -> http.server.ThreadingHTTPServer:
    """A server of the page at `where`, for `serve_forever`. Raises SpecError where it cannot listen."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            code, kind = 200, "text/html"
            try:
                body = page.content() if self.path in ("/", "/index.html") else b""
            except LauncherError as error:
                code, kind, body = 503, "text/plain", str(error).encode()
            if not body:
                code, kind, body = 404, "text/plain", b"the page is at /\n"
            self.send_response(code)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header(
                "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
            )
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET

    try:
        return Server(where, Handler)
    except (OSError, UnicodeError) as error:  # UnicodeError: of a name that no host can have
        is_host = (
            not isinstance(error, OSError)
            or isinstance(error, socket.gaierror)
            or error.errno == errno.EADDRNOTAVAIL
        )
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SpecError(
            f"--serve {where[0]}:{where[1]}: {why}",
            hint="name a host or an address of this machine" if is_host else "name another port",
        ) from None
