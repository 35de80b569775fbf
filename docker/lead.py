"""Leads a pipeline from inside a Kubernetes cluster: submits each stage when the one before has succeeded.

    lead.py FOLDER [--account FOLDER]

Owns the order and the waiting, so that whoever submitted the pipeline may leave. FOLDER has `stages.json`, which
launcher/schedulers/kubernetes/leader.py makes: the paths of objects to wait for first, and of each stage its objects in
their order, the one that has the pods last, each with the file of FOLDER that holds it. The rights are those of the
pod's service account.

Every step may be done again: a leader that is started anew goes on where the last one was. Exit codes: 0 all stages
have succeeded; 1 a stage has not, or was refused, which no other try would cure.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
MANAGER = "launcher"  # as launcher/schedulers/kubernetes/api.py has it
MARK = "launcher/leader"  # the annotation of what a leader has made: the uid of its Job
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
# The condition by which each controller says that it is over, and whether it succeeded.
DONE = {"Complete": True, "Completed": True, "Succeeded": True, "Failed": False}
PAUSE = float(os.environ.get("LEAD_PAUSE", "10"))  # seconds between two looks
LONGEST = 120.0  # seconds between two tries of a server that does not answer
NO_RIGHT = "is forbidden: User "  # what no other try gives; webhooks say 403 as well
TRIES = 10  # of an object that is refused: a webhook may not know yet what was made a moment ago
PATIENCE = 60  # seconds for an answer


class Refused(Exception):
    """The server's no; `status` is HTTP's, 0 where nothing answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def passes(self) -> bool:
        """Whether the same may be taken later: no answer, too many questions, a server that is starting."""
        return self.status in {0, 401, 429} or self.status >= 500


class Server:
    """The API server of the cluster that this pod is in, as its service account."""

    def __init__(self, account: Path) -> None:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        self.address = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.account = account
        self.trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self.namespace = (account / "namespace").read_text(encoding="utf-8").strip()

    def call(self, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
        """The answer, of whatever passes once it has passed. Raises Refused."""
        pause = PAUSE
        while True:
            try:
                return self._once(method, path.replace("{}", self.namespace), body, content)
            except Refused as refused:
                if not refused.passes:
                    raise
                say(f"{method} {path}: {refused}; again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)

    def _once(self, method: str, path: str, body: Any, content: str) -> Any:
        token = (self.account / "token").read_text(encoding="utf-8").strip()  # it is changed every hour
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Content-Type": content}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.trust) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise Refused(error.code, words(error)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Refused(0, str(error) or type(error).__name__) from None

    def find(self, path: str) -> Any:
        """The object at `path`, or None."""
        try:
            return self.call("GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise


def words(error: urllib.error.HTTPError) -> str:
    """What a refusal says."""
    try:
        return str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return f"{error.code} {error.reason}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def submit(server: Server, objects: list[dict[str, Any]]) -> None:
    """Apply a stage's objects, unless this leader has. Raises Refused, also where the name is another's."""
    main, own = objects[-1], os.environ["LEADER_UID"]
    made = server.find(main["path"])
    if made and made["metadata"].get("annotations", {}).get(MARK) != own:
        raise Refused(409, f"{main['path']} exists already, and another has submitted it")
    for entry in objects:
        entry["document"]["metadata"].setdefault("annotations", {})[MARK] = own
    for entry in objects if made is None else ():
        made = apply(server, entry)
    owner = {key: main["document"][key] for key in ("apiVersion", "kind")}
    owner |= {key: made["metadata"][key] for key in ("name", "uid")}
    for entry in objects[:-1]:  # gone with the main one
        patch = {"metadata": {"ownerReferences": [owner]}}
        with contextlib.suppress(Refused):  # the stage runs all the same
            server.call("PATCH", f"{entry['path']}?fieldManager={MANAGER}", patch, MERGE)


def apply(server: Server, entry: dict[str, Any]) -> Any:
    path = f"{entry['path']}?fieldManager={MANAGER}&fieldValidation=Strict"
    for left in reversed(range(TRIES)):
        try:
            return server.call("PATCH", path, entry["document"], APPLY)
        except Refused as refused:
            if not left or NO_RIGHT in str(refused):
                raise
            say(f"{entry['path']}: {refused}")
        time.sleep(PAUSE)
    raise AssertionError("unreachable")


def succeeds(server: Server, path: str) -> bool:
    """Wait for the end of the object at `path`."""
    while True:
        found = server.find(path)
        if found is None:
            say(f"{path} was deleted")
            return False
        conditions = found.get("status", {}).get("conditions") or []
        over = [DONE[c["type"]] for c in conditions if c["type"] in DONE and c["status"] == "True"]
        if over:
            return all(over)
        time.sleep(PAUSE)


def reached(server: Server, stages: list[dict[str, Any]]) -> int | None:
    """The last stage that this leader has submitted; None for none. Those before it have succeeded."""
    own = os.environ["LEADER_UID"]
    for number in reversed(range(len(stages))):
        made = server.find(stages[number]["objects"][-1]["path"])
        if made and made["metadata"].get("annotations", {}).get(MARK) == own:
            return number
    return None


def lead(server: Server, plan: dict[str, Any]) -> bool:
    """Whether all stages have succeeded. Raises Refused."""
    last = reached(server, plan["stages"])
    for path in plan["after"] if last is None else ():
        say(f"waits for {path}")
        if not succeeds(server, path):
            say(f"{path} has not succeeded: nothing is submitted")
            return False
    for stage in plan["stages"][last or 0 :]:
        say(f"stage {stage['stage']}: {stage['run']}")
        submit(server, stage["objects"])
        if not succeeds(server, stage["objects"][-1]["path"]):
            say(f"stage {stage['stage']}: {stage['run']} has not succeeded: no other is submitted")
            return False
    say("every stage has succeeded")
    return True


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--account", type=Path, default=Path(ACCOUNT), help="of the service account's files")
    given = parser.parse_args(words)
    plan = json.loads((given.folder / "stages.json").read_text(encoding="utf-8"))
    for entry in itertools.chain.from_iterable(stage["objects"] for stage in plan["stages"]):
        entry["document"] = json.loads((given.folder / entry["file"]).read_text(encoding="utf-8"))
    try:
        return 0 if lead(Server(given.account), plan) else 1
    except Refused as refused:
        say(f"refused ({refused.status}): {refused}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
