"""A program in a container of a pod, with lines to its stdin and from its stdout: the API server's exec.

Owns the WebSocket and its channels. https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
says what a request has, and https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/kubelet/server/remotecommand
what comes: a byte that names the channel, then its bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from kubernetes.client.exceptions import ApiException
from kubernetes.stream import ws_client
from websocket import ABNF, WebSocketBadStatusException, WebSocketException, setdefaulttimeout

from launcher.errors import SubmitError
from launcher.schedulers.kubernetes import api

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.schedulers.kubernetes.api import Server

_STDIN, _STDOUT, _STDERR, _END = range(4)
_CONNECT = 60.0  # seconds
_PATIENCE = 300.0  # seconds without a byte: sender.py writes one at least every 64 MiB that it reads
_PIECE = 2**16  # bytes of a frame: some proxies take no larger ones
_TAIL = 4096  # bytes of stderr


class Execution:
    """A runs.unpacking.Line to `words`, in a container of a pod. Raises api.Refusal with the server's no."""

    def __init__(self, server: Server, path: str, container: str, words: Sequence[str]) -> None:
        configuration = server.client.configuration
        if acts := server.client.default_headers.get(
            api.IMPERSONATE
        ):  # the client's WebSocket has no such header
            raise SubmitError(
                f"a program in a pod cannot be started as {acts!r}, as whom the kubeconfig's user acts"
            )
        flags = {"container": container, "stdin": "true", "stdout": "true", "stderr": "true", "tty": "false"}
        query = [*flags.items(), *(("command", os.fsencode(word)) for word in words)]
        headers: dict[str, str] = {}
        server.client.update_params_for_auth(headers, [], ["BearerToken"])
        url = ws_client.get_websocket_url(f"{configuration.host}{path}", query)
        setdefaulttimeout(_CONNECT)
        try:
            self.socket: Any = ws_client.create_websocket(configuration, url, headers)
        except WebSocketBadStatusException as error:
            refused = ApiException(status=error.status_code, reason=str(error))
            refused.body = error.resp_body
            raise server.refusal(refused, path) from None
        except (WebSocketException, OSError) as error:
            raise server.silent(error) from None
        self.socket.settimeout(_PATIENCE)
        self.come, self.said, self.end, self.open = bytearray(), b"", dict[str, Any](), True

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(WebSocketException, OSError):
            self.socket.close(timeout=1)

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            try:
                self.socket.send_binary(bytes([_STDIN]) + data[at : at + _PIECE])
            except (WebSocketException, OSError) as error:
                raise SubmitError(f"the connection to the pod broke: {error}") from None

    def read(self, size: int) -> bytes:
        while not self.come and self._receive():
            continue
        piece = bytes(self.come[:size])
        del self.come[:size]
        return piece

    def readline(self, most: int) -> bytes:
        seen = 0
        while (
            (end := self.come.find(b"\n", seen)) < 0 and (seen := len(self.come)) < most and self._receive()
        ):
            continue
        return self.read(min(end + 1 or len(self.come), most))

    def finish(self) -> str:
        """What went wrong: the last line of its stderr, or what the server says of its end."""
        rest = 0
        while rest <= _TAIL and self._receive():
            rest += len(self.come)
            self.come.clear()
        if rest > _TAIL:
            return "it sends more than it was asked for"
        if self.end.get("status") == "Success":
            return ""
        lines = self.said.decode("utf-8", "replace").strip().splitlines()
        message = self.end.get("message") or "the connection to the pod broke"
        return lines[-1] if lines else str(message)

    def _receive(self) -> bool:
        """Take what comes next; False at the end."""
        if not self.open:
            return False
        try:
            kind, data = self.socket.recv_data()
        except (WebSocketException, OSError):  # without the server's word on the end it did not end well
            kind, data = ABNF.OPCODE_CLOSE, b""
        if kind == ABNF.OPCODE_CLOSE:
            self.open = False
            return False
        channel, rest = data[:1], data[1:]
        if channel == bytes([_STDOUT]):
            self.come += rest
        elif channel == bytes([_STDERR]):
            self.said = (self.said + rest)[-_TAIL:]
        elif channel == bytes([_END]):
            with contextlib.suppress(ValueError, RecursionError):
                said = json.loads(rest)
                self.end = said if isinstance(said, dict) else {}
        return True
