"""What an image holds, held against jobs: which ops a configuration loads, which code runs on which GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.deepspeed import config as deepspeed_config
from launcher.images import facts as images_facts
from launcher.images import registry
from launcher.images.facts import Facts, Op
from launcher.planning import image_check, plan
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan

IMAGE = {
    "flavour": "cuda",
    "cuda": "13.0",
    "cpu_level": "x86-64-v3",
    "compiler": False,
    "revision": "0123456789ab",
    "ops": {
        "FUSED_ADAM": {"name": "fused_adam", "architectures": ["8.0", "9.0"], "ptx": ["9.0"]},
        "CPU_ADAM": {"name": "cpu_adam", "architectures": [], "ptx": []},
    },
}
LABELS = {
    "org.opencontainers.image.revision": "0123456789ab",
    "deepspeed-job.flavour": "cuda",
    "deepspeed-job.cuda": "13.0",
    "deepspeed-job.ops": "FUSED_ADAM CPU_ADAM",
    "deepspeed-job.architectures": "8.0;9.0+PTX",
    "deepspeed-job.cpu-level": "x86-64-v3",
    "deepspeed-job.compiler": "no",
}


def facts(**changes: Any) -> Facts:
    return images_facts.parse(json.dumps(IMAGE), "here.image.json")._replace(**changes)


def made(job: dict[str, Any] | None = None, **cluster: Any) -> Plan:
    return samples.decided(job, **{"gpu": "h100-80gb", "slots": 8, "memory": "2000GB", **cluster})


def test_labels_say_what_the_file_says() -> None:
    assert images_facts.from_labels(LABELS, "here.image.json") == facts()


@pytest.mark.parametrize(
    "labels", [{}, {"maintainer": "x"}, {**LABELS, "deepspeed-job.architectures": "new"}]
)
def test_labels_of_other_images_are_no_facts(labels: dict[str, str]) -> None:
    assert images_facts.from_labels(labels, "x") is None


def test_ready_made_kernels_run_only_where_they_exist() -> None:
    labels = {**LABELS, "deepspeed-job.ops": "CUTLASS_OPS", "deepspeed-job.architectures": "9.0;10.0+PTX"}
    found = images_facts.from_labels(labels, "x")
    assert found
    assert found.ops == {"CUTLASS_OPS": Op(((9, 0),))}
    # As an image for Blackwell alone says it of its own.
    written = {**IMAGE, "ops": {"CUTLASS_OPS": {"architectures": [], "ptx": ["10.0"]}}}
    held = images_facts.parse(json.dumps(written), "x").ops["CUTLASS_OPS"]
    assert held.gpu
    assert not held.runs_on((10, 0))


@pytest.mark.parametrize(
    ("sass", "ptx", "gpu", "runs"),
    [
        ([(8, 0)], [], (8, 0), True),
        ([(8, 0)], [], (8, 9), True),  # same major version, later minor version
        ([(8, 6)], [], (8, 0), False),  # an earlier one
        ([(8, 0)], [], (9, 0), False),  # another major version
        ([(8, 0)], [(8, 0)], (9, 0), True),  # compiled by the driver
        ([], [(9, 0)], (8, 0), False),  # PTX is not for older GPUs
        ([(10, 0)], [], (10, 3), True),
        ([], [], (9, 0), False),
    ],
)
def test_which_code_runs_on_which_gpu(
    sass: list[images_facts.Capability],
    ptx: list[images_facts.Capability],
    gpu: images_facts.Capability,
    runs: bool,
) -> None:
    assert Op(tuple(sass), tuple(ptx)).runs_on(gpu) is runs
    assert Op(gpu=False).runs_on(gpu)


@pytest.mark.parametrize(
    ("config", "ops"),
    [
        ({}, "FUSED_ADAM?"),
        ({"optimizer": {"type": "AdamW"}}, "FUSED_ADAM"),
        ({"optimizer": {"type": "Adam", "params": {"torch_adam": True}}}, ""),
        ({"optimizer": {"type": "Muon"}}, "FUSED_ADAM"),
        ({"optimizer": {"type": "Lamb"}}, "FUSED_LAMB"),
        ({"optimizer": {"type": "Lion"}}, "FUSED_LION"),
        ({"optimizer": {"type": "SGD"}}, ""),
        ({"optimizer": {"type": "Adagrad"}}, ""),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "CPU_ADAM"),
        ({"zero_optimization": {"offload_optimizer": {"device": "none"}}}, "FUSED_ADAM?"),
        ({"zero_optimization": {"offload_param": {"device": "cpu"}}}, "FUSED_ADAM?"),
        (
            {"optimizer": {"type": "Lion"}, "zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "CPU_LION",
        ),
        (
            {"optimizer": {"type": "Adagrad"}, "zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "CPU_ADAGRAD",
        ),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "CPU_ADAM PIN_MEMORY AIO"),
        (
            {"zero_optimization": {"offload_param": {"device": "nvme"}}, "aio": {"use_gds": True}},
            "FUSED_ADAM? PIN_MEMORY AIO GDS",
        ),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "FUSED_ADAM? QUANTIZER"),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "FUSED_ADAM? QUANTIZER"),
        ({"zero_optimization": {"zero_quantized_weights": False}}, "FUSED_ADAM?"),
        ({"compile": {"deepcompile": True}}, "FUSED_ADAM? DEEP_COMPILE"),
        ({"data_efficiency": {"data_routing": {"random_ltd": {"enabled": True}}}}, "FUSED_ADAM? RANDOM_LTD"),
    ],
)
def test_which_ops_a_configuration_loads(config: dict[str, Any], ops: str) -> None:
    found = image_check.needed(config)
    assert " ".join(n.op + ("" if n.asked else "?") for n in found) == ops
    assert {n.op for n in found} <= set(images_facts.catalogue())


def test_the_image_of_make_image_has_every_op_that_a_preset_loads() -> None:
    # docker/ops.json's default list and the presets cannot drift apart.
    listed = json.loads((ROOT / "docker" / "ops.json").read_text())["lists"]["train-cuda"]
    for name in deepspeed_config.presets():
        assert {n.op for n in image_check.needed(deepspeed_config.preset(name))} <= set(listed), name


def test_a_job_that_fits_its_image_is_not_refused() -> None:
    assert image_check.refusal(made(), facts()) is None
    assert image_check.refusal(made({"deepspeed": "zero2-offload"}, cpu_level="x86-64-v4"), facts()) is None


def test_our_workloads_have_torchs_adam_where_the_fused_one_is_missing() -> None:
    lean = facts(ops={"CPU_ADAM": Op(gpu=False)})
    assert image_check.refusal(made(), lean) is None
    refused = image_check.refusal(made({"deepspeed": {"optimizer": {"type": "AdamW"}}}), lean)
    assert refused
    assert "lacks DeepSpeed's FUSED_ADAM" in str(refused)


def test_a_compiler_makes_missing_host_code_but_no_gpu_code() -> None:
    with_compiler = facts(ops={}, compiler=True)
    assert image_check.refusal(made({"deepspeed": "zero2-offload"}), with_compiler) is None
    assert image_check.refusal(made({"deepspeed": "zero2-offload"}), facts(ops={}))
    assert image_check.refusal(made({"deepspeed": "zeropp", "model": "gpt2"}), with_compiler)


def test_an_op_that_no_cpu_image_can_have() -> None:
    dropped = {
        "data_efficiency": {
            "enabled": True,
            "data_routing": {"enabled": True, "random_ltd": {"enabled": True}},
        }
    }
    on_cpu = made({"workload": "/opt/train.py", "deepspeed": dropped}, gpu=None)
    refused = image_check.refusal(on_cpu, facts(flavour="cpu", cuda="", ops={"CPU_ADAM": Op(gpu=False)}))
    assert refused
    assert "it exists on GPU hosts only" in str(refused)


def test_a_program_without_deepspeeds_configuration_needs_no_op() -> None:
    measuring = made({"workload": "allreduce", "model": None})
    assert image_check.refusal(measuring, facts(ops={})) is None
    assert image_check.refusal(measuring, facts(flavour="cpu"))


@pytest.mark.parametrize(
    ("scheduler", "cluster", "used"),
    [
        ("kubernetes", {}, True),
        ("slurm", {}, False),
        ("slurm", {"slurm": {"container": "pyxis"}}, True),
        ("local", {}, False),
        ("local", {"local": {"container": "podman"}}, True),
    ],
)
def test_where_ranks_run_in_the_image(scheduler: str, cluster: dict[str, Any], used: bool) -> None:
    assert image_check.used(made(**cluster), scheduler) is used


def test_facts_of_another_build_are_told() -> None:
    assert image_check.stale(made(), facts()) == ""
    assert "is of revision ffff" in image_check.stale(made(), facts(revision="ffff"))
    # A tag that a person wrote says nothing of a revision.
    assert image_check.stale(made(image="mine:1"), facts(revision="ffff")) == ""


JOB = "name: demo\ncluster: here.yaml\nmodel: gpt2\nbatch: {micro: 1}\ndeepspeed: zero3-nvme\n"
HERE = "gpu: h100-80gb\nslots: 8\nmemory: 2000GB\nnvme: {path: /nvme, size: 7TB}\nimage: registry.example.com/train:1\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a job, its cluster file and the image's facts; return the job's path."""

    def write(found: Any = IMAGE) -> Path:
        (tmp_path / "job.yaml").write_text(JOB)
        (tmp_path / "here.yaml").write_text(HERE)
        if found:
            (tmp_path / "here.image.json").write_text(json.dumps(found))
        return tmp_path / "job.yaml"

    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    registry.inspect.cache_clear()
    return write


