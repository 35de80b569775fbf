"""`make image-push`, `sqsh`, `sif`, `bundle`, `image-facts`, `image-clean`: what happens to an image once it is built.

Owns the forms that other runtimes take: one squashfs file (Pyxis/enroot, charliecloud), one SIF (Apptainer), an OCI
bundle (Slurm's own srun --container). Building is build.py's; which form a job runs is the launcher's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebuild import build

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = ("deepspeed-train:", "deepspeed-inference:")
# What local/base.sh makes. Images of a registry have such names too, and are somebody else's.
BASES = ("localhost/cuda-base:", "localhost/cpu-base:", "localhost/debian-base:")
# Level 3 packs 5 GB in minutes; a higher one takes an hour for a tenth less.
SQUASH = ["-comp", "zstd", "-Xcompression-level", "3", "-quiet", "-no-progress"]
LIST = {
    "docker": ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"],
    "podman": ["podman", "images", "--format", "{{.Repository}}:{{.Tag}}"],
    "buildah": ["buildah", "images", "--format", "{{.Name}}:{{.Tag}}"],
}
# Layers that are unpacked at once need no compression, or where there must be one (podman) the least.
LAYOUT = {
    "docker": ["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers"],
    "podman": ["podman", "push", "--quiet", "--compression-level=1"],
    "buildah": ["buildah", "push", "--quiet", "--disable-compression"],
}
PRUNE = {
    "docker": ["docker", "image", "prune", "--force"],
    "podman": ["podman", "image", "prune", "--force"],
    "buildah": ["buildah", "prune", "--force"],
}


class ExportError(Exception):
    """The image can't be brought into this form; the message says why and what to do."""


def push(engine: str, image: str, registry: str) -> str:
    """Push the image to `registry` and return its name there."""
    if not registry:
        raise ExportError("REGISTRY is not set: make image-push REGISTRY=registry.example.org/team")
    name = f"{registry.rstrip('/')}/{image}"
    _run([engine, "tag", image, name])
    _run([engine, "push", name])
    return name


def sqsh(engine: str, image: str, out: Path) -> str:
    """Write the image's file system as one squashfs file and return its path.

    The image's ENV is in it too: as /etc/environment, which enroot reads, and /ch/environment for charliecloud.
    """
    _need("sqfstar", "squashfs-tools")
    file = _fresh(out / f"{_stem(image)}.sqsh")
    with _file_system(engine, image) as tar:
        code = subprocess.run(["sqfstar", *SQUASH, str(file)], stdin=tar.stdout, check=False).returncode
        # A tar that was cut short still makes a file.
        if code or tar.wait():
            file.unlink(missing_ok=True)
            raise ExportError(f"packing {image} failed; the tools' words are above")
    return str(file)


def sif(engine: str, image: str, out: Path) -> str:
    """Write the image as one SIF file and return its path."""
    _need("apptainer", "Apptainer (https://apptainer.org/docs/admin/main/installation.html)")
    file = _fresh(out / f"{_stem(image)}.sif")
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        archive = Path(scratch) / "image.tar"
        _run(
            {
                "docker": ["docker", "save", "--output", str(archive), image],
                "podman": ["podman", "save", "--format", "docker-archive", "--output", str(archive), image],
                "buildah": ["buildah", "push", "--quiet", image, f"docker-archive:{archive}"],
            }[engine]
        )
        _run(["apptainer", "build", "--force", str(file), f"docker-archive:{archive}"])
    return str(file)


def bundle(engine: str, image: str, out: Path) -> str:
    """Write the image as an OCI bundle (a root file system and config.json) and return its folder."""
    _need("umoci", "umoci")
    folder = _fresh(out / f"{_stem(image)}.bundle")
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        layout = f"{scratch}/layout"
        if engine == "docker":
            _need("skopeo", "skopeo")
        source = f"docker-daemon:{image}" if engine == "docker" else image
        _run([*LAYOUT[engine], source, f"oci:{layout}:latest"])
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        _run(["umoci", "unpack", *rootless, "--image", f"{layout}:latest", str(folder)])
    config = folder / "config.json"
    config.write_text(json.dumps(for_slurm(json.loads(config.read_text())), indent=1) + "\n")
    return str(folder)


