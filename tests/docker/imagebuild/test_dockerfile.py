"""The Dockerfile and its scripts as text: linted, portable between engines, and in step with ops.json and the locks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from imagebuild import check

TEXT = (check.HERE / "Dockerfile").read_text()
# Comments apart, and with continued lines joined.
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE))


def lint(tool: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / tool), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.heavy
def test_hadolint() -> None:
    lint("hadolint", "--config", str(check.HERE / "hadolint.yaml"), str(check.HERE / "Dockerfile"))


def test_shellcheck() -> None:
    scripts = sorted((check.HERE / "local").glob("*.sh"))
    assert len(scripts) == 2
    lint("shellcheck", *map(str, scripts))


def test_no_frontend_is_fetched_and_no_engine_is_left_out() -> None:
    assert not re.search(r"^#\s*syntax\s*=", TEXT, re.MULTILINE | re.IGNORECASE)
    # buildah: "not supported"; docker 26: too new. See README.md.
    for word in ("--link", "--parents", "--security", "<<EOF", "HEALTHCHECK"):
        assert word not in INSTRUCTIONS


def test_an_argument_has_one_default() -> None:
    found: dict[str, set[str]] = {}
    for name, value in re.findall(r"^ARG (\w+)=(.*)$", TEXT, re.MULTILINE):
        found.setdefault(name, set()).add(value)
    assert {name: values for name, values in found.items() if len(values) > 1} == {}


def test_no_argument_has_a_name_that_nvidias_images_set() -> None:
    # An ENV of the base wins over an ARG of the same name, without a word.
    nvidia = {
        "CUDA_VERSION",
        "NCCL_VERSION",
        "NVARCH",
        "NVIDIA_REQUIRE_CUDA",
        "LIBRARY_PATH",
        "LD_LIBRARY_PATH",
        "PATH",
    }
    assert not nvidia & set(check.defaults())


def test_the_defaults_are_those_of_the_lists_and_locks() -> None:
    defaults = check.defaults()
    assert check.split(defaults["DS_OPS"]) == tuple(check.catalogue()["lists"]["train-cuda"])
    # A100, H100, B200, and PTX for the last.
    assert defaults["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0;10.0+PTX"
    for name in ("BASE_IMAGE", "RUNTIME_IMAGE"):
        assert re.fullmatch(r"nvidia/cuda:13\.2\.\d-(devel|base)-ubuntu24\.04", defaults[name])
    assert (defaults["CPU_MARCH"], defaults["CPU_SIMD"]) == ("x86-64-v3", "AVX256")


def test_nothing_to_log_in_with_is_installed() -> None:
    for word in ("openssh", "sshd", "pdsh", "sudo", "ssh-keygen"):
        assert word not in INSTRUCTIONS
    assert re.search(r"^USER \$\{UID\}:\$\{GID\}$", TEXT, re.MULTILINE)
    assert re.search(r"^ARG UID=[1-9]\d+$", TEXT, re.MULTILINE)


def test_what_changes_most_is_copied_last() -> None:
    position = INSTRUCTIONS.index
    assert position("AS venv") < position("imagebuild.verify") < position("COPY --chmod=755 workloads")


def test_the_environment_is_in_the_image_once() -> None:
    """It is gigabytes: a copy from another stage would be read, written and hashed twice more."""
    assert re.findall(r"^FROM venv AS (\S+)", INSTRUCTIONS, re.MULTILINE) == [
        "nccl-tests-no",
        "nccl-tests-yes",
    ]
    assert "COPY --from=venv" not in INSTRUCTIONS


@pytest.mark.parametrize(
    "file",
    [
        *(check.lock(target, flavour) for target in check.TARGETS for flavour in check.FLAVOURS),
        *(check.HERE / "requirements" / name for name in ("build.txt", "deepspeed.txt", "torch-cpu.txt")),
        check.HERE / "local" / "toolkit.txt",
    ],
    ids=lambda file: file.name,
)
def test_every_locked_package_has_a_hash_and_no_index_is_named(file: Path) -> None:
    text = file.read_text()
    entries = re.findall(r"^[a-z0-9][\w.-]*==.*(?:\n    .*)*", text, re.MULTILINE)
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--index-url" not in text


@pytest.mark.parametrize("target", check.TARGETS)
@pytest.mark.parametrize("flavour", check.FLAVOURS)
def test_every_wanted_package_is_locked(target: str, flavour: str) -> None:
    lock = check.lock(target, flavour)
    locked = check.pins(lock)
    wanted: set[str] = set()
    files = [lock.with_suffix(".in")]
    while files:
        for line in files.pop().read_text().splitlines():
            if line.startswith("-r "):
                files.append(lock.with_name(line[3:].strip()))
            elif line and not line.startswith("#"):
                wanted.add(re.split(r"[\[<>=\s]", line)[0])  # transformers[serving] is locked as transformers
    assert wanted
    assert wanted <= set(locked)
