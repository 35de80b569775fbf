"""`make image`: checks what is asked for, then has docker, podman or buildah build it.

Owns the engines' command lines, the image's name and its tag. What may be asked for is check.py's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from imagebuild import check

ENGINES = ("docker", "podman", "buildah")
# --format docker: OCI's format has no SHELL, and its builder would ignore pipefail with a warning.
COMMANDS = {
    "docker": ["docker", "build"],
    "podman": ["podman", "build", "--format", "docker", "--layers"],
    "buildah": ["buildah", "build", "--format", "docker", "--layers"],
}
# Where engines keep their layers, for root; STORAGE names another place.
STORAGE = {"docker": "/var/lib/docker", "podman": "/var/lib/containers", "buildah": "/var/lib/containers"}
PASSED_ON = ("COMPILER", "FABRIC", "NCCL_TESTS", "NCCL_TESTS_SHA256", "EFA_VERSION")


class BuildRefused(Exception):
    """The image can't be built; the message has one line per reason."""


def revision(folder: Path = check.HERE) -> str:
    """Return git's hash of the folder docker/, 12 digits, with -dirty while it has uncommitted changes."""
    git = ["git", "-C", str(folder)]
    try:
        prefix = _output([*git, "rev-parse", "--show-prefix"])
        digest = _output([*git, "rev-parse", "--short=12", f"HEAD:{prefix.rstrip('/')}"])
        changed = _output([*git, "status", "--porcelain", "."])
    except (OSError, subprocess.CalledProcessError):
        return "unversioned"
    return f"{digest}-dirty" if changed else digest


def name(target: str, flavour: str, revision: str) -> str:
    """Return the image's name and tag: deepspeed-train:3f2a9c0d1e2f-cuda."""
    return f"deepspeed-{target}:{revision}-{flavour}"


def engine(wanted: str) -> str:
    """Return the engine to use: `wanted`, or the first of docker, podman, buildah that works here.

    Raises BuildRefused when it is unknown or missing.
    """
    if wanted and wanted not in ENGINES:
        raise BuildRefused(f"ENGINE={wanted}: ENGINE is {', '.join(ENGINES)}")
    for candidate in (wanted,) if wanted else ENGINES:
        if shutil.which(candidate) and (candidate != "docker" or _docker_answers()):
            return candidate
    if wanted == "docker" and shutil.which("docker"):
        raise BuildRefused(
            "ENGINE=docker: the docker daemon does not answer; start it, or use ENGINE=podman or buildah"
        )
    missing = f"no {wanted}" if wanted else "neither docker (with its daemon), podman nor buildah"
    raise BuildRefused(
        f"there is {missing} here: install one (Debian, Ubuntu: apt-get install buildah podman)"
    )


def command(engine: str, image: str, arguments: dict[str, str], folder: Path = check.HERE) -> list[str]:
    """Return the command line that builds `image` of `folder` with the ARGs `arguments`."""
    flags = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    return [*COMMANDS[engine], *flags, "--tag", image, str(folder)]


def local_bases(flavour: str, folder: Path = check.HERE) -> tuple[str, str]:
    """Make the base images of `flavour` on this machine and return their names: to build in, to run in."""
    for tool in ("buildah", "debootstrap"):
        if not shutil.which(tool):
            raise BuildRefused(f"BASE_IMAGE=local needs {tool}: apt-get install buildah debootstrap")
    try:
        names = _output([str(folder / "local" / "base.sh"), flavour]).splitlines()[-1].split()
    except subprocess.CalledProcessError as error:
        raise BuildRefused(f"local/base.sh {flavour} failed with exit code {error.returncode}") from error
    return names[0], names[1]


def refusals(build: check.Build, settings: dict[str, str]) -> list[str]:
    """Return everything that is wrong with the wish, without a look at this machine."""
    mistakes = check.problems(build)
    if settings.get("NCCL_TESTS") == "yes" and not settings.get("NCCL_TESTS_SHA256"):
        mistakes.append(
            "NCCL_TESTS=yes: give NCCL_TESTS_SHA256 too, the checksum of the source archive you trust"
        )
    return mistakes


def engine_refusals(build: check.Build, settings: dict[str, str], engine: str) -> list[str]:
    """Return why `engine` can't build this here: bases it would not see, too little disk."""
    mistakes = []
    if settings.get("BASE_IMAGE") == "local" and engine == "docker":
        mistakes.append(
            "BASE_IMAGE=local makes its bases with buildah, where docker does not see them: ENGINE=buildah"
        )
    if build.flavour in check.FLAVOURS:
        place = _existing(Path(settings.get("STORAGE") or STORAGE[engine]))
        mistakes.append(check.disk_problem(build.flavour, shutil.disk_usage(place).free / 1e9, str(place)))
    return [problem for problem in mistakes if problem]


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _docker_answers() -> bool:
    try:
        return (
            subprocess.run(["docker", "version"], capture_output=True, timeout=5, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def run(settings: dict[str, str], only_check: bool) -> str:
    """Build the image that `settings` (ARG name → value, and ENGINE) ask for; return its name. Raises BuildRefused."""
    build = check.make(settings.get("TARGET") or "train", settings.get("FLAVOUR") or "cuda", settings)
    mistakes = refusals(build, settings)
    try:
        chosen = engine(settings.get("ENGINE", ""))
        mistakes += engine_refusals(build, settings, chosen)
    except BuildRefused as refused:
        mistakes.append(str(refused))
    if mistakes:
        raise BuildRefused("\n".join(mistakes))
    build = check.normalised(build)
    version = revision()
    image = name(build.target, build.flavour, version)
    if only_check:
        return image
    extra = {key: settings[key] for key in PASSED_ON if settings.get(key)}
    bases = {}
    if settings.get("BASE_IMAGE") == "local":
        bases = dict(zip(("BASE_IMAGE", "RUNTIME_IMAGE"), local_bases(build.flavour), strict=True))
    arguments = {**check.arguments(build), **extra, **bases, "REVISION": version}
    started = time.monotonic()
    # The name alone goes to stdout.
    code = subprocess.run(command(chosen, image, arguments), stdout=sys.stderr, check=False).returncode
    if code:
        raise BuildRefused(f"{chosen} ended with exit code {code}; its words are above")
    print(f"{image} built in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return image


def main(argv: list[str] | None = None) -> int:
    """Build the image that the environment's variables describe and print its name; 2 when it is refused."""
    parser = argparse.ArgumentParser(prog="make image", description=__doc__)
    parser.add_argument("--check", action="store_true", help="say what is wrong, build nothing")
    args = parser.parse_args(argv)
    try:
        print(run(dict(os.environ), args.check))
    except BuildRefused as refused:
        for line in str(refused).splitlines():
            print(f"image: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
