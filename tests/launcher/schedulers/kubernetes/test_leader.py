"""A pipeline that a pod leads: the client hands it over and leaves, and the pod's own command runs here."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import ssl
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import lead
import pytest
import yaml

from launcher.errors import PlanError
from launcher.planning.code import Code, File
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import applying, leader, rights
from tests.launcher.schedulers.kubernetes import audit, configmaps_there, schemas, test_pipeline, variants
from tests.launcher.schedulers.kubernetes.conftest import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from launcher.planning.plan import Plan

pytestmark = pytest.mark.heavy  # programs of their own

Run = Any
SITE = """slots: 1
fabric: tcp
image: registry.example.com/deepspeed-train:1
kubernetes: {runs: runs, leader: lead, labels: {team: nlp}, queue: research}
"""
ID = "chain-pipeline-1"
LEADER = f"{ID}-leader"


class Secure(Cluster):
    """The server over TLS, without which a service account sends no token."""

    def __init__(self, port: int, folder: Path, certificate: Path) -> None:
        super().__init__(port, folder)
        self.url, self.certificate = f"https://127.0.0.1:{port}", certificate
        self.trust = ssl.create_default_context(cafile=str(certificate))

    def tell(self, do: str, **what: Any) -> Any:
        body = json.dumps({"do": do, **what}).encode()
        request = urllib.request.Request(f"{self.url}/_test", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=60, context=self.trust) as answer:
            return json.loads(answer.read())


@pytest.fixture
def there(cluster: Cluster, tls_server: tuple[int, Path], tmp_path: Path) -> Iterator[Secure]:
    """An empty server; `cluster` brings the environment."""
    port, certificate = tls_server
    made = Secure(port, tmp_path, certificate)
    made.tell("reset")
    made.kubeconfig(server=made.url, authority=certificate)
    yield made
    made.tell("reset")


@pytest.fixture
def chain(tmp_path: Path) -> str:
    return test_pipeline.write_chain(tmp_path, SITE)


def files(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, bytes]:
    """Those of the leader's volume."""
    (volume,) = objects["jobs", LEADER]["spec"]["template"]["spec"]["volumes"]
    return configmaps_there.contents(list(objects.values()), volume)


