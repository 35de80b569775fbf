"""The cuda flavour, compiled without a GPU on PyPI's toolkit: for the right architectures, for every CPU of the level.

It takes 25 GB and minutes, so it runs when docker/ or a lock changed since it last passed here, and the disk has room.
Of the packages it has those that ops are compiled and loaded with, and those of the cuda flavour alone; the others come
from the same lock in the cpu image.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from imagebuild import check

from tests.real.image.engines import FOLDER, Engine, Image, copied, make_image

# One worker for all of them: they share one build.
pytestmark = pytest.mark.image

OPS = "FUSED_ADAM CPU_ADAM"
ARCHITECTURES = "8.0;9.0+PTX"
# What the compiled image depends on: not the workloads, not the node entry.
SOURCES = ("Dockerfile", "ops.json", "imagebuild", "requirements", "local")
STAMPS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepspeed-job" / "cuda-image"


def stamp() -> Path:
    """The file that says these very sources passed."""
    digest = hashlib.sha256()
    for source in SOURCES:
        path = check.HERE / source
        for file in sorted(path.rglob("*") if path.is_dir() else [path]):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(check.HERE)).encode() + file.read_bytes())
    return STAMPS / digest.hexdigest()[:16]


@pytest.fixture(scope="module")
def cuda_image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image; skips with "not run" when these sources passed already or the disk has no room."""
    if stamp().exists() and not os.environ.get("CUDA_IMAGE"):
        pytest.skip(
            "not run: docker/ has not changed since the cuda image passed here (CUDA_IMAGE=1 runs it)"
        )
    problem = check.disk_problem("cuda", shutil.disk_usage(FOLDER).free / 1e9, str(FOLDER))
    if problem:
        pytest.skip(f"not run: {problem}")
    context = copied(tmp_path_factory.mktemp("cuda"))
    wanted = context / "requirements" / "train-cuda.in"
    assert "-r train.in\n" in wanted.read_text()
    wanted.write_text(wanted.read_text().replace("-r train.in\n", "-r torch.in\n"))
    return make_image(engine, context, FLAVOUR="cuda", DS_OPS=OPS, TORCH_CUDA_ARCH_LIST=ARCHITECTURES)


def test_the_cuda_image_proves_itself(cuda_image: Image) -> None:
    """The build ran imagebuild/wheel.py and verify.py: SASS, PTX, no zmm, imports, a step equal to torch's AdamW."""
    facts = cuda_image.facts
    assert (facts["flavour"], facts["cuda"], facts["architectures"], facts["ptx"]) == (
        "cuda",
        "13.2",
        ["8.0", "9.0"],
        ["9.0"],
    )
    assert facts["nccl"] == check.defaults()["TORCH_NCCL"]
    ops = facts["ops"]
    assert isinstance(ops, dict)
    assert ops["FUSED_ADAM"]["architectures"] == ["8.0", "9.0"]
    assert ops["FUSED_ADAM"]["ptx"] == ["9.0"]
    assert all(isinstance(entry["load_seconds"], float) for entry in ops.values())

    # Once more from outside, on the finished image.
    report = cuda_image.inside("ds_report")
    for name in ("fused_adam", "cpu_adam"):
        (line,) = (line for line in report.splitlines() if line.startswith(f"{name} "))
        assert "YES" in line
    script = "for tool in nvcc gcc g++ cc; do command -v $tool; done; id -u"
    assert cuda_image.inside("sh", "-c", script).split() == ["10001"]

    stamp().parent.mkdir(parents=True, exist_ok=True)
    stamp().touch()
