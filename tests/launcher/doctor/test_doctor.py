"""What `doctor` says of a machine: ops prebuilt, compiled or impossible, processors, drivers, engines."""

from __future__ import annotations

import json
import sys
import venv
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.doctor import looking, machine, ops
from launcher.doctor.ops import Tools
from launcher.images import facts as images_facts
from launcher.images.facts import Facts, Op

if TYPE_CHECKING:
    from pathlib import Path

ALL = Tools("/usr/bin/ninja", "/usr/bin/c++", "13.0")
CUDA = {"torch": "2.13.0", "cuda": "13.0", "accelerator": "cuda", "built_for": "cuda", "built_with": "2.13"}


def op(**changes: Any) -> dict[str, Any]:
    return {"prebuilt": False, "fits": True, "why": "", "key": "FUSED_ADAM", "gpu": True, **changes}


@pytest.mark.parametrize(
    ("asked", "facts", "have", "state", "detail"),
    [
        (op(prebuilt=True), {}, Tools("", "", ""), "ok", "prebuilt"),
        (
            op(prebuilt=True),
            {"torch": "2.14.1"},
            ALL,
            "missing",
            "cannot work here: prebuilt with torch 2.13, installed is 2.14",
        ),
        (
            op(prebuilt=True),
            {"accelerator": "cpu"},
            ALL,
            "warning",
            "prebuilt for cuda, the accelerator here is cpu; compiled on first use, on every host",
        ),
        (op(), {}, ALL, "warning", "compiled on first use, on every host"),
        (
            op(),
            {},
            Tools("", "/usr/bin/c++", ""),
            "missing",
            "cannot work here: not prebuilt, and to compile it ninja and nvcc are missing",
        ),
        # A CPU op, or a GPU op's twin on a CPU, needs no nvcc.
        (op(gpu=False), {}, ALL._replace(nvcc=""), "warning", "compiled on first use, on every host"),
        (
            op(),
            {"accelerator": "cpu"},
            ALL._replace(nvcc=""),
            "warning",
            "compiled on first use, on every host",
        ),
        (
            op(),
            {},
            ALL._replace(nvcc="12.8"),
            "missing",
            "cannot work here: nvcc is of CUDA 12.8, torch of 13.0",
        ),
        (op(fits=False, why="no libaio"), {}, ALL, "missing", "cannot work here: no libaio"),
        (op(fits=False), {}, ALL, "missing", "cannot work here: DeepSpeed gives no reason"),
        (
            op(key="FP_QUANTIZER"),
            {},
            ALL,
            "missing",
            f"cannot work here: {images_facts.refused()['FP_QUANTIZER']}",
        ),
    ],
)
def test_an_op_is_judged(
    asked: dict[str, Any], facts: dict[str, Any], have: Tools, state: str, detail: str
) -> None:
    assert ops.verdict(asked, {**CUDA, **facts}, have, None) == (state, detail)


def test_a_prebuilt_op_needs_code_for_the_gpu() -> None:
    held = Facts("x", "cuda", "13.0", {"FUSED_ADAM": Op(((8, 0),))}, "x86-64-v3", False, "")
    prebuilt = op(prebuilt=True)
    assert ops.verdict(prebuilt, {**CUDA, "capabilities": [[8, 6]]}, ALL, held) == ("ok", "prebuilt")
    state, detail = ops.verdict(prebuilt, {**CUDA, "capabilities": [[9, 0]]}, ALL, held)
    assert (state, detail) == (
        "missing",
        "cannot work here: prebuilt without code for compute capability 9.0",
    )


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("", ""),
        ("fp asimd", ""),  # an ARM processor
        ("lm sse2", "x86-64"),
        ("lm cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3", "x86-64-v2"),
        # AVX-512 without AVX2 is no level of its own.
        ("lm cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx512f", "x86-64-v2"),
        (" ".join(["lm", *machine._ADDS.values()]), "x86-64-v4"),
    ],
)
def test_what_a_processor_can_do(flags: str, level: str) -> None:
    assert machine.cpu_level(set(flags.split())) == level


def test_versions_as_people_write_them() -> None:
    assert machine.driver_cuda(13020) == "13.2"
    assert machine.nccl_version(22907) == "2.29.7"


@pytest.mark.parametrize(
    ("built", "driver", "state"),
    [
        ("13.0", "13.2", "ok"),
        ("13.2", "13.0", "ok"),
        ("13.0", "12.8", "warning"),
        ("13.0", "", "ok"),
        (None, "", "missing"),
    ],
)
def test_a_driver_that_is_too_old(built: str | None, driver: str, state: str) -> None:
    assert ops._cuda(built, driver)[0] == state


def test_what_a_program_says_and_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool = tmp_path / "engine"
    assert looking.command("containers", "engine", ["engine"], "runs") == looking.Check(
        "containers", "engine", "missing", "runs"
    )
    tool.write_text("#!/bin/sh\necho 1.2.3\necho more\n")
    tool.chmod(0o755)
    assert looking.command("containers", "engine", ["engine"]).detail == "1.2.3, more"
    tool.write_text("#!/bin/sh\necho 'no daemon answers' >&2\nexit 1\n")
    found = looking.command("containers", "engine", ["engine"])
    assert (found.state, found.detail) == ("warning", "no daemon answers")
    tool.write_text("#!/bin/sh\nprintf 'caf\\351\\n'\n")  # Latin-1
    assert looking.command("containers", "engine", ["engine"]).detail == "caf\ufffd"


def test_a_slurm_without_all_of_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho gpu: 4 hosts up\n")
    (tmp_path / "sinfo").chmod(0o755)
    found = {check.name: (check.state, check.detail) for check in machine.slurm()}
    assert found["partitions"] == ("ok", "gpu: 4 hosts up")
    assert found["pyxis"] == ("missing", "srun is not on PATH")


@pytest.mark.deepspeed
def test_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The real thing: every op of the installed DeepSpeed has a verdict, and torch is asked elsewhere."""
    had_torch = "torch" in sys.modules
    assert main.main(["doctor", "--json"]) == 0
    said = {(f["area"], f["name"]): f for f in json.loads(capsys.readouterr().out)}
    assert said["python", "deepspeed"]["state"] == "ok"
    verdicts = ("prebuilt", "compiled on first use", "cannot work here: ")
    cpu_adam = said["ops", "cpu_adam"]["detail"]
    assert any(v in cpu_adam for v in verdicts)
    for kind in ("/dev/shm", "memlock", "libaio", "CUDA of driver", "NVIDIA GPUs"):
        assert ("machine", kind) in said
    for engine in ("docker", "podman", "apptainer", "enroot", "skopeo"):
        assert ("containers", engine) in said
    assert had_torch or "torch" not in sys.modules


@pytest.mark.heavy
def test_a_clusters_python_is_asked_as_ranks_would_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "its env"
    venv.create(folder, symlinks=True)
    (tmp_path / "site.yaml").write_text(f"slots: 1\nfabric: tcp\npython: {folder}\n")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert main.main(["doctor", "--cluster", str(tmp_path / "site.yaml"), "--json"]) == 0
    told = {c["name"]: c for c in json.loads(capsys.readouterr().out) if c["area"] == "python"}
    assert told["python"]["detail"].endswith(f" at {folder}/bin/python")
    assert (told["torch"]["state"], told["deepspeed"]["state"]) == ("missing", "missing")
    (gone,) = ops.checks(f"{folder}/gone")
    assert (gone.state, gone.detail) == (
        "missing",
        f"python {folder}/gone: there is no {folder}/gone on this host",
    )
