"""Two hosts of a real Slurm, which do not see each other's processes, prepare one text together."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the train extra is not installed")

from workloads import cache, cutting, tokenizer

from tests.docker.workloads import preparing
from tests.real.slurm import cluster  # noqa: TC001

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[3]


def test_two_hosts_share_the_shards(
    slurm_cluster: cluster.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = preparing.words(tmp_path)
    module = (sys.executable, "-m", "tests.docker.workloads.preparing", "host", str(tmp_path))
    paths = {"PYTHONPATH": f"{ROOT / 'docker'}{os.pathsep}{ROOT}"}
    said = slurm_cluster.sh("srun", "-N2", "--chdir", str(ROOT), *module, timeout=600, env=paths)
    one, two = ({*json.loads(line)} for line in said.splitlines() if line.startswith("["))
    assert one
    assert two
    assert not one & two
    monkeypatch.setattr(cutting, "SMALLEST", preparing.SHARD)
    cache.make(given, tokenizer.existing("bytes"), tmp_path / "alone", cache.Making(1))
    assert preparing.contents(tmp_path / "cache") == preparing.contents(tmp_path / "alone")
    (folder,) = (tmp_path / "alone").iterdir()
    assert len(one | two) == len(list(folder.glob("*.idx")))
