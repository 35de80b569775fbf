"""A connection to an API server, and its refusals in words.

Owns the `kubernetes` client, which takes half a second to import, and the paths of the REST API; what is sent and what
an answer means for a run is the other modules'.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError
from urllib3.util import Retry

from launcher.errors import Problem, SubmitError, ToolMissingError
from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.schedulers.kubernetes.kinds import Kind

MANAGER = "launcher"
_JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
# What admission says with a 403, which is no want of rights: that is "… is forbidden: User … cannot …".
_ADMISSION = re.compile(r'^admission webhook "|is forbidden: (?!User )')
IMPERSONATE = "Impersonate-User"
UNANSWERED = "Unanswered"  # the reason of a Refusal of what may have been done all the same
_PATIENCE = (10, 60)  # seconds to connect, and between two answers
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Refusal(SubmitError):
    """The server's no, in words; `status` is HTTP's, 0 when nothing answered, and `reason` Kubernetes' own word."""

    def __init__(self, status: int, reason: str, problem: Problem, admission: bool = False) -> None:
        super().__init__(problem)
        self.status, self.reason, self.admission = status, reason, admission

    @property
    def of_object(self) -> bool:
        """Whether it is about what was sent: a field, a conflict, or what an admission webhook or a policy says."""
        return self.status in {400, 409, 422} or (self.status == 403 and self.admission)


