"""Images that are not of this project, run by podman: a plain Python, a user's Dockerfile, one without any.

Pods' manifests are those of `launcher kubernetes --dry-run`; podman takes the part of the kubelet (test_kube_play.py).
It makes no folders below a ConfigMap's volume, and no modes: those are in test_carried.py of the Kubernetes package.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher import ROOT
from tests.real.image import engines
from tests.real.image.engines import Engine
from tests.real.image.test_kube_play import controlled

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.image

PLAIN, MINE, BARE = "localhost/plain-python:1", "localhost/mine:1", "localhost/without-python:1"
# Debian's own Python where the base has none; nothing else of ours, and no user.
PLAIN_FILE = """\
FROM {base}
RUN command -v python3 || {{ apt-get update -q && apt-get install -qy --no-install-recommends python3; }}
"""
MINE_FILE = f"""\
FROM {PLAIN}
ENV MINE="it's mine"
COPY train.py /opt/mine/train.py
"""
BARE_FILE = f"FROM {PLAIN}\nRUN rm -f /usr/bin/python3 /usr/local/bin/python3\n"
IN_THE_IMAGE = """\
import os, sys
print("MINE", os.environ["MINE"], sys.argv, os.environ["RANK"], flush=True)
"""
TRAVELS = """\
import pathlib, sys
import shared
here = pathlib.Path.cwd()
print("OLD", shared.SAID, here, sys.argv[1:], sorted(p.name for p in here.iterdir() if p.name[0] != "."), flush=True)
print((here / "raw.dat").read_bytes(), flush=True)
"""
WAITS = """\
import os, time
print("ready", os.getpid(), flush=True)
time.sleep(600)
"""
HERE = "slots: 2\nfabric: loopback\nimage: {image}\nlocal: {{container: podman, secrets: {folder}}}\n"
SITE = "slots: 2\nfabric: loopback\nimage: {image}\nkubernetes: {{cpus: 100m, memory: 500MB}}\n"


@pytest.fixture(scope="module")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The three images, built by buildah."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "train.py").write_text(IN_THE_IMAGE)
    base = engines.cpu_bases(engine).split()[1]
    with engines.exclusive("plain"):
        for name, text in ((PLAIN, PLAIN_FILE.format(base=base)), (MINE, MINE_FILE), (BARE, BARE_FILE)):
            (folder / "Dockerfile").write_text(text)
            engine.run("buildah", "bud", "-q", "-t", name, str(folder), timeout=600)
    return engine


def rendered(folder: Path, image: str, job: str) -> list[dict[str, Any]]:
    (folder / "site.yaml").write_text(SITE.format(image=image))
    (folder / "job.yaml").write_text(f"name: own\ncluster: site.yaml\nbatch: {{micro: 1}}\nnodes: 1\n{job}")
    words = [sys.executable, "-m", "launcher", "kubernetes", str(folder / "job.yaml"), "--dry-run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(YAML(typ="safe").load_all(done.stdout))


def played(engine: Engine, folder: Path, objects: list[dict[str, Any]]) -> tuple[int, str]:
    """The exit code and the log of the pod."""
    file = folder / "manifest.yaml"
    file.write_text(controlled(objects))
    try:
        started = engine.run("podman", "kube", "play", str(file)).stdout
        container = re.findall(r"^Containers?:\n(\w+)", started, re.MULTILINE)[0]
        engine.run("podman", "wait", container, timeout=300)
        state = json.loads(engine.run("podman", "inspect", container).stdout)[0]["State"]
        assert state["Status"] == "exited", state
        logs = engine.run("podman", "logs", container)
        return int(state["ExitCode"]), logs.stdout + logs.stderr
    finally:
        engine.run("podman", "kube", "down", "--force", str(file), ok=False)


def test_code_in_a_pod_of_a_plain_python_is_that_of_the_submission(images: Engine, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAVELS)
    (tmp_path / "shared.py").write_text("SAID = 'OLD'\n")
    (tmp_path / "raw.dat").write_bytes(b"\xff\0")
    (tmp_path / ".env").write_text("TOKEN=1")
    text = "it's $(HOME) $$x"
    objects = rendered(tmp_path, PLAIN, f"workload: ./train.py\nargs: {{text: {json.dumps(text)}}}\n")
    (tmp_path / "train.py").write_text(TRAVELS.replace("OLD", "NEW"))
    (tmp_path / "shared.py").write_text("SAID = 'NEW'\n")
    code, log = played(images, tmp_path, objects)
    assert code == 0, log
    names = ["job.yaml", "raw.dat", "shared.py", "site.yaml", "train.py"]
    said = text.replace("$$", "$")
    assert log.count(f"OLD OLD /code {[f'--text={said}']} {names}") == 2, log
    assert "b'\\xff\\x00'" in log
    assert "NEW" not in log


def test_a_program_of_the_users_own_dockerfile(images: Engine, tmp_path: Path) -> None:
    objects = rendered(tmp_path, MINE, "workload: /opt/mine/train.py\ncode: none\n")
    code, log = played(images, tmp_path, objects)
    assert code == 0, log
    for rank in (0, 1):
        assert f"MINE it's mine ['/opt/mine/train.py'] {rank}" in log


def test_an_image_without_a_python_says_so(images: Engine, tmp_path: Path) -> None:
    objects = rendered(tmp_path, BARE, "workload: /opt/mine/train.py\ncode: none\n")
    code, log = played(images, tmp_path, objects)
    assert code == 64, log
    said = "node: error: the image has no python3; image_python in the cluster file names its Python"
    assert log.strip() == said


def test_a_shell_beside_a_rank_in_its_container(images: Engine, tmp_path: Path) -> None:
    """The rank's variables, a secret among them, in its folder, with the image's Python; ended by `cancel`."""
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "train.py").write_text(WAITS)
    (tmp_path / "site.yaml").write_text(HERE.format(image=PLAIN, folder=tmp_path))
    env = 'env: {MINE: "it\'s $(HOME)", TOKEN: {secret: token}}\n'
    (tmp_path / "job.yaml").write_text(
        f"name: own\ncluster: site.yaml\nbatch: {{micro: 1}}\nworkload: ./train.py\n{env}"
    )
    here = Engine({**images.env, "LAUNCHER_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(ROOT)})
    launcher = (sys.executable, "-m", "launcher")
    run = here.run(*launcher, "local", str(tmp_path / "job.yaml")).stdout.strip()
    try:
        log = tmp_path / "runs" / run / "logs" / "rank-1.log"
        deadline = time.monotonic() + 120
        while not (log.exists() and "ready" in log.read_text()):
            assert time.monotonic() < deadline, here.run(*launcher, "status", run).stdout
            time.sleep(0.2)
        asked = (
            'echo "$RANK|$MINE|$TOKEN|$PWD"; ls; cat /etc/os-release | head -1; command -v python3; exit 3\n'
        )
        done = subprocess.run(
            [*launcher, "shell", run, "--rank", "1"],
            env=here.env,
            input=asked,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 3, done.stderr
        first, *rest = done.stdout.splitlines()
        assert first == f"1|it's $(HOME)|s3cret|{tmp_path}/runs/{run}/code"
        assert {"train.py", "job.yaml"} <= set(rest)
        assert "rank 1 on " in done.stderr
    finally:
        here.run(*launcher, "cancel", run)
    assert run not in here.run("podman", "ps", "--format", "{{.Labels}}").stdout
