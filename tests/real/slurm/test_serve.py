"""A server on a real Slurm: another host of the cluster reaches it, and when its time is over it is put back."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

ASK = """
import json, sys, urllib.request
url, model = sys.argv[1:]
body = json.dumps({"model": model, "prompt": "An assert", "max_tokens": 4}).encode()
request = urllib.request.Request(url + "/completions", body, {"Content-Type": "application/json"})
plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(json.load(plain.open(request, timeout=60))["object"])
"""


def test_a_server_answers_other_hosts_and_serves_on_after_its_time(site: Site) -> None:
    args = "args={engine: transformers, random-weights: true, port: 8765}"
    run = site.submit("workload=serve", "model=tiny-llama", "nodes=1", args, "walltime=2m")
    endpoint = site.path(run) / "endpoint.json"
    site.shown(run, endpoint.exists)
    told = json.loads(endpoint.read_text())
    (host,) = site.status(run)["hosts"]
    assert told["url"] == f"http://{host}:8765/v1"
    other = "n2" if host == "n1" else "n1"
    said = site.cluster.node_exec(other, sys.executable, "-c", ASK, told["url"], told["model"])
    assert said.strip() == "text_completion"

    site.cluster.sh("scancel", "--signal=USR2", site.status(run)["native_id"])  # as before the walltime
    site.shown(run, lambda: len(site.starts(run)) == 2 and endpoint.exists())
    site.launcher("cancel", run)
    assert site.ended(run)["state"] == "CANCELLED"
