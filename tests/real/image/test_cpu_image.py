"""The cpu flavour, built from the same Dockerfile and run for real: as it would run on a cluster, without a GPU.

Not root, root file system read-only, no capabilities, no compiler; two ranks in one container, then two containers as
two hosts on a network of their own, both through the node entry.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from imagebuild import build, check

from tests.real.image import engines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.image.engines import Engine, Image

# One worker for all of them: they share one build.
pytestmark = pytest.mark.image

LOCKED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
OPS = ("CPU_ADAM", "SHM_COMM", "FUSED_ADAM")
PROOF = "python -m imagebuild.verify --wheel-facts /facts/wheel.json --stubs /x --out /tmp/x"
LOAD = """
import json, os, sys, time
from deepspeed.ops.op_builder.all_ops import ALL_OPS
seconds = {}
for name in sys.argv[1:]:
    start = time.perf_counter()
    ALL_OPS[name].load(verbose=False)
    seconds[name] = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "compiled": os.path.exists(os.environ["TORCH_EXTENSIONS_DIR"])}))
"""


def python(image: Image, code: str, *arguments: str) -> str:
    return image.run(*LOCKED, image.name, "python", "-c", code, *arguments).stdout


def test_the_facts_say_what_is_inside(cpu_image: Image) -> None:
    facts = cpu_image.facts
    assert (facts["target"], facts["flavour"], facts["deepspeed"]) == ("train", "cpu", "0.19.8")
    assert str(facts["torch"]).startswith("2.13.0")
    assert facts["cpu_level"] == "x86-64-v3"
    assert cpu_image.name == build.name("train", "cpu", str(facts["revision"]))
    ops = facts["ops"]
    assert isinstance(ops, dict)
    assert set(ops) == set(OPS)
    # how long that takes is in docker/README.md
    assert all(isinstance(entry["load_seconds"], float) for entry in ops.values())


def test_the_labels_say_the_same(cpu_image: Image) -> None:
    labels = json.loads(
        cpu_image.engine.run("skopeo", "inspect", f"containers-storage:localhost/{cpu_image.name}").stdout
    )
    labels = labels["Labels"]
    facts = cpu_image.facts
    assert labels["org.opencontainers.image.title"] == "deepspeed-train"
    assert labels["org.opencontainers.image.revision"] == facts["revision"]
    assert set(labels["deepspeed-job.ops"].split()) == set(OPS)
    assert labels["deepspeed-job.cpu-level"] == facts["cpu_level"]
    assert labels["deepspeed-job.flavour"] == facts["flavour"]
    assert facts["torch"].split("+")[0] == labels["deepspeed-job.torch"]  # type: ignore[attr-defined]


def test_it_is_nobody_and_can_write_nowhere_but_where_it_should(cpu_image: Image) -> None:
    script = "id -u; id -g; pwd; touch /opt/x 2>&1; touch /tmp/x && echo tmp; ls -A /workspace /opt/job"
    lines = cpu_image.inside("sh", "-c", script, options=LOCKED).splitlines()
    assert lines[:3] == ["10001", "10001", "/workspace"]
    assert "Read-only file system" in lines[3]
    assert lines[4] == "tmp"
    assert {"node.py", "workloads"} <= set(lines)
    # Nothing that the build left behind belongs to root where a rank must write.
    assert cpu_image.inside(
        "sh", "-c", "ls -A /tmp; mkdir /tmp/cache && touch /workspace/x && echo ok"
    ).split() == ["ok"]


def test_another_user_can_run_it_too(cpu_image: Image) -> None:
    code = "import getpass, deepspeed, os; print(os.getuid(), getpass.getuser())"
    done = cpu_image.run(*LOCKED, "--user", "4242:4242", cpu_image.name, "python", "-c", code)
    assert done.stdout.split()[-2:] == ["4242", "train"]


def test_it_holds_no_compiler_and_nothing_to_log_in_with(cpu_image: Image) -> None:
    unwanted = "gcc g++ cc c++ clang nvcc make ssh sshd pdsh sudo mpirun"
    places = "/etc/ssh /root/.ssh /src /wheels"
    script = f"for tool in {unwanted}; do command -v $tool; done; ls -d {places} 2>/dev/null; echo end"
    assert cpu_image.inside("sh", "-c", script, options=LOCKED).split() == ["end"]


def test_ops_load_and_nothing_is_compiled(cpu_image: Image) -> None:
    names = [check.catalogue()["ops"][op]["name"] for op in OPS]
    result = json.loads(python(cpu_image, LOAD, *names).splitlines()[-1])
    assert not result["compiled"]
    assert set(result["seconds"]) == set(names)


def test_an_op_that_was_not_built_fails_at_once(cpu_image: Image) -> None:
    done = cpu_image.run(*LOCKED, cpu_image.name, "python", "-c", LOAD, "cpu_lion", ok=False)
    assert done.returncode
    assert "c++" in done.stderr


def test_the_proof_refuses_another_image(cpu_image: Image, shared: Path) -> None:
    """The last step of the build, run again with another wish: it must find each difference."""
    (shared / "wheel.json").write_text(json.dumps({"ops": {}}))
    arguments = {
        **check.arguments(check.make("train", "cpu", {})),
        "DS_OPS": "CPU_ADAM AIO",
        "TORCH_VERSION": "2.12.0",
    }
    options = [word for pair in arguments.items() for word in ("--env", "=".join(pair))]
    done = cpu_image.run(
        *options, "--env", "PYTHONPATH=/src", "--volume", f"{check.HERE}:/src:ro", "--volume", f"{shared}:/facts:ro",
        cpu_image.name, *PROOF.split(),
        ok=False,
    )  # fmt: skip
    assert done.returncode == 1
    problems = [line for line in done.stderr.splitlines() if line.startswith("verify: ")]
    assert "verify: AIO: not installed" in problems
    assert any("but 2.12.0 was asked for" in line for line in problems)


def train(folder: Path, hosts: str, config: dict[str, Any], steps: int) -> list[str]:
    """Write the run's files and return the command of the node entry for them."""
    (folder / "ds_config.json").write_text(json.dumps(config))
    (folder / "hostfile").write_text(hosts)
    entry = "python /opt/job/node.py --hostfile /run-folder/hostfile --run image --folder /run-folder --wait 120 --"
    workload = (
        "-m workloads.pretrain --deepspeed-config=/run-folder/ds_config.json --run-dir=/run-folder --model=byte-gpt "
        f"--seq-length=64 --lr=0.001 --max-steps={steps}"
    )
    return [*entry.split(), *workload.split()]


