"""The pods of rendered manifests, run as hosts of their own: commands, variables, files, volumes, rights, restarts."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher.files import load
from launcher.planning import space, tuning
from launcher.runs import trials
from launcher.schedulers import kubernetes
from tests.launcher.schedulers.kubernetes import kubelet, schemas, variants
from tests.launcher.schedulers.kubernetes.kubelet import Identity, Kubelet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from launcher.planning.plan import Plan

pytestmark = pytest.mark.skipif(
    bool(kubelet.obstacle()), reason=f"no pods can run here: {kubelet.obstacle()}"
)

Object = dict[str, Any]
# What a rank of another's program sees; it meets the other hosts' ranks at the master, as torch does.
PROGRAM = """
import json, os, socket, sys
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    server = socket.create_server(("", where[1]))
    others = [server.accept()[0] for _ in range(world - 1)]
    met = sorted(int(other.recv(64)) for other in others)
else:
    for _ in range(100):
        try:
            link = socket.create_connection(where, 1)
            break
        except OSError:
            import time; time.sleep(0.1)
    link.sendall(str(rank).encode())
    met = []
writable = {path: os.access(path, os.W_OK) for path in ("/", "/opt/job", "/tmp", "/dev/shm", "/job", "/runs")}
shm = os.statvfs("/dev/shm")
told = {
    "rank": rank, "world": world, "met": met, "arguments": sys.argv[1:], "host": socket.gethostname(),
    "uid": os.getuid(), "groups": sorted({os.getgid(), *os.getgroups()}), "writable": writable,
    "shm": shm.f_blocks * shm.f_frsize, "env": dict(os.environ), "files": sorted(os.listdir("/job")),
    "status": open("/proc/self/status").read(), "pids": [p for p in os.listdir("/proc") if p.isdigit()],
}
with open(os.path.join(os.environ["RUN_DIR"], f"rank-{rank}.json"), "w") as file:
    json.dump(told, file)
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Kubelet]:
    for name in ("runs", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "program.py").write_text(PROGRAM)
    secrets = {"hf-token": {"HF_TOKEN": "s3cret $(HOME)"}}
    with Kubelet({"runs": tmp_path / "runs", "data": tmp_path / "data"}, secrets) as running:
        yield running


def decide(kind: str, job: Object, slots: int = 1, **kubernetes_: Any) -> Plan:
    wanted, quick = {"kind": kind, "runs": "runs", "wait": "2m", **kubernetes_}, {"preflight": False, **job}
    return variants.decide(wanted, quick, gpu=None, cpus=None, memory="2GB", fabric="tcp", slots=slots)


def pods(plan: Plan) -> tuple[Object, list[tuple[Object, Identity]], Object]:
    """(the ConfigMap, every pod's template and what its controller makes of it, the main object)."""
    docs = list(yaml.load_all(kubernetes.render(plan)["manifest.yaml"], yaml.CSafeLoader))
    main, kind = docs[-1], plan.cluster.kubernetes.kind
    holder = next(d for d in docs if any(schemas.pod_templates(d)))
    parts: list[tuple[str, int, Object]]
    if kind in {"jobset", "trainjob"}:
        spec = holder["spec"] if kind == "jobset" else holder["spec"]["template"]["spec"]
        parts = [(p["name"], p["template"]["spec"]["completions"], p) for p in spec["replicatedJobs"]]
    elif kind == "leaderworkerset":
        inner = holder["spec"]["leaderWorkerTemplate"]
        parts = [(p, 1, {"x": inner[p]}) for p in ("leaderTemplate", "workerTemplate")]
    elif kind in {"mpijob", "pytorchjob"}:
        replicas = next(v for k, v in holder["spec"].items() if k.endswith("ReplicaSpecs"))
        parts = [(name, p["replicas"], p) for name, p in replicas.items()]
    else:
        parts = [("node", holder["spec"]["completions"], holder)]
    made: list[tuple[Object, Identity]] = []
    for part, count, within in parts:
        (template,) = schemas.pod_templates(within)
        own = kubelet.identities(kind, main["metadata"]["name"], template, part, count, len(made))
        made += [(template, identity) for identity in own]
    return docs[0], made, main


CASES: list[tuple[str, Object]] = [(kind, {}) for kind in variants.KINDS] + [
    ("jobset", {"leader_first": True})
]


