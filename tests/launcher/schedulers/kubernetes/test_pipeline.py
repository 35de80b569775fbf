"""A pipeline on Kubernetes, where `--wait` does what dependencies do elsewhere: the real client on fakeserver.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher import ROOT
from launcher.cli import main
from launcher.runs import folders
from launcher.submission import submit
from tests.launcher.schedulers.kubernetes.test_verbs import KUBECTL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.launcher.schedulers.kubernetes.conftest import Cluster

SITE = "slots: 1\nfabric: tcp\nimage: registry.example.com/deepspeed-train:1\nkubernetes: {runs: runs}\n"


def write_chain(folder: Path, site: str) -> str:
    """The file of a pipeline of two stages in the folder, on a cluster that `site` describes."""
    (folder / "site.yaml").write_text(site)
    for name in ("first", "second"):
        text = f"name: {name}\ncluster: site.yaml\nmodel: byte-gpt\nbatch: {{micro: 1}}\n"
        (folder / f"{name}.yaml").write_text(text)
    (folder / "chain.yaml").write_text(
        "name: chain\npipeline:\n  a: {job: first.yaml}\n  b: {job: second.yaml, set: {model: $a/export}}\n"
    )
    return str(folder / "chain.yaml")


@pytest.fixture
def chain(tmp_path: Path) -> str:
    return write_chain(tmp_path, SITE)


def jobs(cluster: Cluster) -> dict[str, str]:
    """uid → name."""
    return {d["metadata"]["uid"]: n for (p, n), d in cluster.objects().items() if p == "jobs"}


def play(cluster: Cluster, words: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """Let each job that appears, but for the `known` uids, end with the next of `words`. Returns their names."""
    seen: list[str] = []
    passed = set(known)
    for word in words:
        deadline = time.monotonic() + 60
        while not (new := {uid: n for uid, n in jobs(cluster).items() if uid not in passed}):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(new) == 1, "the next stage was submitted before this one had ended"
        ((uid, name),) = new.items()
        passed.add(uid)
        seen.append(name)
        time.sleep(0.1)  # several looks of the leader
        condition = {"type": word, "status": "True", "reason": "", "message": ""}
        cluster.tell("status", plural="jobs", name=name, status={"conditions": [condition]})
    return seen


def launch(chain: str, cluster: Cluster, words: Sequence[str]) -> tuple[int, list[str]]:
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(play(cluster, words)))
    thread.start()
    code = main.main(["kubernetes", chain, "--wait"])
    thread.join()
    return code, seen


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main.main(words) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


@pytest.mark.heavy
def test_each_stage_is_submitted_when_the_one_before_has_succeeded(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (first, second) = launch(chain, cluster, ["Complete", "Complete"])
    assert code == 0, capsys.readouterr().err
    command = cluster.objects()["jobs", second]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--model=/runs/{first}/export" in command  # as the ranks see it
    found = told(capsys, "status", "chain-pipeline-1", "--json")
    assert [(s["run"], s["state"]) for s in found["stages"]] == [(first, "SUCCEEDED"), (second, "SUCCEEDED")]


def test_a_corpus_is_tokenized_in_pods_without_gpus_before_any_gpu_is_asked_for(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (prepare, train) = launch(
        str(ROOT / "jobs/llama-7b-corpus.yaml"), cluster, ["Complete", "Complete"]
    )
    assert code == 0, capsys.readouterr().err
    before, after = (cluster.objects()["jobs", name]["spec"] for name in (prepare, train))
    assert (before["completions"], after["completions"]) == (2, 4)
    pods = [spec["template"]["spec"] for spec in (before, after)]
    assert ["nvidia" in json.dumps(pod) for pod in pods] == [False, True], "neither asked for nor tolerated"
    first, second = (pod["containers"][0] for pod in pods)
    assert first["image"].endswith("-cpu")
    assert second["image"].endswith("-cuda")
    assert set(first["resources"]["limits"]) == {"memory"}
    assert int(first["resources"]["requests"]["cpu"]) > 1, "every core tokenizes"
    assert f"--run-dir=/runs/{prepare}" in first["command"]
    assert f"--data-cache=/runs/{prepare}/data" in second["command"]
    for pod, container in zip(pods, (first, second), strict=True):
        claims = {
            v["name"]: v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        }
        places = {m["mountPath"]: claims.get(m["name"]) for m in container["volumeMounts"]}
        assert places["/runs"] == {"claimName": "runs"}, "what one leaves the other finds"
        assert (places["/data"] or {})["claimName"] == "data"


def test_a_failure_ends_the_pipeline(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (first,) = launch(chain, cluster, ["Failed"])
    assert code == 1
    assert [n for p, n in cluster.objects() if p == "jobs"] == [first]
    found = told(capsys, "status", "chain-pipeline-1", "--json")
    assert [s["state"] for s in found["stages"]] == ["FAILED", "CANCELLED"]
    assert found["stages"][0]["run"] == first
    assert found["stages"][1]["reason"] == "not submitted: an earlier stage did not succeed"


def resume(cluster: Cluster, words: Sequence[str], known: Sequence[str]) -> tuple[int, list[str]]:
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(play(cluster, words, known)))
    thread.start()
    code = main.main(["resume", "chain-pipeline-1"])
    thread.join()
    return code, seen


def test_a_pipeline_whose_leader_stopped_is_not_done_and_is_resumed(
    chain: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("launcher.reports.progress.follow", interrupted)
        assert main.main(["kubernetes", chain, "--wait"]) == 130
    assert "`python -m launcher resume chain-pipeline-1` continues it" in capsys.readouterr().err
    (first,) = [n for p, n in cluster.objects() if p == "jobs"]
    condition = {"type": "Complete", "status": "True", "reason": "", "message": ""}
    cluster.tell("status", plural="jobs", name=first, status={"conditions": [condition]})
    found = told(capsys, "status", "chain-pipeline-1", "--json")
    assert (found["state"], [s["state"] for s in found["stages"]]) == ("PENDING", ["SUCCEEDED", "PENDING"])
    assert found["stages"][1]["reason"] == "not submitted"
    code, (second,) = resume(cluster, ["Complete"], list(jobs(cluster)))
    assert (code, second) == (0, found["stages"][1]["run"])
    command = cluster.objects()["jobs", second]["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--model=/runs/{first}/export" in command
    assert told(capsys, "status", "chain-pipeline-1", "--json")["state"] == "SUCCEEDED"
    assert main.main(["resume", "chain-pipeline-1"]) == 4
    assert "there is nothing to resume" in capsys.readouterr().err


def test_a_stage_that_failed_is_resumed_in_its_folder(chain: str, cluster: Cluster) -> None:
    code, (first,) = launch(chain, cluster, ["Failed"])
    uid = cluster.objects()["jobs", first]["metadata"]["uid"]
    code, seen = resume(cluster, ["Complete", "Complete"], [uid])
    assert code == 0
    assert seen[0] == first
    assert cluster.objects()["jobs", first]["metadata"]["uid"] != uid


@pytest.mark.parametrize("options", [["--server-dry-run"], ["--server-dry-run", "--wait"]])
def test_a_servers_dry_run_submits_nothing(
    options: list[str], chain: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["kubernetes", chain, *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if line.startswith("job/") and line.endswith(" ok")]) == 2
    assert not cluster.objects()
    assert not (tmp_path / "runs").exists()


def test_dry_run_is_what_kubectl_takes(chain: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["kubernetes", chain, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    documents = [d for d in YAML(typ="safe", pure=True).load_all(out) if d]
    kinds = [d["kind"] for d in documents]
    assert kinds.count("Job") == kinds.count("ConfigMap") == 2
    assert all(set(d) >= {"apiVersion", "kind", "metadata"} for d in documents)
    assert "# stage b, after a\n" in out
    assert "stage b, after a: what is printed or written does not enforce this dependency" in err


def test_output_is_a_folder_a_stage_for_kustomize(
    chain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["kubernetes", chain, "-o", str(tmp_path / "out")]) == 0
    for stage in ("a", "b"):
        listed = YAML(typ="safe", pure=True).load(
            (tmp_path / "out" / stage / "kustomization.yaml").read_text()
        )
        for name in listed["resources"]:
            text = (tmp_path / "out" / stage / name).read_text()
            assert len([d for d in YAML(typ="safe", pure=True).load_all(text) if d]) == 1


@pytest.mark.parametrize(
    "options", [["--dry-run=client"], ["--server-side"], ["--server-side", "--dry-run=server"]]
)
@pytest.mark.heavy
def test_kubectl_takes_what_a_pipelines_dry_run_prints(
    options: list[str],
    chain: str,
    cluster: Cluster,
    tls_server: tuple[int, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    port, certificate = tls_server  # kubectl sends no token without TLS
    cluster.kubeconfig(server=f"https://127.0.0.1:{port}", authority=certificate)
    assert main.main(["kubernetes", chain, "--dry-run", "--name", "piped"]) == 0
    text = capsys.readouterr().out
    words = [KUBECTL, "apply", "--validate=false", *options, "-f", "-"]  # this server has no OpenAPI
    done = subprocess.run(words, input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == text.count("\nkind: ") == 8


def test_kubectl_builds_each_stage_that_was_written(
    chain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["kubernetes", chain, "-o", str(tmp_path / "out")]) == 0
    for stage in ("a", "b"):
        words = [KUBECTL, "kustomize", str(tmp_path / "out" / stage)]
        done = subprocess.run(words, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")
        kinds = [d["kind"] for d in YAML(typ="safe", pure=True).load_all(done.stdout)]
        assert sorted(kinds) == ["ConfigMap", "Job", "NetworkPolicy", "Service"]


def test_what_cannot_be_is_said_before_anything_is_submitted(
    chain: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["kubernetes", chain]) == 3
    assert "Kubernetes has no jobs that wait for each other; add --wait" in capsys.readouterr().err
    (tmp_path / "site.yaml").write_text(SITE.replace("kubernetes: {runs: runs}", ""))
    assert main.main(["kubernetes", chain, "--wait"]) == 3
    err = capsys.readouterr().err
    assert "stage b reads what an earlier one left, and run folders end with their pods" in err
    assert "kubernetes: {runs: CLAIM}" in err
    assert not cluster.objects()


def test_a_run_whose_folder_ended_with_its_pods_is_not_resumed(
    chain: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("kubernetes: {runs: runs}", ""))
    assert main.main(["kubernetes", str(tmp_path / "first.yaml")]) == 0
    run = capsys.readouterr().out.strip()
    condition = {"type": "Failed", "status": "True", "reason": "", "message": ""}
    cluster.tell("status", plural="jobs", name=run, status={"conditions": [condition]})
    assert main.main(["resume", run]) == 4
    assert "has no folder to resume from: it ended with its pods" in capsys.readouterr().err
    assert run in {n for p, n in cluster.objects() if p == "jobs"}


def test_a_pipeline_that_the_server_refuses_leaves_nothing(
    chain: str, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.tell("rules", without=["jobs"])
    assert main.main(["kubernetes", chain, "--wait"]) == 4
    assert list((tmp_path / "runs").iterdir()) == []


def alone(chain: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The first stage's job, submitted by itself: its run."""
    job = chain.replace("chain.yaml", "first.yaml")
    assert main.main(["kubernetes", job, *words]) == 0
    return capsys.readouterr().out.strip()


