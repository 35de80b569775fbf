"""What an image build may be asked for: every mistake is found in the first second, with the way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from imagebuild import check

if TYPE_CHECKING:
    from pathlib import Path


def problems(target: str = "train", flavour: str = "cuda", **settings: str) -> list[str]:
    return check.problems(check.make(target, flavour, settings))


@pytest.mark.parametrize("target", check.TARGETS)
@pytest.mark.parametrize("flavour", check.FLAVOURS)
def test_the_defaults_are_fine(target: str, flavour: str) -> None:
    assert problems(target, flavour) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"DS_OPS": "FUSED_ADM"},
            "DS_OPS: there is no op FUSED_ADM; did you mean FUSED_ADAM? (ops.json lists all)",
        ),
        ({"DS_OPS": "OPS"}, "DS_OPS: OPS can't be built: DS_BUILD_OPS=1 cannot work with CUDA 13 "),
        (
            {"DS_OPS": "FP_QUANTIZER"},
            "DS_OPS: FP_QUANTIZER can't be built: it does not compile with CUDA 13 ",
        ),
        ({"DS_OPS": "CPU_ADAM,CPU_ADAM"}, "DS_OPS: CPU_ADAM is named twice"),
        ({"DS_OPS": " , "}, "DS_OPS is empty: name at least one op"),
        ({"DS_OPS": "SHM_COMM"}, "DS_OPS: SHM_COMM exists for cpu only, not for cuda"),
        ({"DS_OPS": "AIO"}, "DS_OPS: AIO and GDS load PIN_MEMORY first: add PIN_MEMORY"),
        (
            {"DS_OPS": "CUTLASS_OPS"},
            "DS_OPS: CUTLASS_OPS needs the package deepspeed-kernels, which requirements/train-cuda.txt",
        ),
        ({"TORCH_CUDA_ARCH_LIST": "6.0;6.1;7.0"}, "TORCH_CUDA_ARCH_LIST: CUDA 13.2 has no architecture 6.0"),
        (
            {"TORCH_CUDA_ARCH_LIST": "9.0a"},
            "TORCH_CUDA_ARCH_LIST: DeepSpeed 0.19.8 can't prebuild 9.0a; write 9.0",
        ),
        ({"TORCH_CUDA_ARCH_LIST": "sm_90"}, "TORCH_CUDA_ARCH_LIST: sm_90 is not a compute capability"),
        ({"TORCH_CUDA_ARCH_LIST": "9.0 9.0+PTX"}, "TORCH_CUDA_ARCH_LIST: an architecture is named twice"),
        (
            {"TORCH_CUDA_ARCH_LIST": ";"},
            "TORCH_CUDA_ARCH_LIST is empty: DeepSpeed's own default (6.0, 6.1, 7.0)",
        ),
        ({"TORCH_CUDA": "13.0"}, "TORCH_CUDA=13.0, but torch 2.15.0 is built for CUDA 13.2"),
        ({"TORCH_VERSION": "2.14.0"}, "run `make lock FLAVOUR=cuda TORCH_VERSION=2.14.0`"),
        (
            {"flavour": "cpu", "TORCH_VERSION": "2.15.0"},
            "requirements/train-cpu.txt locks torch 2.13.0: run `make lock FLAVOUR=cpu TORCH_VERSION=2.15.0`",
        ),
        ({"DEEPSPEED_VERSION": "0.18.0"}, "requirements/deepspeed.txt locks deepspeed 0.19.8"),
        ({"TORCH_NCCL": "2.20.5"}, "TORCH_NCCL=2.20.5, but torch brings NCCL"),
        ({"BASE_IMAGE": "nvidia/cuda:12.8.1-devel-ubuntu24.04"}, "is CUDA 12.8, but TORCH_CUDA is 13.2"),
        ({"CPU_MARCH": "native"}, "CPU_MARCH=native: CPU_MARCH is x86-64-v2 or x86-64-v3 or x86-64-v4"),
        ({"CPU_SIMD": "AVX512"}, "CPU_SIMD=AVX512: x86-64-v3 runs SCALAR or AVX256"),
        ({"MAX_JOBS": "0"}, "MAX_JOBS=0: the number of compilers to run at once"),
        ({"target": "trian"}, "TARGET=trian: TARGET is train or inference; did you mean train?"),
        ({"flavour": "rocm"}, "FLAVOUR=rocm: FLAVOUR is cuda or cpu"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(settings: dict[str, str], message: str) -> None:
    found = problems(**settings)
    assert any(message in problem for problem in found), found


def test_all_mistakes_come_at_once() -> None:
    assert len(problems(DS_OPS="X", TORCH_CUDA_ARCH_LIST="1.0", CPU_MARCH="native", TORCH_VERSION="1.0")) == 4


def test_too_little_disk_is_said_with_numbers() -> None:
    message = check.disk_problem("cuda", 12.34, "/var/lib/containers")
    assert message.startswith("/var/lib/containers has 12.3 GB free and a cuda build needs 25 GB")
    assert check.disk_problem("cuda", 25, "/") == ""


def test_the_answer_comes_in_the_first_second() -> None:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "imagebuild.build", "--check"],
        env={"PATH": "/nowhere", "PYTHONPATH": str(check.HERE), "DS_OPS": "FUSED_ADM"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean FUSED_ADAM?" in done.stderr or "there is neither docker" in done.stderr
    assert "Traceback" not in done.stderr
    # Of the processor, since other tests share the cores; it takes 0.1 s.
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1


def test_a_setting_reaches_the_arguments_and_an_empty_one_does_not() -> None:
    made = check.make("train", "cuda", {"TORCH_CUDA_ARCH_LIST": "8.0 9.0+PTX", "CPU_MARCH": "", "DS_OPS": ""})
    arguments = check.arguments(made)
    assert arguments["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"
    assert arguments["CPU_MARCH"] == "x86-64-v3"
    assert arguments["DS_OPS"] == check.defaults()["DS_OPS"]


def test_the_build_reads_back_the_arguments_it_is_given() -> None:
    made = check.make("inference", "cuda", {})
    assert check.read(check.arguments(made)) == made


def test_a_cpu_build_has_no_cuda_in_it() -> None:
    made = check.make("train", "cpu", {})
    assert (made.architectures, made.cuda, made.nccl) == ("", "", "")
    assert "nvidia" not in made.base_image + made.runtime_image


def test_the_order_of_ops_does_not_change_the_image() -> None:
    one, other = (
        check.make("train", "cuda", {"DS_OPS": ops}) for ops in ("CPU_ADAM FUSED_ADAM", "FUSED_ADAM CPU_ADAM")
    )
    assert check.normalised(one) == check.normalised(other)


def test_every_list_names_known_ops_of_its_flavour() -> None:
    data = check.catalogue()
    for name, ops in data["lists"].items():
        flavour = name.split("-")[1]
        assert all(flavour in data["ops"][op]["flavours"] for op in ops), name
    assert not set(data["ops"]) & set(data["refused"])
    assert all(entry["why"] for entry in data["ops"].values())


def test_a_wrong_ops_file_is_found(tmp_path: Path) -> None:
    for name in ("Dockerfile", "requirements"):
        (tmp_path / name).symlink_to(check.HERE / name)
    data = check.catalogue()
    data["lists"]["train-cuda"].append("FUSED_SGD")
    (tmp_path / "ops.json").write_text(json.dumps(data))
    made = check.make("train", "cuda", {}, tmp_path)
    assert any("there is no op FUSED_SGD" in problem for problem in check.problems(made, tmp_path))