def for_slurm(config: dict[str, Any]) -> dict[str, Any]:
    """Return an OCI runtime configuration that `srun --container` can start on several nodes.

    Ranks share the node's network, names, processes and /dev/shm, as any Slurm step does; the user inside is the
    job's own (0 is mapped to it, or is it). A job's own folders are bound by the launcher.
    """
    namespaces = [n for n in config["linux"]["namespaces"] if n["type"] in {"mount", "user"}]
    linux = {k: v for k, v in config["linux"].items() if k not in {"resources", "cgroupsPath"}}
    shared = ("/dev/shm", "/etc/hosts", "/etc/resolv.conf")
    mounts = [m for m in config["mounts"] if m["destination"] not in {"/sys/fs/cgroup", *shared}]
    bound = [
        {
            "destination": path,
            "type": "bind",
            "source": path,
            "options": ["rbind", "rw" if path == "/dev/shm" else "ro"],
        }
        for path in shared
    ]
    return {
        **{k: v for k, v in config.items() if k != "hostname"},
        "process": {**config["process"], "terminal": False, "user": {"uid": 0, "gid": 0}},
        "root": {**config["root"], "readonly": False},
        "mounts": mounts + bound,
        "linux": {**linux, "namespaces": namespaces},
    }


def facts(engine: str, image: str) -> str:
    """Return what the image holds, its /opt/image.json; the launcher reads it as CLUSTER.image.json."""
    with _container(engine, image) as container, tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "image.json"
        if engine == "buildah":
            shutil.copyfile(f"{_output(['buildah', 'mount', container])}/opt/image.json", file)
        else:
            _run([engine, "cp", f"{container}:/opt/image.json", str(file)])
        return file.read_text().strip()


def clean(engine: str) -> str:
    """Remove this project's images and the layers that no image uses; return what was removed, one a line."""
    names = subprocess.run(LIST[engine], capture_output=True, text=True, check=True).stdout.split()
    mine = sorted({n for n in names if n.rsplit("/", 1)[-1].startswith(OURS) or n.startswith(BASES)})
    if mine:
        _run([engine, "rmi", *mine])
    _run(PRUNE[engine])
    return "\n".join(mine)


@contextlib.contextmanager
def _file_system(engine: str, image: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose stdout is the image's file system as tar."""
    with _container(engine, image) as container:
        command = [engine, "export", container]
        if engine == "buildah":
            folder = _output(["buildah", "mount", container])
            command = ["tar", "-C", folder, "--numeric-owner", "-cf", "-", "."]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            yield process


@contextlib.contextmanager
def _container(engine: str, image: str) -> Iterator[str]:
    """A container of the image that does not run."""
    container = _output([engine, "from" if engine == "buildah" else "create", image])
    try:
        yield container
    finally:
        subprocess.run([engine, "rm", container], stdout=subprocess.DEVNULL, check=False)


def _stem(image: str) -> str:
    return image.rsplit("/", 1)[-1].replace(":", "-")


def _fresh(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def _need(tool: str, package: str) -> None:
    if not shutil.which(tool):
        raise ExportError(f"{tool} is not on PATH: install {package}")


def _run(command: list[str]) -> None:
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise ExportError(f"{' '.join(command[:2])} failed; its words are above")


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ExportError(
            f"{' '.join(command)} failed; its words are above (is the image built? `make image`)"
        )
    return done.stdout.strip()


def run(verb: str, settings: dict[str, str]) -> str:
    """Do `verb` with the image that `settings` name (IMAGE, or TARGET and FLAVOUR) and return what was made.

    Raises ExportError, BuildRefused.
    """
    chosen = build.engine(settings.get("ENGINE", ""))
    if verb == "clean":
        return clean(chosen)
    target, flavour = settings.get("TARGET") or "train", settings.get("FLAVOUR") or "cuda"
    image = settings.get("IMAGE") or build.name(target, flavour, build.revision())
    if verb == "push":
        return push(chosen, image, settings.get("REGISTRY", ""))
    if verb == "facts":
        return facts(chosen, image)
    return {"sqsh": sqsh, "sif": sif, "bundle": bundle}[verb](
        chosen, image, Path(settings.get("OUT") or "dist")
    )


def main(argv: list[str] | None = None) -> int:
    """Do what the verb says and print what was made; 2 when it can't be done."""
    parser = argparse.ArgumentParser(prog="make", description=__doc__)
    parser.add_argument("verb", choices=("push", "sqsh", "sif", "bundle", "facts", "clean"))
    args = parser.parse_args(argv)
    try:
        print(run(args.verb, dict(os.environ)))
    except (ExportError, build.BuildRefused) as error:
        for line in str(error).splitlines():
            print(f"{args.verb}: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