@pytest.mark.parametrize(
    ("kind", "more"), CASES, ids=[f"{k}{'-leader-first' if m else ''}" for k, m in CASES]
)
def test_every_kind_starts_the_same_ranks(kind: str, more: Object, nodes: Kubelet, tmp_path: Path) -> None:
    value = "a 'b' \"c\" $(HOME) $$ $x\n{d}"
    env: Object = {"ODD": value, "HF_TOKEN": {"secret": "hf-token"}}
    job: Object = {"workload": "/data/program.py", "args": {"text": value.replace("$", "$$")}, "env": env}
    plan = decide(kind, job, slots=2, **more)
    config_map, templates, _ = pods(plan)
    running = nodes.start(config_map, templates)
    codes = [pod.wait(240) for pod in running]
    assert codes == [0, 0], "\n".join(pod.log for pod in running)
    folder = tmp_path / "runs" / (f"{plan.id}-0" if kind == "leaderworkerset" else plan.id)
    told = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert [t["rank"] for t in told] == [0, 1, 2, 3]
    assert told[0]["met"] == [1, 2, 3]
    hosts = [identity.host for _, identity in templates]
    assert [t["host"] for t in told] == [hosts[0], hosts[0], hosts[1], hosts[1]]
    for t in told:
        assert t["env"]["ODD"] == value
        assert t["arguments"][-1].removeprefix("--text=") == value
        assert t["env"]["HF_TOKEN"] == "s3cret $(HOME)"
        assert t["env"]["LOCAL_RANK"] == str(t["rank"] % 2)
        assert (t["uid"], t["groups"]) == (10001, [10001])
        assert "NoNewPrivs:\t1" in t["status"]
        assert "CapBnd:\t0000000000000000" in t["status"]
        assert t["shm"] == kubernetes.pods.shared_memory(plan) // 2**20 * 2**20
        assert t["writable"] == {
            **{"/": False, "/opt/job": False, "/job": False},
            **{"/tmp": True, "/dev/shm": True, "/runs": True},
        }
        assert "1" in t["pids"]
        assert len(t["pids"]) < 8  # its own process table: the node entry, two ranks, no more
        assert t["files"] == sorted(config_map["data"])


TRIAL = """
import json, os, sys
folder = dict(word.partition("=")[::2] for word in sys.argv[1:])["--run-dir"]
if os.environ["RANK"] == "0":
    with open(folder + "/metrics.jsonl", "w") as file:
        for step in range(1, 6):
            line = {"step": step, "step_seconds": 0.5, "memory_bytes": 1, "tokens_per_second": 2}
            file.write(json.dumps(line) + "\\n")
"""


def test_pods_try_configurations_together(nodes: Kubelet, tmp_path: Path) -> None:
    plan = decide("job", {"batch": {"micro": 1, "global": 8}})
    asked = space.parse(["preset=zero1,zero3", "micro=1", "checkpointing=false"])
    wishes = tuning.Wishes(asked, steps=5, limit=600, most=24)
    cluster = dataclasses.replace(plan.cluster, memory=None)  # that of real ranks is not needed here
    tuned = tuning.make(load.Loaded(plan.job, cluster), plan.workspace, "", wishes)
    config_map, templates, _ = pods(tuned)
    document = json.loads(config_map["data"]["trials.json"])
    document["trials"] = [{**trial, "words": ["-c", TRIAL]} for trial in document["trials"]]
    config_map["data"]["trials.json"] = json.dumps(document)
    running = nodes.start(config_map, templates)
    assert [pod.wait(240) for pod in running] == [0, 0], "\n".join(pod.log for pod in running)
    folder = tmp_path / "runs" / tuned.id
    (folder / "plan.json").write_text(config_map["data"]["plan.json"])
    found = trials.read(folder)
    assert [(trial.trial, trial.result, trial.step_seconds) for trial in found.trials] == [
        (0, "done", 0.5),
        (1, "done", 0.5),
    ]
    said = [line.removeprefix("[0] ") for line in running[0].log.splitlines()]
    elsewhere = tmp_path / "elsewhere"  # the folder of whoever submitted it
    elsewhere.mkdir()
    (elsewhere / "plan.json").write_text(config_map["data"]["plan.json"])
    assert trials.read(elsewhere, said).trials == found.trials


def test_a_bad_hostfile_ends_the_job_at_once(nodes: Kubelet) -> None:
    plan = decide("job", {"workload": "/data/program.py"})
    config_map, templates, job = pods(plan)
    config_map["data"]["hostfile"] = config_map["data"]["hostfile"].splitlines()[
        0
    ]  # short: one host is missing
    running = nodes.start(config_map, templates[1:])
    code = running[0].wait(240)
    assert code == 64
    assert "the hostfile is short" in running[0].log
    assert action(job["spec"], code) == "FailJob"


def test_a_host_that_never_comes_is_named(nodes: Kubelet) -> None:
    plan = decide("job", {"workload": "/data/program.py"}, wait="2s")
    config_map, templates, job = pods(plan)
    running = nodes.start(config_map, templates[:1])
    code = running[0].wait(240)
    assert code == 69
    assert f"{templates[1][1].host}.{plan.id} never came within 2 s" in running[0].log
    assert action(job["spec"], code) == "Count"