def batch(ranks: int) -> dict[str, int]:
    return {
        "train_batch_size": 8 * ranks,
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 1,
    }


def test_two_ranks_train_with_offload(cpu_image: Image, shared: Path) -> None:
    zero2 = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    command = train(shared, "localhost slots=2\n", {**batch(2), "zero_optimization": zero2}, steps=20)
    cpu_image.run(
        *LOCKED, "--volume", f"{shared}:/run-folder", "--env", "NODE_RANK=0", cpu_image.name, *command
    )
    summary = json.loads((shared / "summary.json").read_text())
    assert (summary["steps"], summary["world_size"]) == (20, 2)
    assert summary["loss_last"] < summary["loss_first"] - 0.5


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    name = "deepspeed-job-test"
    engine.run("podman", "network", "rm", "--force", "--time", "0", name, ok=False)
    engine.run("podman", "network", "create", name)
    yield name
    engine.run("podman", "network", "rm", "--force", "--time", "0", name, ok=False)


def test_two_containers_are_two_hosts_of_one_job(cpu_image: Image, shared: Path, network: str) -> None:
    """The quickstart's model as two hosts that find each other by DNS name; no ssh, no MPI."""
    hosts = ("node-0", "node-1")
    command = train(
        shared,
        "".join(f"{host} slots=1\n" for host in hosts),
        {**batch(2), "zero_optimization": {"stage": 1}},
        steps=20,
    )
    engine = cpu_image.engine
    for index, host in enumerate(hosts):
        engine.run(
            "podman", "run", "--detach", "--name", host, "--hostname", host, "--network", network, *LOCKED,
            "--env", f"NODE_RANK={index}", "--volume", f"{shared}:/run-folder", cpu_image.name, *command,
        )  # fmt: skip
    codes = engine.run("podman", "wait", *hosts).stdout.split()
    logs = "".join(engine.run("podman", "logs", host).stderr for host in hosts)
    engine.run("podman", "rm", "--force", "--time", "0", *hosts)
    assert codes == ["0", "0"], logs
    summary = json.loads((shared / "summary.json").read_text())
    assert (summary["steps"], summary["world_size"]) == (20, 2)
    assert summary["loss_last"] < summary["loss_first"] - 0.5


def test_the_container_ends_with_the_ranks_code_and_hears_sigterm(cpu_image: Image, shared: Path) -> None:
    """node.py is PID 1 here: no init stands between the scheduler's signal and the ranks."""
    command = train(shared, "localhost slots=1\n", batch(1), steps=100000)
    engine = cpu_image.engine
    engine.run(
        "podman", "run", "--detach", "--name", "sigterm", *LOCKED, "--env", "NODE_RANK=0",
        "--volume", f"{shared}:/run-folder", cpu_image.name, *command,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        metrics = shared / "metrics.jsonl"
        while not (metrics.exists() and '"loss"' in metrics.read_text()):
            assert time.monotonic() < deadline, engine.run("podman", "logs", "sigterm").stderr
            time.sleep(0.5)
        engine.run("podman", "stop", "--time", "60", "sigterm")
        code = int(engine.run("podman", "inspect", "--format", "{{.State.ExitCode}}", "sigterm").stdout)
        # 75: stopped by a signal with everything saved (sysexits' EX_TEMPFAIL); 137 would be SIGKILL.
        assert code == 75, engine.run("podman", "logs", "sigterm").stderr
        assert list((shared / "checkpoints").glob("step-*"))
    finally:
        engine.run("podman", "rm", "--force", "--time", "0", "sigterm", ok=False)


def test_a_change_in_a_workload_builds_in_seconds(cpu_image: Image, tmp_path: Path) -> None:
    """Everything that takes time lies in layers below the workloads."""
    done = engines.rebuild_changed(cpu_image, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    again = done.stdout.strip()
    assert again.startswith("deepspeed-train:unversioned")
    code = "print(open('/opt/job/workloads/pretrain.py').read()[-10:])"
    assert "# changed" in cpu_image.engine.run("podman", "run", "--rm", again, "python", "-c", code).stdout
    cpu_image.engine.run("buildah", "rmi", again)
    # Nothing is compiled or installed again. How long that takes is in README.md.
    assert "compiling " not in done.stderr
    assert "Collecting " not in done.stderr