class Server:
    """One API server, as one user. `namespace` is the default of the kubeconfig's context."""

    def __init__(self, client: ApiClient, context: str, namespace: str) -> None:
        self.client, self.context, self.namespace = client, context, namespace

    def call(
        self, method: str, path: str, body: Any = None, content: str = _JSON, **query: Any
    ) -> tuple[dict[str, Any], list[str]]:
        """(the answer, the server's warnings). Raises Refusal."""
        answer = self._send(method, path, query, body, content=content)
        warnings = answer.headers.getlist("Warning") if hasattr(answer.headers, "getlist") else []
        try:
            return json.loads(answer.data), [_warning(text) for text in warnings]
        except ValueError:
            raise Refusal(
                0, "", Problem(f"{self._where} did not return JSON; is this a Kubernetes API server?")
            ) from None

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The object or list at `path`."""
        return self.call("GET", path, **query)[0]

    def text(self, path: str, **query: Any) -> Iterator[bytes]:
        """What stands at `path`, piece by piece, as it comes. Raises Refusal, also in the middle."""
        answer = self._send("GET", path, query)
        try:
            yield from answer.stream(amt=2**16, decode_content=False)
        except (HTTPError, OSError) as error:
            raise self.silent(error) from None
        finally:
            answer.release_conn()

    def _send(
        self, method: str, path: str, query: dict[str, Any], body: Any = None, content: str = _JSON
    ) -> Any:
        # a log that is followed may be silent for hours
        patience = (_PATIENCE[0], None) if query.get("follow") == "true" else _PATIENCE
        try:
            return self.client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=patience,
            )
        except ApiException as error:
            if not error.status:  # a TLS handshake that failed
                raise self.silent(error) from None
            raise self.refusal(error, path) from None
        except (HTTPError, OSError) as error:
            raise self.silent(error) from None

    @property
    def _where(self) -> str:
        return f"the API server {self.client.configuration.host}"

    def silent(self, error: Exception) -> Refusal:
        text = str(getattr(error, "reason", None) or error)
        why = re.sub(r"^<[^>]*>:? ?|^\w+\(.*?\): ", "", text.strip().splitlines()[-1])
        hint = "check the network, the VPN and the server's address in the kubeconfig"
        if "certificate" in text.lower():
            hint = "check certificate-authority in the kubeconfig, and that the address is the cluster's"
        reason = UNANSWERED if isinstance(error, (ProtocolError, ReadTimeoutError)) else ""
        return Refusal(0, reason, Problem(f"{self._where} does not answer: {why}", hint))

    def refusal(self, error: ApiException, path: str) -> Refusal:
        status: dict[str, Any] = {}
        with contextlib.suppress(ValueError, TypeError):
            status = json.loads(error.body)
        status = status if isinstance(status, dict) else {}
        message = str(status.get("message") or error.reason)
        reason = str(status.get("reason") or "")
        return Refusal(
            error.status,
            reason,
            _words(self, error.status, reason, message=message, path=path, is_status=bool(status)),
            admission=bool(_ADMISSION.search(message)),
        )


def connect(context: str | None, without: str = "set KUBECONFIG, or kubernetes.context") -> Server:
    """The server of kubeconfig `context` (default: the current one), or of the cluster that this pod is in.

    Raises ToolMissingError when there is neither, with `without` as what to do next.
    """
    configuration = Configuration()
    try:
        # as config.load_kube_config does, which tells nothing of the context: the file would be read twice
        file = os.environ.get("KUBECONFIG") or "~/.kube/config"
        merged = KubeConfigMerger(file)
        if merged.config is None:
            raise ConfigException(f"there is no kubeconfig {file}")
        kubeconfig = KubeConfigLoader(
            merged.config, context or None, config_base_path=None, config_persister=merged.save_changes
        )
        kubeconfig.load_and_set(configuration)
        _require_address(configuration.host)
        chosen = kubeconfig.current_context
        named = merged.config["clusters"].get_with_name(chosen["context"]["cluster"])
        _go_through(named["cluster"].value.get("proxy-url"), configuration)
        # a second try of what was not answered; how long a busy server wants to be left alone is the caller's to decide
        configuration.retries = Retry(1, respect_retry_after_header=False)
        server = Server(
            ApiClient(configuration), chosen["name"], chosen["context"].get("namespace") or "default"
        )
        user = chosen["context"].get("user")  # some servers ask for none
        entry = (
            merged.config["users"].get_with_name(user, safe=True) if merged.config.safe_get("users") else None
        )
        plugin = entry["user"].value.get("exec") if entry else None
        _act(server, entry["user"].value if entry else {})
    except Exception as error:  # of a malformed kubeconfig the client raises whatever its values lead to
        if context is None:
            with contextlib.suppress(ConfigException, OSError):
                config.load_incluster_config(client_configuration=configuration)
                return Server(ApiClient(configuration), "", _NAMESPACE.read_text().strip())
        known = isinstance(error, ConfigException) and " object at 0x" not in str(error)
        reason = str(error).rstrip(".") if known else "the kubeconfig is not one that can be read"
        raise ToolMissingError(
            f"no Kubernetes cluster is configured: {reason}",
            hint=without,
        ) from None
    if plugin and not (configuration.api_key or configuration.cert_file):  # why not was only logged
        raise _without(plugin, user)
    return server


def _go_through(proxy: str | None, configuration: Configuration) -> None:
    """Use the proxy of a kubeconfig's cluster, as kubectl does, which the client does not.

    https://kubernetes.io/docs/tasks/access-application-cluster/configure-access-multiple-clusters/#proxy
    """
    if proxy is None:
        return
    if urlsplit(proxy).scheme not in {"http", "https"}:
        hint = "`kubectl proxy` with a kubeconfig that names its address does without"
        raise ConfigException(f"the proxy-url {proxy!r} of the kubeconfig is none of http or https; {hint}")
    configuration.proxy, configuration.no_proxy = proxy, None


def _act(server: Server, user: dict[str, Any]) -> None:
    """Ask as whom a kubeconfig's user acts (`as`), as kubectl does, which the client does not.

    https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
    """
    more = [key for key in ("as-uid", "as-groups", "as-user-extra") if user.get(key)]
    if more:
        raise ConfigException(f"its user has {', '.join(more)}, and the launcher acts as a user alone")
    if acts := user.get("as"):
        server.client.set_default_header(IMPERSONATE, acts)


def _without(plugin: dict[str, Any], user: str) -> Refusal:
    """That the program of a kubeconfig's user brought no credentials: to be asked again, as after a 401.

    https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
    """
    what = f"{plugin['command']!r}, from which user {user!r} of the kubeconfig has credentials, gave none"
    hint = " ".join(str(plugin.get("installHint") or "").split())[:300]
    return Refusal(401, "", Problem(what, hint or "run it by hand: it may want you to log in"))


def _require_address(host: object) -> None:
    """Raise ConfigException for a server without what urllib3 needs; a port that is none is a ValueError."""
    parts = urlsplit(str(host))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ConfigException(
            f"the server {str(host)!r} of the kubeconfig is no address as https://HOST:PORT"
        )


def path(kind: Kind, namespace: str, name: str = "") -> str:
    """The path of an object, or of all objects of its kind in a namespace."""
    root = f"/apis/{kind.api}" if "/" in kind.api else f"/api/{kind.api}"
    return f"{root}/namespaces/{namespace}/{kind.plural}" + (f"/{name}" if name else "")


def _warning(header: str) -> str:
    """The text of a Warning header, `299 - "text"`: https://www.rfc-editor.org/rfc/rfc7234#section-5.5"""
    match = re.match(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"', header)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else header


def _words(server: Server, status: int, reason: str, message: str, path: str, is_status: bool) -> Problem:
    """What a refusal means, and what to do."""
    if status == 401:
        whose = f"context {server.context!r}" if server.context else "this pod's service account"
        return Problem(
            f"the API server rejected the credentials of {whose} (401)",
            "they may have expired: log in again; `kubectl auth whoami` shows your user",
        )
    if status == 404:
        return _absent(server, message, path, is_status)
    rights = (
        "RBAC: `launcher cluster rbac` prints the Role to ask for; `kubectl auth can-i --list` shows yours"
    )
    hints = {
        403: "" if _ADMISSION.search(message) else rights,
        409: "",
        413: "the manifest is too large for this server: use fewer hosts",
        429: "the server is busy: try again",
    }
    if status == 403 and "exceeded quota" in message:
        return Problem(f"quota: {message}", "`kubectl describe quota` shows what is left")
    if reason == "AlreadyExists":
        return Problem(message, "use --name SUFFIX for another run, or cancel that one")
    if reason == "Conflict":
        hints[409] = (
            "another program owns these fields: change them there, or use --name SUFFIX for a new run"
        )
    if "is immutable" in message:
        hints[status] = (
            "pods of a run cannot be changed after their creation: use --name SUFFIX for a new run"
        )
    return Problem(f"the API server refused ({status}): {message}", hints.get(status, ""))


def _absent(server: Server, message: str, path: str, is_status: bool) -> Problem:
    """What 404 means: a path the server does not have is a kind that is not installed; else the object is not there."""
    lost = re.fullmatch(r'namespaces "(.*)" not found', message)
    if lost:
        return Problem(
            f"namespace {lost[1]!r} does not exist",
            f"`kubectl create namespace {lost[1]}`, or set kubernetes.namespace",
        )
    match = re.fullmatch(r"/apis?/(.+)/namespaces/[^/]+/([^/]+)(?:/.*)?", path)
    known = (*kinds.KINDS.values(), *kinds.OTHERS)
    entry = next((k for k in known if match and (k.api, k.plural) == match.groups()), None)
    if entry and (not is_status or message == "the server could not find the requested resource"):
        install = f"install it: {entry.install}" if entry.install else ""
        hint = install or entry.lacks or "is this a Kubernetes API server?"
        versions = _versions(server, entry.api.partition("/")[0], entry.plural)
        if versions:
            hint = f"it serves version {', '.join(versions)}; {hint}"
        return Problem(f"the cluster does not know kind {entry.kind} ({entry.api})", hint)
    return Problem(message if is_status else f"{path} is not there")


def _versions(server: Server, group: str, plural: str) -> list[str]:
    """The versions of a kind that the server does have."""
    with contextlib.suppress(Refusal):
        versions = server.get(f"/apis/{group}").get("versions", [])
        return [
            v["version"]
            for v in versions
            if any(r["name"] == plural for r in server.get(f"/apis/{v['groupVersion']}").get("resources", []))
        ]
    return []
