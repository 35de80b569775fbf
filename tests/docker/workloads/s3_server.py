"""A small S3 in the test's own process: as much of its API as s3fs needs, with faults to order.

Owns the objects and the faults; what should become of them is said by the tests. Requests are not authenticated, and
there is one bucket, whose name is BUCKET.
https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from types import TracebackType

BUCKET = "bucket"
_DATE = "2026-01-01T00:00:00.000Z"
_HTTP_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class Server:
    """`objects`: key → content. `faults`: "503", "cut" or "slow", one for each PUT or GET of an object whose key has
    `where`; `slow` is for that many seconds, and then answered. `host`: the address of this machine to listen at.

    `failed`: the faults that there were. `puts`: the keys that were written, in order. While `gate` is not set, a PUT
    of an object with `where` waits.
    """

    def __init__(self, host: str = "127.0.0.1", slow: float = 1.0) -> None:
        self.slow = slow
        self.objects: dict[str, bytes] = {}
        self.faults: deque[str] = deque()
        self.failed: list[str] = []
        self.where = ""
        self.puts: list[str] = []
        self.gate, self.waiting = threading.Event(), threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer((host, 0), type("Handler", (_Handler,), {"s3": self}))
        self._server.daemon_threads = True

    @property
    def variables(self) -> dict[str, str]:
        """What a client's environment says of it. One attempt: what tries again is what the tests are of."""
        host, port = self._server.server_address[:2]
        return {
            "AWS_ENDPOINT_URL": f"http://{host!s}:{port}",
            "AWS_ACCESS_KEY_ID": "an-access-key",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def tags(self) -> list[str]:
        """The checkpoints in the bucket that have a marker."""
        marked = [key.split("/")[-2] for key in self.objects if key.endswith("/complete.json")]
        return sorted(tag for tag in marked if "-" in tag)


class _Handler(BaseHTTPRequestHandler):
    s3: Server
    protocol_version = "HTTP/1.1"
    # else the second packet of an answer waits 40 ms for the client to acknowledge the first
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").removeprefix("/")

    @property
    def query(self) -> dict[str, str]:
        asked = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in asked.items()}

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _unchunked(body)
        if not self._is_known() or self._has_failed():
            return
        if self.s3.where in self.key and not self.s3.gate.is_set():
            self.s3.waiting.set()
            self.s3.gate.wait(240)
        self.s3.objects[self.key] = body
        self.s3.puts.append(self.key)
        self._answer(200, headers={"ETag": _etag(body)})

    def do_GET(self) -> None:
        if not self._is_known():
            return
        if not self.key:
            self._list()
        elif self.key not in self.s3.objects:
            self._refuse(404, "NoSuchKey")
        elif not self._has_failed():
            self._answer(200, self.s3.objects[self.key], self._facts())

    def do_HEAD(self) -> None:
        if not self._is_known():
            return
        if self.key and self.key not in self.s3.objects:
            self._answer(404)
        else:
            self._answer(200, headers=self._facts() if self.key else {})

    def do_DELETE(self) -> None:
        self.s3.objects.pop(self.key, None)
        self._answer(204)

    def _facts(self) -> dict[str, str]:
        body = self.s3.objects[self.key]
        size = {"Content-Length": str(len(body))} if self.command == "HEAD" else {}
        return {"ETag": _etag(body), "Last-Modified": _HTTP_DATE, **size}

    def _list(self) -> None:
        """ListObjectsV2, of all keys with a prefix, or of the folders and keys right below it."""
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        keys, folders = [], set()
        for key in sorted(key for key in self.s3.objects if key.startswith(prefix)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                keys.append(key)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_DATE}</LastModified>"
            f"<ETag>{escape(_etag(self.s3.objects[key]))}</ETag><Size>{len(self.s3.objects[key])}</Size></Contents>"
            for key in keys
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)
        )
        body = (
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>"
        )
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _is_known(self) -> bool:
        if urlsplit(self.path).path.split("/")[1] == BUCKET:
            return True
        self._refuse(404, "NoSuchBucket")
        return False

    def _has_failed(self) -> bool:
        """Whether this request is answered by a fault."""
        fault = self.s3.faults.popleft() if self.s3.faults and self.s3.where in self.key else ""
        if fault:
            self.s3.failed.append(fault)
        if fault == "503":
            self._refuse(503, "SlowDown")
        elif fault == "slow":
            time.sleep(self.s3.slow)
            return False
        elif fault == "cut":
            half = self.s3.objects.get(self.key, b"")
            self.send_response(200)
            self.send_header("Content-Length", str(len(half) + 1))
            self.end_headers()
            self.wfile.write(half[: len(half) // 2])
            self.close_connection = True
        return bool(fault)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}, says the test</Message></Error>".encode()
        self._answer(status, b"" if self.command == "HEAD" else body, {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _unchunked(body: bytes) -> bytes:
    """The content of aws-chunked: lines of `size;…` in hexadecimal before each part."""
    content = b""
    while body:
        line, _, rest = body.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if not size:
            break
        content, body = content + rest[:size], rest[size + 2 :]
    return content