@pytest.fixture
def leads(there: Secure, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the command of the leader's pod, with its files and the account `member`, as a kubelet would."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        objects = there.objects()
        folder, account = tmp_path / "lead", tmp_path / "account"
        folder.mkdir(exist_ok=True)
        account.mkdir(exist_ok=True)
        for file, content in files(objects).items():
            (folder / file).write_bytes(content)
        (account / "ca.crt").write_bytes(there.certificate.read_bytes())
        (account / "token").write_text("member\n")
        (account / "namespace").write_text("training")
        (container,) = objects["jobs", LEADER]["spec"]["template"]["spec"]["containers"]
        words = [word.replace("$$", "$").replace("/lead", str(folder), 1) for word in container["command"]]
        port = there.url.rpartition(":")[2]
        own = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "LEAD_PAUSE": "0.02"}
        own["LEADER_UID"] = objects["jobs", LEADER]["metadata"]["uid"]  # the label of a Job's pods
        process = subprocess.Popen(
            [*words[:4], *words[4:], "--account", str(account)],
            env={**os.environ, **own},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def role() -> set[tuple[str, str, str]]:
    """The leader's least rights, for kind job."""
    return {
        (rule.group, resource, verb)
        for rule in rights.of_leader(["job", "kueue"])
        for resource, verb in itertools.product(rule.resources, rule.verbs)
    }


def stages(there: Secure) -> list[str]:
    return [name for plural, name in there.objects() if plural == "jobs" and name != LEADER]


def until(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends(there: Secure, name: str, word: str) -> None:
    condition = {"type": word, "status": "True", "reason": "", "message": ""}
    there.tell("status", plural="jobs", name=name, status={"conditions": [condition]})


def states(run: Run) -> list[tuple[str, str, str]]:
    code, out, err = run("status", ID, "--json")
    assert code == 0, err
    return [(s["stage"], s["state"], s["reason"]) for s in json.loads(out)["stages"]]


def submitted(run: Run, chain: str, there: Secure) -> None:
    there.tell("rules", role=sorted(role()))
    code, out, err = run("kubernetes", chain)
    assert (code, out) == (0, f"{ID}\n"), err
    assert f"led by training/job/{LEADER}" in err
    assert stages(there) == [], "the stages are the pod's to submit"


def with_a_stage(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> tuple[subprocess.Popen[str], str]:
    """(the leader, the first stage, which it has submitted)."""
    submitted(run, chain, there)
    pod = leads()
    until(lambda: stages(there))
    (first,) = stages(there)
    return pod, first


def test_nobody_has_to_stay(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    """With the least rights, and no other."""
    submitted(run, chain, there)
    assert states(run)[0][1] == "PENDING"
    pod = leads()
    until(lambda: stages(there))
    (first,) = stages(there)
    assert json.loads(run("status", ID, "--json")[1])["stages"][0]["run"] == first
    assert run("status", first)[0] == 0, "what the pod has submitted is known here"
    ends(there, first, "Complete")
    until(lambda: len(stages(there)) == 2)
    second = next(name for name in stages(there) if name != first)
    command = there.objects()["jobs", second]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--model=/runs/{first}/export" in command
    ends(there, second, "Complete")
    assert pod.wait(timeout=120) == 0
    ends(there, LEADER, "Complete")
    assert [state for _, state, _ in states(run)] == ["SUCCEEDED", "SUCCEEDED"]
    owner = there.objects()["services", second]["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Job", second)
    assert {tuple(right) for right in there.tell("used")} == role(), "no right too many, and none is missing"
    assert run("resume", ID)[0] == 4


def test_a_stage_that_fails_ends_it_and_resume_goes_on_from_here(
    there: Secure,
    run: Run,
    chain: str,
    leads: Callable[[], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod, first = with_a_stage(there, run, chain, leads)
    ends(there, first, "Failed")
    assert pod.wait(timeout=120) == 1
    assert pod.stderr
    assert f"stage a: {first} has not succeeded: no other is submitted" in pod.stderr.read()
    assert [state for _, state, _ in states(run)] == ["FAILED", "CANCELLED"]

    def over(found: Any, *_: Any) -> int:
        ends(there, found.id, "Complete")
        return 0

    monkeypatch.setattr("launcher.reports.progress.follow", over)
    code, _, err = run("resume", ID)
    assert code == 0, err
    assert ("jobs", LEADER) not in there.objects(), "only one leads"
    assert [state for _, state, _ in states(run)] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_pod_that_is_started_anew_goes_on_and_a_server_that_is_away_is_waited_for(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    pod, first = with_a_stage(there, run, chain, leads)
    pod.kill()
    pod.wait()
    uid = there.objects()["jobs", first]["metadata"]["uid"]
    there.tell("rules", failures=[[503, ""], [0, ""], [429, "1"]])
    pod = leads()
    until(lambda: not there.tell("failures"))
    assert pod.poll() is None
    assert there.objects()["jobs", first]["metadata"]["uid"] == uid
    ends(there, first, "Complete")
    until(lambda: len(stages(there)) == 2)


def test_one_that_is_started_anew_submits_no_stage_again_whose_job_was_deleted(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    """A site may give Jobs `ttlSecondsAfterFinished`: a later stage tells what is over."""
    pod, first = with_a_stage(there, run, chain, leads)
    ends(there, first, "Complete")
    until(lambda: len(stages(there)) == 2)
    second = next(name for name in stages(there) if name != first)
    pod.kill()
    pod.wait()
    there.tell("remove", plural="jobs", name=first)
    pod = leads()
    ends(there, second, "Complete")
    assert pod.wait(timeout=120) == 0
    assert stages(there) == [second]


@pytest.mark.parametrize("refused", [False, True])
def test_one_that_was_killed_while_it_submitted_gives_the_stage_its_owner_after_all(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one they would stay when the stage's main object goes."""
    monkeypatch.setenv("LEADER_UID", "mine")
    asked: list[tuple[str, str, Any]] = []

    class There:
        def find(self, path: str) -> Any:
            own = {"name": "one", "uid": "u", "annotations": {lead.MARK: "mine"}}
            return {"metadata": own} if path == "/jobs/one" else None

        def call(self, method: str, path: str, body: Any, content: str) -> None:
            asked.append((method, path, body))
            if refused:
                raise lead.Refused(404, "it is gone")

    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}}
    main = {"path": "/jobs/one", "document": job}
    lead.submit(There(), [{"path": "/services/one", "document": {"metadata": {}}}, main])  # type: ignore[arg-type]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "one", "uid": "u"}
    patch = {"metadata": {"ownerReferences": [owner]}}
    assert asked == [("PATCH", "/services/one?fieldManager=launcher", patch)]


@pytest.mark.parametrize(
    ("words", "asked"),
    [('jobs.batch is forbidden: User "x" cannot create', 1), ("not found", 3), ("", lead.TRIES)],
)
def test_what_a_webhook_does_not_know_yet_is_asked_again(
    words: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer's says 403 of a TrainJob whose runtime was made a moment ago; RBAC's 403 stays."""
    monkeypatch.setattr(lead, "PAUSE", 0)
    calls: list[str] = []

    class There:
        def call(self, method: str, path: str, body: Any, content: str) -> str:
            calls.append(path)
            if words == "not found" and len(calls) == 3:
                return "made"
            raise lead.Refused(403, words)

    with contextlib.suppress(lead.Refused):
        assert lead.apply(There(), {"path": "/x", "document": {}}) == "made"  # type: ignore[arg-type]
    assert len(calls) == asked


def test_what_is_refused_is_said_and_ends_it(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    submitted(run, chain, there)
    there.tell("rules", denied={"jobs": "no more jobs here"})
    pod = leads()
    assert pod.wait(timeout=120) == 1
    assert pod.stderr
    said = pod.stderr.read().splitlines()[-1]
    assert said.startswith("refused (403): no more jobs here")
    state = {"name": "leader", "state": {"terminated": {"exitCode": 1, "message": said}}}
    own = {"metadata": {"name": "p", "labels": {"launcher/pipeline": LEADER}}, "spec": {}}
    there.tell("put", plural="pods", object={"kind": "Pod", **own, "status": {"containerStatuses": [state]}})
    ends(there, LEADER, "Failed")
    _, state_, reason = states(run)[0]
    assert (state_, said in reason) == ("CANCELLED", True), reason


def test_a_stage_that_was_refused_is_submitted_by_resume_and_its_record_outlives_a_second_refusal(
    there: Secure,
    run: Run,
    chain: str,
    leads: Callable[[], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted(run, chain, there)
    there.tell("rules", denied={"jobs": "no more jobs here"})
    assert leads().wait(timeout=120) == 1
    ends(there, LEADER, "Failed")
    code, _, err = run("resume", ID)
    assert (code, "no more jobs here" in err) == (4, True), err
    assert there.objects() == {}  # what the leader had made of the stage too
    assert {state for _, state, _ in states(run)} <= {"PENDING", "CANCELLED"}
    there.tell("rules", patience={"jobs": 0})

    def over(found: Any, *_: Any) -> int:
        ends(there, found.id, "Complete")
        return 0

    monkeypatch.setattr("launcher.reports.progress.follow", over)
    assert run("resume", ID)[0] == 0


def test_a_run_of_that_name_that_another_has_submitted_is_left_alone(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    pod, first = with_a_stage(there, run, chain, leads)
    given = json.loads(files(there.objects())["stages.json"])["stages"]
    other = {**there.objects()["jobs", first], "metadata": {"name": given[1]["run"], "labels": {}}}
    there.tell("put", plural="jobs", object=other)
    ends(there, first, "Complete")
    assert pod.wait(timeout=120) == 1
    assert pod.stderr
    assert "exists already, and another has submitted it" in pod.stderr.read()
    assert next(state for _, state, _ in states(run)) == "SUCCEEDED"
    assert run("cancel", ID)[0] in {0, 4}
    assert ("jobs", given[1]["run"]) in there.objects(), "it is not ours"


def test_cancel_ends_the_leader_first(
    there: Secure, run: Run, chain: str, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    submitted(run, chain, there)
    leads()
    until(lambda: stages(there))
    code, _, err = run("cancel", ID)
    assert (code, "CANCELLED" in err) == (0, True), err
    assert [key for key in there.objects() if key[0] == "jobs"] == []


def test_a_leader_of_the_same_name_that_is_anothers_is_left_alone(
    there: Secure, run: Run, chain: str
) -> None:
    """Pipelines are numbered in each folder of runs: two people have a `chain-pipeline-1`."""
    submitted(run, chain, there)
    (name,) = (key[1] for key in there.objects() if key[0] == "jobs")
    theirs = there.objects()["jobs", name]
    theirs["metadata"]["uid"] = "of another"
    there.tell("put", plural="jobs", object=theirs)
    code, out, _ = run("status", ID, "--json")
    assert code == 0
    assert "its Job was deleted; another one has its name" in out
    assert run("cancel", ID)[0] == 0
    assert ("jobs", name) in there.objects()


def test_a_job_that_waits_for_a_run(
    there: Secure, run: Run, chain: str, tmp_path: Path, leads: Callable[[], subprocess.Popen[str]]
) -> None:
    there.tell("rules", role=sorted(role()))
    before = run("kubernetes", str(tmp_path / "first.yaml"))[1].strip()
    code, out, err = run("kubernetes", str(tmp_path / "second.yaml"), "--after", before)
    assert code == 0, err
    text = (tmp_path / "runs" / out.strip() / "leader.yaml").read_text()
    *maps, job = yaml.safe_load_all(text)
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    given = json.loads(configmaps_there.contents(maps, volume)["stages.json"])
    assert given["after"] == [f"/apis/batch/v1/namespaces/training/jobs/{before}"]
    (tmp_path / "site.yaml").write_text(SITE.replace("runs: runs", "runs: runs, namespace: default"))
    code, _, err = run("kubernetes", str(tmp_path / "second.yaml"), "--after", before, "--name", "far")
    assert (code, f"--after {before}: it is not in namespace default" in err) == (4, True), err


def test_without_a_leader_or_with_two_places_it_is_refused(
    there: Secure, run: Run, chain: str, tmp_path: Path
) -> None:
    (tmp_path / "other.yaml").write_text(SITE.replace("runs: runs", "runs: runs, namespace: default"))
    second = (tmp_path / "second.yaml").read_text()
    (tmp_path / "second.yaml").write_text(second.replace("site.yaml", "other.yaml"))
    code, _, err = run("kubernetes", chain)
    assert (code, "leads in its own namespace" in err) == (3, True), err
    (tmp_path / "second.yaml").write_text(second)
    (tmp_path / "site.yaml").write_text(SITE.replace("leader: lead, ", ""))
    code, _, err = run("kubernetes", chain)
    assert (code, "or kubernetes.leader in the cluster file" in err) == (3, True), err
    assert not there.objects()
    assert not (tmp_path / "runs").exists()


def test_a_refusal_leaves_nothing(there: Secure, run: Run, chain: str, tmp_path: Path) -> None:
    there.tell("rules", denied={"jobs": "no jobs here"})
    code, _, err = run("kubernetes", chain)
    assert (code, "no jobs here" in err) == (4, True), err
    assert not there.objects()
    assert not list((tmp_path / "runs").iterdir())


def test_a_leader_that_cannot_be_recorded_leads_nothing(
    there: Secure, run: Run, chain: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from launcher.runs import pipelines

    write = pipelines.write

    def full(folder: Path, scheduler: str, pipeline: pipelines.PipelineRun) -> None:
        if pipeline.leader:
            raise OSError(28, "No space left on device")
        write(folder, scheduler, pipeline)

    monkeypatch.setattr("launcher.runs.pipelines.write", full)
    code, _, err = run("kubernetes", chain)
    assert (code, "No space left on device" in err) == (2, True), err
    assert ("jobs", LEADER) not in there.objects()
    assert not list((tmp_path / "runs").iterdir())


def test_its_image_is_the_name_of_one(there: Secure, run: Run, chain: str, tmp_path: Path) -> None:
    for image in ("''", "Lead:1", "a:b:c"):
        own = f"leader: {{service_account: lead, image: {image}}}"
        (tmp_path / "site.yaml").write_text(SITE.replace("leader: lead", own))
        code, _, err = run("kubernetes", chain)
        assert (code, err.count("site.yaml:4:")) == (3, 1), err
        assert "is not the name of a container image; write registry" in err
    assert not there.objects()


def test_the_pod_is_restricted_admitted_as_others_and_has_a_token(
    there: Secure, run: Run, chain: str, tmp_path: Path
) -> None:
    submitted(run, chain, there)
    text = (tmp_path / "runs" / ID / "leader.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    assert [
        p for d in documents for v in (schemas.OLDEST, schemas.NEWEST) for p in schemas.problems(d, v)
    ] == []
    assert audit.problems(documents) == []
    job = documents[-1]
    spec = job["spec"]["template"]["spec"]
    assert audit.security(spec) == "restricted"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["spec"]["template"]["metadata"]["labels"]["team"] == "nlp"
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("lead", True)
    assert {key: set(value) for key, value in spec["containers"][0]["resources"].items()} == {
        "requests": {"cpu", "memory"},
        "limits": {"cpu", "memory"},
    }


def test_its_role_is_printed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    code, out, err = run("cluster", "rbac", "--cluster", str(tmp_path / "site.yaml"), "--namespace", "nlp")
    assert code == 0, err
    documents = list(yaml.safe_load_all(out))
    assert [d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"] == ["lead"]
    own = next(d for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "launcher-leader")
    verbs = {verb for rule in own["rules"] for verb in rule["verbs"]}
    assert verbs == {"create", "patch", "get"}
    assert {r for rule in own["rules"] for r in rule["resources"]} == {
        *("configmaps", "services", "networkpolicies", "jobs")
    }


def test_a_name_that_is_too_long_is_cut() -> None:
    names = {leader.name("a" * 60 + f"-pipeline-{n}") for n in (1, 2)}
    assert len(names) == 2
    assert all(len(name) <= 57 and name.endswith("-leader") for name in names)


def bringing(*files: File) -> tuple[dict[str, Plan], dict[str, str]]:
    """Three stages that bring `files` each: their plans and manifests."""
    made = variants.decide({"leader": "lead"}, {"workload": "./train.py"})
    program = File("train.py", "/x/train.py", 1, content=b"1")
    made = made._replace(code=Code("/x", "train.py", (program, *files)))
    plans = {name: made._replace(id=f"p-{name}") for name in "abc"}
    return plans, {name: kubernetes.render(own)["manifest.yaml"] for name, own in plans.items()}


def test_stages_of_any_size_are_held_in_configmaps_that_kubectl_applies() -> None:
    plans, texts = bringing(*(File(f"{n}.py", f"/x/{n}", 100_000, content=b"x" * 100_000) for n in range(5)))
    *maps, job = yaml.safe_load_all(leader.manifest("p", plans, texts))
    assert len(maps) > len(texts)
    assert max(len(json.dumps(made)) for made in maps) < 2**18
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    held = configmaps_there.contents(maps, volume)
    for entry, text in zip(json.loads(held["stages.json"])["stages"], texts.values(), strict=True):
        assert [json.loads(held[made["file"]]) for made in entry["objects"]] == applying.objects(text)


def test_a_file_that_no_configmap_of_the_leader_holds_is_refused() -> None:
    plans, texts = bringing(File("table.py", "/x/table", 600_000, content=b"\n" * 600_000))
    with pytest.raises(PlanError, match=r"has 1,200,\d{3} bytes as JSON, and a ConfigMap holds 1,048,576"):
        leader.manifest("p", plans, texts)