def test_facts_change_nothing_that_is_rendered(files: Callable[..., Path]) -> None:
    job = str(files())
    with_facts = plan.make(samples.loaded(job), samples.SITE)
    (Path(job).parent / "here.image.json").unlink()
    without = plan.make(samples.loaded(job), samples.SITE)
    assert with_facts.image_facts
    assert with_facts.id == without.id


def test_force_submits_anyway(files: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    job = str(files())
    assert main.main(["kubernetes", job, "--dry-run"]) == 3
    refused = capsys.readouterr()
    assert refused.out == ""
    assert main.main(["kubernetes", job, "--dry-run", "--force"]) == 0
    forced = capsys.readouterr()
    assert "warning: " + refused.err.removeprefix("error: ").strip() in forced.err
    assert "kind: Job" in forced.out


def test_no_container_no_question(files: Callable[..., Path]) -> None:
    assert main.main(["slurm", str(files()), "--dry-run"]) == 0


def test_plan_warns_and_check_refuses(files: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    job = str(files())
    assert main.main(["plan", job]) == 0
    assert "warning: " in (said := capsys.readouterr().err)
    assert "lacks DeepSpeed's PIN_MEMORY and AIO" in said
    assert main.main(["check", job]) == 3
    checked = capsys.readouterr()
    assert f"{job}: not on kubernetes: {job}:5:1: image" in checked.err
    assert f"{job}: ok on slurm" in checked.out  # without a container


@pytest.fixture
def skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a skopeo with this body alone on PATH; it notes its words in asked.txt."""

    def make(body: str) -> Path:
        folder, asked = tmp_path / "bin", tmp_path / "asked.txt"
        folder.mkdir(exist_ok=True)
        tool = folder / "skopeo"
        tool.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{body}\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        registry.inspect.cache_clear()
        return asked

    return make


@pytest.mark.heavy
def test_a_registry_is_asked_once_and_only_on_submission(
    files: Callable[..., Path], skopeo: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = skopeo(f"cat <<'E'\n{json.dumps({'Labels': LABELS})}\nE")
    job = str(files(None))
    for words in (["plan", job], ["check", job], ["kubernetes", job, "--dry-run"]):
        assert main.main(words) == 0
    assert not asked.exists()
    capsys.readouterr()
    assert main.main(["kubernetes", job]) == 3
    assert "(labels of registry.example.com/train:1), needed for offload to NVMe" in capsys.readouterr().err
    assert asked.read_text().endswith("docker://registry.example.com/train:1\n")
    registry.facts("registry.example.com/train:1")
    assert len(asked.read_text().splitlines()) == 1


def test_facts_beside_the_cluster_file_spare_the_question(
    files: Callable[..., Path], skopeo: Callable[[str], Path]
) -> None:
    asked = skopeo("exit 1")
    assert main.main(["kubernetes", str(files())]) == 3
    assert not asked.exists()


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("echo 'FATA unauthorized' >&2; exit 1", "was not checked: FATA unauthorized"),
        (
            'echo \'time="2030-01-01" level=fatal msg="no \\"x\\" here"\' >&2; exit 1',
            'was not checked: no "x" here',
        ),
        ("exit 2", "was not checked: skopeo exited with 2"),
        ("echo nonsense", "was not checked: skopeo: "),
        ("echo '{\"Labels\": null}'", ""),
        ("exec sleep 60", "did not answer within 0.2 s"),
    ],
)
def test_a_registry_that_does_not_answer_stops_nothing(
    body: str, note: str, skopeo: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SECONDS", 0.2 if "sleep" in body else 10)
    skopeo(body)
    facts, said = registry.facts("registry.example.com/train:1")
    assert facts is None
    assert note in said if note else said == ""


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("registry.example.com/train:1", True),
        ("localhost:5000/train:1", True),
        ("localhost/train", False),
        ("deepspeed-train:1", False),
        ("team/train:1", False),
        ("/images/train.sqsh", False),
        ("./train.sif", False),
    ],
)
def test_which_names_are_in_a_registry(name: str, there: bool) -> None:
    assert registry.in_registry(name) is there


ARM = "gpu: gb200-186gb\nslots: 4\nmemory: 900GB\nfabric: tcp\nimage: {}\n"


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        ("registry.example.com/deepspeed-train", [], 3),
        ("registry.example.com/deepspeed-train", ["--force"], 0),
        ("registry.example.com/train:arm", [], 0),
    ],
)
def test_hosts_with_arm64_processors_need_an_image_of_their_own(
    image: str, options: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here.yaml").write_text(ARM.format(image))
    (tmp_path / "job.yaml").write_text(samples.JOB)
    words = [str(tmp_path / "job.yaml"), "--set", "deepspeed=zero1"]
    assert main.main(["kubernetes", *words, "--dry-run", *options]) == code
    err = capsys.readouterr().err
    said = f"{tmp_path}/here.yaml:5:1: hosts with gb200-186gb have arm64 processors"
    assert (said in err) is (":arm" not in image)
    assert main.main(["plan", *words]) == 0
    assert ("warning: " + said in capsys.readouterr().err) is (":arm" not in image)