def test_preflight_names_a_host_that_is_not_fit_and_lets_others_start(nodes: Kubelet, tmp_path: Path) -> None:
    """The hosts of a run on Kubernetes are checked by the same program as on Slurm, with its exit code."""
    plan = decide("job", {"workload": "/data/program.py", "preflight": True})
    config_map, templates, job = pods(plan)
    bad = [copy.deepcopy(pod) for pod in templates]  # one by one: they share their template
    command = bad[1][0]["spec"]["containers"][0]["command"]
    command.insert(command.index("--"), "--disk=1e9")
    running = nodes.start(config_map, bad)
    assert [pod.wait(240) for pod in running] == [76, 76], "\n".join(pod.log for pod in running)
    host = f"{templates[1][1].host}.{plan.id}"
    for pod in running:
        assert f"node: error: {host} is not fit for this job: scratch: " in pod.log
    assert re.search(rf"^  {re.escape(host)} .*FAILED", running[0].log, re.MULTILINE), "the table"
    assert action(job["spec"], 76) == "Count"
    folder = tmp_path / "runs" / plan.id
    assert (folder / "outcome-0").read_text().split()[:3] == ["76", "-1", host]
    running = nodes.start(config_map, templates)
    assert [pod.wait(240) for pod in running] == [0, 0], "\n".join(pod.log for pod in running)
    assert "GB/s" in running[0].log, "all hosts did an all-reduce"
    assert (folder / "outcome-0").read_text().startswith("0 "), "of the newest attempt"


def action(spec: Object, code: int, disrupted: bool = False) -> str:
    """What the Job controller does about a failed pod: the first rule that matches, else it counts.

    https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy
    """
    for rule in spec["podFailurePolicy"]["rules"]:
        if disrupted and any(c["type"] == "DisruptionTarget" for c in rule.get("onPodConditions", [])):
            return str(rule["action"])
        if code in rule.get("onExitCodes", {}).get("values", []):
            return str(rule["action"])
    return "Count"


TRAINING = {
    "nodes": 2,
    "model": "byte-gpt",
    "batch": {"micro": 2, "accumulation": 1},
    "deepspeed": "zero1",
    "checkpoint": {"every": 1000, "keep": 2},
}


@pytest.mark.deepspeed
def test_training_on_two_hosts_goes_on_after_an_eviction(nodes: Kubelet, tmp_path: Path) -> None:
    """The Job's whole life: two pods train, one is evicted, all save and end, new ones go on and finish."""
    plan = decide("job", {**TRAINING, "args": {"seq-length": 32, "max-steps": 400, "log-every": 1}})
    config_map, templates, job = pods(plan)
    folder = tmp_path / "runs" / plan.id
    first = nodes.start(config_map, templates)
    _wait_for_step(folder, 5, first)
    first[1].signal(signal.SIGTERM)  # as an eviction does, to one of them
    codes = [pod.wait(240) for pod in first]
    logs = "\n".join(pod.log for pod in first)
    assert codes == [75, 75], logs
    # The evicted pod and the one that followed it: neither counts, and both are made anew.
    assert [action(job["spec"], 75), action(job["spec"], 75, disrupted=True)] == ["Ignore", "Ignore"]
    saved = [r for r in _metrics(folder) if r.get("event") == "saved"]
    assert len(saved) == 1
    steps = [r["step"] for r in _metrics(folder) if "loss" in r]
    # A second attempt needs no more steps than prove that it went on.
    for template, _ in templates:
        container = template["spec"]["containers"][0]
        container["command"] = [w.replace("400", str(max(steps) + 5)) for w in container["command"]]
    second = nodes.start(config_map, templates)
    codes = [pod.wait(240) for pod in second]
    logs = "\n".join(pod.log for pod in second)
    assert codes == [0, 0], logs
    started = [r for r in _metrics(folder) if r.get("event") == "start"]
    assert [s["attempt"] for s in started] == [1, 2]
    assert started[1]["resumed_from"] == saved[0]["tag"]
    assert [r for r in _metrics(folder) if r.get("event") == "end"][-1]["status"] == "done"
    assert "[0] " in second[0].log
    assert "[1] " in second[1].log or "host 2 of 2" in second[1].log
    assert list((folder / "checkpoints").glob("*/complete.json"))


@pytest.mark.deepspeed
@pytest.mark.parametrize("nodes_", [1, 2])
def test_the_quickstart_on_the_shipped_cluster_learns(nodes_: int, nodes: Kubelet) -> None:
    """As it stands, but for fewer steps; on two hosts with the claim that they need then."""
    settings = ["args.max-steps=12", "args.eval-every=6", "args.log-every=1", "checkpoint.every=6"]
    if nodes_ > 1:
        settings += [f"nodes={nodes_}", "batch.micro=4", "cluster.kubernetes.runs=runs"]
    config_map, templates, _ = pods(variants.shipped(*settings))
    assert len(templates) == nodes_
    running = nodes.start(config_map, templates)
    codes = [pod.wait(240) for pod in running]
    log = running[0].log
    assert codes == [0] * nodes_, log
    losses = [float(loss) for loss in re.findall(r"^\[0\] step +\d+/12  loss (\S+)", log, re.MULTILINE)]
    assert len(losses) == 12, log
    assert losses[-1] < losses[0]
    assert "checkpoint step-00000012 saved in" in log


def _metrics(folder: Path) -> list[Object]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _wait_for_step(folder: Path, step: int, running: list[kubelet.Pod]) -> None:
    end = time.monotonic() + 240
    while not any(r.get("step", 0) >= step for r in _metrics(folder) if "loss" in r):
        if time.monotonic() > end or any(pod.process.poll() is not None for pod in running):
            raise AssertionError("\n".join(pod.log for pod in running))
        time.sleep(0.2)
