"""What an administrator sets up so that jobs run in containers, for the test cluster: an image and Slurm's oci.conf.

Owns both texts. The image is no real one: it is an empty root file system with a mark in it, into which this machine's
/usr, Python and checkout are mounted, so that its ranks have a torch without a build of an hour.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
MARK = "/this-is-the-image"
PROGRAMS = ("crun", "ch-run")
PACKAGES = ("crun", "charliecloud-runtime")

# slurmstepd asks for the state of, kills and deletes task "-1" when it ends a step (24.11.5), so these three act on
# every container of the step; with the manual's patterns scancel leaves the containers running.
_RUNTIME = """\
#!/bin/bash
crun="crun --cgroup-manager=disabled --root=/run/slurm-crun"
step=${2%.*}
ids() { $crun list -q 2>/dev/null | grep -F "$step."; }
running() { for id in $(ids); do $crun state "$id" | grep -q '"running"' && return 0; done; return 1; }
case $1 in
run) exec $crun run --bundle "$3" "$2" ;;
state)
  if [ "${2##*.}" != -1 ]; then exec $crun state "$2"; fi
  last=
  for id in $(ids); do
    state=$($crun state "$id") || continue
    last=$state
    case $state in *'"running"'*) break ;; esac
  done
  [ -n "$last" ] && echo "$last" ;;
kill)
  for id in $(ids); do $crun kill "$id" TERM; done
  for _ in $(seq 50); do running || exit 0; sleep .1; done
  for id in $(ids); do $crun kill "$id" KILL; done ;;
delete) for id in $(ids); do $crun delete --force "$id"; done ;;
esac
exit 0
"""


def oci_conf(folder: Path) -> str:
    """oci.conf for crun: https://slurm.schedmd.com/oci.conf.html. A script that it names is written to `folder`."""
    script = folder / "oci-runtime"
    script.write_text(
        _RUNTIME.replace('[ -n "$last" ] && echo "$last" ;;', '[ -n "$last" ] || exit 1; echo "$last" ;;')
    )
    script.chmod(0o755)
    return f"""\
EnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeEnvExclude="^(SLURM_CONF|SLURM_CONF_SERVER)="
RunTimeQuery="{script} state %n.%u.%j.%s.%t"
RunTimeKill="{script} kill %n.%u.%j.%s.%t"
RunTimeDelete="{script} delete %n.%u.%j.%s.%t"
RunTimeRun="exec {script} run %n.%u.%j.%s.%t %b"
"""


def image(folder: Path, ours: bool = True) -> Path:
    """The root file system of the image below `folder`: made for `mounts()`.

    One that is not `ours` has the Python of this machine's /usr, and neither our programs nor our environment.
    """
    root = folder / "rootfs"
    for name in ("proc", "sys", "dev", "tmp", "run", "etc", "opt", *(m.lstrip("/") for m in mounts())):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("hosts", "resolv.conf", "passwd", "group", "nsswitch.conf", "ld.so.cache"):
        (root / "etc" / name).write_bytes(
            Path("/etc", name).read_bytes() if Path("/etc", name).exists() else b""
        )
    if ours:
        (root / "opt/venv").symlink_to(sys.prefix)
        (root / "opt/job").symlink_to(ROOT / "docker")
    (root / MARK.lstrip("/")).touch()
    return root


def mounts() -> dict[str, str]:
    """What the cluster file has to mount, inside → host."""
    wanted = ["/usr", str(ROOT), sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix)]
    chosen: list[str] = []
    for path in sorted(set(wanted), key=len):
        if not any(path == c or path.startswith(f"{c}/") for c in chosen):
            chosen.append(path)
    return {path: path for path in chosen}


def settings(runtime: str, image_path: Path, user_folder: Path) -> list[str]:
    """Settings of the cluster file for `runtime`."""
    every = {**mounts(), str(user_folder): str(user_folder)}
    return [
        f"cluster.slurm.container={runtime}",
        f"cluster.image={image_path}",
        f"cluster.mounts={json.dumps(every)}",
    ]