def end(cluster: Cluster, name: str, word: str) -> None:
    condition = {"type": word, "status": "True", "reason": "", "message": ""}
    cluster.tell("status", plural="jobs", name=name, status={"conditions": [condition]})


def test_a_job_after_a_run_is_submitted_when_that_has_succeeded(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    first = alone(chain, capsys)
    job = chain.replace("chain.yaml", "second.yaml")
    thread = threading.Thread(target=lambda: play(cluster, ["Complete", "Complete"]))
    thread.start()
    assert main.main(["kubernetes", job, "--after", first, "--wait", "--set", "model=byte-gpt"]) == 0
    thread.join()
    assert f"second-pipeline-1 waits for {first}" in capsys.readouterr().err
    found = told(capsys, "status", "second-pipeline-1", "--json")
    assert [(s["stage"], s["state"]) for s in found["stages"]] == [("second", "SUCCEEDED")]
    assert list(jobs(cluster).values()) == [first, found["stages"][0]["run"]]
    # what has succeeded needs no wait
    assert main.main(["kubernetes", job, "--after", first]) == 0


def waiting(chain: str, cluster: Cluster, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that waits for `first`, and whose command was interrupted."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("launcher.reports.progress.follow", interrupted)
        assert main.main(["kubernetes", chain, "--after", first, "--wait"]) == 130
    assert set(jobs(cluster).values()) == {first}


def test_a_command_that_leaves_while_it_waits_loses_nothing(
    chain: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = alone(chain, capsys, "--name", "before")
    waiting(chain, cluster, before, monkeypatch)
    assert (
        "nothing more is submitted until `python -m launcher resume chain-pipeline-1`"
        in capsys.readouterr().err
    )
    found = told(capsys, "status", "chain-pipeline-1", "--json")
    assert [s["state"] for s in found["stages"]] == ["PENDING", "PENDING"]
    assert f"waits for {before}" in found["stages"][0]["reason"]
    end(cluster, before, "Failed")
    assert main.main(["resume", "chain-pipeline-1"]) == 1
    assert f"was not submitted: {before} has not succeeded" in capsys.readouterr().err
    assert set(jobs(cluster).values()) == {before}
    end(cluster, before, "Complete")
    code, seen = resume(cluster, ["Complete", "Complete"], list(jobs(cluster)))
    assert (code, len(seen)) == (0, 2)


def test_a_job_that_waits_is_cancelled_without_what_it_waits_for(
    chain: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = alone(chain, capsys, "--name", "before")
    waiting(chain, cluster, before, monkeypatch)
    assert main.main(["cancel", "chain-pipeline-1"]) == 0
    assert set(jobs(cluster).values()) == {before}
    assert told(capsys, "status", "chain-pipeline-1", "--json")["state"] == "CANCELLED"
    end(cluster, before, "Complete")

    def cancelled(*_: object) -> int:
        assert main.main(["cancel", "chain-pipeline-1"]) == 0
        return 0

    monkeypatch.setattr("launcher.reports.progress.follow", cancelled)
    assert main.main(["resume", "chain-pipeline-1"]) == 4, "cancelled while it waits"
    assert "was cancelled: what was not submitted" in capsys.readouterr().err
    assert set(jobs(cluster).values()) == {before}


def test_what_waited_is_kept_when_the_server_refuses(
    chain: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = alone(chain, capsys, "--name", "before")
    waiting(chain, cluster, before, monkeypatch)
    end(cluster, before, "Complete")
    cluster.tell("rules", denied={"configmaps": "exceeded quota: configmaps"})
    assert main.main(["resume", "chain-pipeline-1"]) == 4
    assert (
        "`python -m launcher resume chain-pipeline-1` continues it where it stands" in capsys.readouterr().err
    )
    assert told(capsys, "status", "chain-pipeline-1", "--json")["state"] == "PENDING"


def test_after_without_wait_and_other_schedulers_runs(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    first = alone(chain, capsys)
    assert main.main(["kubernetes", chain, "--after", first]) == 3
    assert "add --wait" in capsys.readouterr().err
    assert main.main(["kubernetes", chain, "--after", first, "--dry-run"]) == 0
    assert "does not enforce --after" in capsys.readouterr().err
    job = chain.replace("chain.yaml", "first.yaml")
    assert main.main(["kubernetes", job, "--after", first, "--sweep", "args.lr=1e-4,3e-4"]) == 3
    assert "--sweep leaves at once" in capsys.readouterr().err
    end(cluster, first, "Failed")
    assert main.main(["kubernetes", chain, "--after", first, "--wait"]) == 3
    assert f"--after {first}: it has failed" in capsys.readouterr().err


def test_a_sweep_is_a_job_for_each_point(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    job = chain.replace("chain.yaml", "first.yaml")
    assert main.main(["kubernetes", job, "--sweep", "args.lr=1e-4,3e-4"]) == 0
    out, err = capsys.readouterr()
    assert out == "first-sweep-1\n"
    assert "without a queue" not in err, "one host cannot hold another"
    one, other = jobs(cluster).values()
    assert [name.rpartition("-")[0] for name in (one, other)] == ["first-p0", "first-p1"]
    words = [
        cluster.objects()["jobs", name]["spec"]["template"]["spec"]["containers"][0]["command"]
        for name in (one, other)
    ]
    assert ["--lr=1e-4" in words[0], "--lr=3e-4" in words[1]] == [True, True]
    end(cluster, one, "Complete")
    capsys.readouterr()
    assert main.main(["report", "first-sweep-1", "--json"]) == 0
    rows = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {one: "SUCCEEDED", other: "PENDING"}
    for verb in ("status", "logs", "resume"):
        assert main.main([verb, "first-sweep-1"]) == 5
        said = f"first-sweep-1 is a sweep; `report first-sweep-1` shows its runs; name one of them, such as {one}"
        assert said in capsys.readouterr().err
    assert main.main(["cancel", "first-sweep-1"]) == 0
    assert main.main(["report", "first-sweep-1", "--json"]) == 0
    rows = {row["run"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert rows == {one: "SUCCEEDED", other: "CANCELLED"}


def test_a_sweep_of_several_hosts_without_a_queue_is_warned_of(
    chain: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "kubernetes",
        chain.replace("chain.yaml", "first.yaml"),
        "--sweep",
        "args.lr=1,2",
        "--set",
        "nodes=2",
    ]
    for more, warned in ((["--set", "cluster.kubernetes.queue=research"], False), ([], True)):
        assert main.main([*words, *more]) == 0
        assert ("each run may hold some of its hosts" in capsys.readouterr().err) == warned


def test_of_a_sweep_that_is_refused_nothing_is_left(
    chain: str,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from launcher.schedulers import kubernetes

    submit, sent = kubernetes.submit, list[str]()

    def second_is_refused(plan: Any, files: Any) -> str:
        sent.append(plan.id)
        if len(sent) == 2:
            cluster.tell("rules", denied={"jobs": "exceeded quota: jobs"})
        return submit(plan, files)

    monkeypatch.setattr(kubernetes, "submit", second_is_refused)
    job = chain.replace("chain.yaml", "first.yaml")
    assert main.main(["kubernetes", job, "--sweep", "args.lr=1,2,3"]) == 4
    assert "exceeded quota" in capsys.readouterr().err
    assert len(sent) == 2
    assert cluster.objects() == {}
    assert list((tmp_path / "runs").iterdir()) == []


def test_what_a_refused_sweep_cannot_cancel_keeps_its_folder_and_is_named(
    chain: str,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from launcher.errors import SubmitError
    from launcher.schedulers import kubernetes

    submit, cancel, sent = kubernetes.submit, kubernetes.cancel, list[str]()

    def third_is_refused(plan: Any, files: Any) -> str:
        sent.append(plan.id)
        if len(sent) == 3:
            raise SubmitError("exceeded quota")
        return submit(plan, files)

    def last_stays(run: Any) -> None:
        if run.id == sent[1]:
            raise SubmitError("the server has gone")
        cancel(run)

    monkeypatch.setattr(kubernetes, "submit", third_is_refused)
    monkeypatch.setattr(kubernetes, "cancel", last_stays)
    job = chain.replace("chain.yaml", "first.yaml")
    assert main.main(["kubernetes", job, "--sweep", "args.lr=1,2,3"]) == 4
    said = capsys.readouterr().err
    assert "exceeded quota" in said
    assert f"not cancelled: {sent[1]};" in said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [sent[1]]
    assert list(jobs(cluster).values()) == [sent[1]]


def refused_second(cluster: Cluster, runs: Path) -> None:
    """Let the first stage leave a checkpoint and succeed, and the quota admit no other at first."""
    deadline = time.monotonic() + 60
    while not (there := jobs(cluster)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (first,) = there.values()
    (runs / first / "checkpoints").mkdir()
    cluster.tell("rules", denied={"jobs": "exceeded quota: gpus"}, patience={"jobs": 1})
    done = {"type": "Complete", "status": "True", "reason": "", "message": ""}
    cluster.tell("status", plural="jobs", name=first, status={"conditions": [done]})


def test_a_refused_stage_takes_nothing_of_those_before_it(
    chain: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = threading.Thread(target=refused_second, args=(cluster, tmp_path / "runs"))
    thread.start()
    assert main.main(["kubernetes", chain, "--wait"]) == 4
    thread.join()
    said = capsys.readouterr().err
    assert "exceeded quota" in said
    assert "resume chain-pipeline-1` continues it where it stands" in said
    assert len(list((tmp_path / "runs").glob("first-*/checkpoints"))) == 1
    (known,) = jobs(cluster)
    rest = threading.Thread(target=play, args=(cluster, ["Complete"], [known]))
    rest.start()
    assert main.main(["resume", "chain-pipeline-1"]) == 0
    rest.join()


def test_a_pipeline_that_is_cancelled_between_two_stages_submits_no_other(
    chain: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stage is over, and the command that leads has not looked yet."""

    def follow(run: Any, status: Any) -> int:
        del status
        done = {"type": "Complete", "status": "True", "reason": "", "message": ""}
        cluster.tell("status", plural="jobs", name=run.id, status={"conditions": [done]})
        assert main.main(["cancel", "chain-pipeline-1"]) == 0
        return 0

    with monkeypatch.context() as patch:
        patch.setattr("launcher.reports.progress.follow", follow)
        assert main.main(["kubernetes", chain, "--wait"]) == 4
    said = capsys.readouterr().err
    assert "chain-pipeline-1: CANCELLED" in said
    assert "chain-pipeline-1 was cancelled: what was not submitted by then stays so" in said
    assert len(jobs(cluster)) == 1
    stages = told(capsys, "status", "chain-pipeline-1", "--json")["stages"]
    assert [stage["state"] for stage in stages] == ["SUCCEEDED", "CANCELLED"]
    rest = threading.Thread(target=play, args=(cluster, ["Complete"], list(jobs(cluster))))
    rest.start()
    assert main.main(["resume", "chain-pipeline-1"]) == 0, "who resumes it wants it again"
    rest.join()


def test_a_stage_that_is_submitted_while_the_pipeline_is_cancelled_is_taken_back(
    chain: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`cancel` looks before the stage is recorded, the command that leads afterwards."""
    begin = submit.resume

    def resume(*words: Any) -> Any:
        assert main.main(["cancel", "chain-pipeline-1"]) == 0
        return begin(*words)

    monkeypatch.setattr(submit, "resume", resume)
    monkeypatch.setattr("launcher.reports.progress.follow", lambda *_: 1)
    assert main.main(["kubernetes", chain, "--wait"]) == 4
    assert "was cancelled" in capsys.readouterr().err
    assert jobs(cluster) == {}


def test_what_another_command_has_in_hand_keeps_its_folders(
    chain: str,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`resume` of a pipeline whose first stage is being submitted, before any is recorded."""
    begin = submit.resume

    def resume(run: Any, *words: Any) -> Any:
        with folders.alone(run.folder):
            return begin(run, *words)

    monkeypatch.setattr(submit, "resume", resume)
    assert main.main(["kubernetes", chain, "--wait"]) == 4
    assert "is being submitted by another command" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 3


def test_a_pipeline_whose_folders_are_gone_is_said_to_be(
    chain: str, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, seen = launch(chain, cluster, ["Complete", "Complete"])
    assert code == 0
    for name in seen:
        shutil.rmtree(tmp_path / "runs" / name)
    capsys.readouterr()
    assert main.main(["resume", "chain-pipeline-1"]) == 4
    assert "stage a: its run folder cannot be read; submit the pipeline again" in capsys.readouterr().err
    for verb in ("status", "cancel"):
        assert main.main([verb, "chain-pipeline-1"]) == 0
