"""What a good wheel is: each trap, set by hand, is found."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from imagebuild import check, ops, wheel

CUDA = check.make("train", "cuda", {"DS_OPS": "FUSED_ADAM CPU_ADAM", "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"})
CPU = check.make("train", "cpu", {"DS_OPS": "CPU_ADAM SHM_COMM"})


def record(**changes: Any) -> dict[str, Any]:
    return {
        "accelerator_name": "cuda",
        "installed_ops": {"fused_adam": 1, "cpu_adam": True, "quantizer": False},
        "torch_info": {"version": "2.15", "cuda_version": "13.2"},
        **changes,
    }


def test_deepspeeds_record_is_read_without_running_it() -> None:
    text = "version='0.19.8'\ninstalled_ops={'cpu_adam': 1, 'aio': False}\naccelerator_name='cpu'\n"
    assert wheel.recorded(text)["installed_ops"] == {"cpu_adam": 1, "aio": False}


def test_a_good_record_has_no_problem() -> None:
    assert wheel.record_problems(record(), CUDA) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Trap 1: a builder without a GPU makes CPU ops.
        ({"accelerator_name": "cpu"}, "the ops are recorded for the accelerator cpu, not cuda"),
        ({"installed_ops": {"cpu_adam": 1}}, "FUSED_ADAM: DeepSpeed skipped it"),
        ({"installed_ops": {"cpu_adam": 1, "fused_adam": 1, "gds": 1}}, "gds: compiled, but not asked for"),
        (
            {"torch_info": {"version": "2.13", "cuda_version": "13.2"}},
            "compiled against torch 2.13, not 2.15.0",
        ),
        ({"torch_info": {"version": "2.15", "cuda_version": "13.0"}}, "compiled for CUDA 13.0, not 13.2"),
    ],
)
def test_a_wrong_record_is_found(changes: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in wheel.record_problems(record(**changes), CUDA))


def test_the_variables_of_the_build_close_the_first_two_traps() -> None:
    variables = ops.environment(CUDA, Path("/venv"))
    assert variables["DS_ACCELERATOR"] == "cuda"
    assert variables["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"
    assert {name for name in variables if name.startswith("DS_BUILD_")} == {
        "DS_BUILD_OPS",
        "DS_BUILD_FUSED_ADAM",
        "DS_BUILD_CPU_ADAM",
    }
    assert variables["DS_BUILD_OPS"] == "0"
    # Trap 4: -g0 alone would lose Python's -O2.
    assert variables["CFLAGS"].split()[:2] == ["-O2", "-g0"]
    assert ops.environment(CPU, Path("/venv"))["DS_ACCELERATOR"] == "cpu"


@pytest.mark.parametrize(
    ("sass", "ptx", "message"),
    [
        # Trap 2: what DeepSpeed's default list would give, or a lost +PTX.
        (["7.0"], [], "FUSED_ADAM: no code for 8.0; it has 7.0"),
        (["8.0"], ["9.0"], "FUSED_ADAM: no code for 9.0; it has 8.0"),
        (["8.0", "9.0"], [], "FUSED_ADAM: no PTX for 9.0, so newer GPUs can't run it; it has none"),
        ([], [], "FUSED_ADAM: no code for 8.0; it has none"),
    ],
)
def test_a_missing_architecture_is_found(sass: list[str], ptx: list[str], message: str) -> None:
    assert message in wheel.architecture_problems("FUSED_ADAM", sass, ptx, CUDA.architectures)


def test_all_architectures_are_fine() -> None:
    assert (
        wheel.architecture_problems("FUSED_ADAM", ["8.0", "9.0", "10.0"], ["9.0"], CUDA.architectures) == []
    )


def test_ready_made_kernels_limit_where_an_op_runs() -> None:
    only = check.catalogue()["ops"]["CUTLASS_OPS"]["architectures"]
    assert wheel.usable(["8.0", "9.0", "10.0"], only) == ["8.0", "9.0"]
    assert wheel.usable(["8.0", "10.0"], None) == ["8.0", "10.0"]


# Lines as objdump -d --no-show-raw-insn prints them.
AVX2 = "    2f0a:\tvfmadd132ps %ymm1,%ymm2,%ymm0\n    2f10:\tvmovaps %xmm0,(%rdi)\n"
AVX512 = "    2f0a:\tvfmadd132ps (%rax),%zmm2,%zmm0\n    2f14:\tvmovups %zmm0,(%rdi)\n"


def test_an_instruction_that_older_cpus_lack_is_found() -> None:
    # Trap 3: -march=native of a build host with AVX-512.
    (problem,) = wheel.instruction_problems("CPU_ADAM", AVX2 + AVX512, "x86-64-v3")
    assert problem.startswith("CPU_ADAM: 3 instructions use zmm, which a x86-64-v3 CPU lacks")
    assert wheel.instruction_problems("CPU_ADAM", AVX2, "x86-64-v3") == []
    assert len(wheel.instruction_problems("CPU_ADAM", AVX2, "x86-64-v2")) == 1
    assert wheel.instruction_problems("CPU_ADAM", AVX512, "x86-64-v4") == []


def test_debug_information_is_found() -> None:
    # Trap 4.
    assert wheel.debug_problems("CPU_ADAM", [".text", ".debug_info"]) == [
        "CPU_ADAM: holds debug information (.debug_info): a -g came back"
    ]
    assert wheel.debug_problems("CPU_ADAM", [".text", ".symtab"]) == []


GOOD = (
    "  [1/2] c++ -MMD -MF a.d -g -O2 -Wall -O2 -g0 -DNDEBUG -fPIC -I/usr/include -c -c /src/csrc/adam/cpu_adam.cpp "
    "-o a.o -O3 -march=x86-64-v3 -fopenmp -D__AVX256__\n"
    "  [2/2] /usr/local/cuda/bin/nvcc -I/x -c -c /src/csrc/adam/multi_tensor_adam.cu -o b.o --compiler-options "
    "''-fPIC'' -O3 -lineinfo -gencode=arch=compute_80,code=sm_80\n"
    "  x86_64-linux-gnu-g++ -shared -Wl,-O1 a.o -o deepspeed/ops/adam/cpu_adam_op.so\n"
)


def test_good_flags_have_no_problem() -> None:
    assert wheel.flag_problems(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-march=x86-64-v3", "-march=native", "compiled for the CPU of the build host (native)"),
        ("-g0", "-g", "cpu_adam.cpp: compiled with debug information (-g)"),
        ("-o a.o -O3", "-o a.o -O0", "cpu_adam.cpp: compiled without optimisation"),
        ("''-fPIC'' -O3", "''-fPIC''", "multi_tensor_adam.cu: compiled without optimisation (no -O)"),
    ],
)
def test_a_flag_that_came_back_is_found(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert any(message in problem for problem in wheel.flag_problems(GOOD.replace(old, new)))


def test_the_disk_library_may_be_unoptimised_as_deepspeed_wants_it() -> None:
    assert wheel.flag_problems("c++ -g0 -c /src/csrc/aio/common/x.cpp -o x.o -O3 -O0") == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("fused_adam", "deepspeed/ops/adam/fused_adam_op.cpython-312-x86_64-linux-gnu.so"),
        ("deepspeed_shm_comm", "deepspeed/ops/comm/deepspeed_shm_comm_op.cpython-311-x86_64-linux-gnu.so"),
        ("ragged_ops", "deepspeed/inference/v2/ragged_ops.cpython-312-x86_64-linux-gnu.so"),
        (
            "inference_core_ops",
            "deepspeed/inference/v2/kernelsinference_core_ops.cpython-312-x86_64-linux-gnu.so",
        ),
    ],
)
def test_the_library_of_an_op_is_found_by_its_name(name: str, file: str) -> None:
    decoys = [Path("a/cpu_adam_op.cpython-312.so"), Path("a/ragged_device_ops.cpython-312.so")]
    assert wheel.library([*decoys, Path(file)], name) == Path(file)
    assert wheel.library(decoys, "fused_adam") is None


def test_a_wheel_without_the_op_is_refused(tmp_path: Path) -> None:
    built = tmp_path / "deepspeed-0.19.8-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(built, "w") as archive:
        archive.writestr(
            "deepspeed/git_version_info_installed.py",
            "\n".join(f"{name}={value!r}" for name, value in record(accelerator_name="cpu").items()),
        )
    _, problems = wheel.inspect(built, GOOD, CUDA)
    assert "FUSED_ADAM: the wheel holds no library of it" in problems
    assert any("recorded for the accelerator cpu" in problem for problem in problems)


@pytest.mark.parametrize(
    ("torch", "cuda", "nvcc", "message"),
    [
        ("2.15.0+cu132", "13.2", "release 13.2, V13.2.86", None),
        ("2.14.0", "13.2", "release 13.2, V13.2.86", "torch is 2.14.0, TORCH_VERSION is 2.15.0"),
        ("2.15.0+cpu", None, "release 13.2, V13.2.86", "torch is built for CUDA (none), TORCH_CUDA is 13.2"),
        ("2.15.0", "13.2", "release 13.0, V13.0.88", "nvcc is 13.0, TORCH_CUDA is 13.2"),
        ("2.15.0", "13.2", "", "nvcc is missing, TORCH_CUDA is 13.2"),
    ],
)
def test_torch_cuda_and_nvcc_are_held_together(
    torch: str, cuda: str | None, nvcc: str, message: str | None
) -> None:
    found = ops.hold_together(CUDA, torch, cuda, nvcc)
    assert found == [] if message is None else any(message in problem for problem in found)


def test_time_is_counted_between_marks() -> None:
    marks = [("deepspeed.a", 10.0, 1.0), ("deepspeed.b", 15.0, 9.5), ("", 18.0, 12.0)]
    assert ops.spent(marks) == {"deepspeed.a": (5.0, 8.5), "deepspeed.b": (3.0, 2.5)}


def test_a_compiler_that_ends_while_the_time_is_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as ended:
        gone = psutil.Process(ended.pid)
    monkeypatch.setattr(psutil.Process, "children", lambda _, recursive: [gone])
    assert ops.processor_seconds(os.getpid()) > 0
    assert ops.processor_seconds(ended.pid) == 0


def test_what_cuobjdump_says_of_a_library_without_gpu_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "cuobjdump"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(wheel, "_cuobjdump", lambda: "cuobjdump")
    tool.write_text(
        "#!/bin/sh\necho \"cuobjdump info    : File 'x.so' does not contain device code\" >&2\nexit 255\n"
    )
    tool.chmod(0o755)
    assert wheel.gpu_code(Path("x.so")) == ([], [])
    tool.write_text(
        "#!/bin/sh\necho \"cuobjdump fatal   : Could not open input file 'x.so'\" >&2\nexit 255\n"
    )
    with pytest.raises(wheel.ToolFailed, match="Could not open input file"):
        wheel.gpu_code(Path("x.so"))
    lines = "ELF file    1: a.sm_80.cubin\\nELF file    2: a.sm_100.cubin\\nPTX file    1: a.sm_100.ptx\\n"
    tool.write_text(f"#!/bin/sh\nprintf '{lines}' | grep -i \"${{1#--list-}} file\"\n")
    assert wheel.gpu_code(Path("x.so")) == (["8.0", "10.0"], ["10.0"])
