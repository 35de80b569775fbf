"""data_cache of a cluster: ranks find it by one variable, and it is mounted wherever they run."""

from __future__ import annotations

from typing import Any

import pytest

from launcher import schedulers
from launcher.errors import PlanError
from launcher.planning import data_cache
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import pods, queues, storage
from tests import samples
from tests.launcher.schedulers.kubernetes import variants

RUNTIMES = ("pyxis", "apptainer", "oci", "charliecloud")


def value(job: dict[str, Any] | None = None, **cluster: Any) -> str | None:
    plan = samples.decided(job, **cluster)
    return {v.name: v.value for v in plan.environment}.get(data_cache.VARIABLE)


def test_ranks_find_it_by_a_variable() -> None:
    assert value() is None
    assert value(data_cache="/lustre/cache") == "/lustre/cache"
    (told,) = data_cache.variables(samples.cluster(data_cache="/lustre/cache"))
    assert told.why == "data_cache of the cluster file"


def test_a_variable_that_is_written_wins_and_says_so() -> None:
    plan = samples.decided({"env": {"DATA_CACHE": "/mine"}}, data_cache="/lustre/cache")
    (told,) = (v for v in plan.environment if v.name == "DATA_CACHE")
    assert (told.value, told.why) == ("/mine", "from the job file, instead of '/lustre/cache'")
    assert value({"env": {"DATA_CACHE": None}}, data_cache="/lustre/cache") is None
    assert value(data_cache="/a", env={"DATA_CACHE": "/b"}) == "/b"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_containers_see_it(runtime: str) -> None:
    image = "/images/train" if runtime in ("oci", "charliecloud") else "registry.example.com/train:1"
    plan = samples.decided(data_cache="/lustre/cache", slurm={"container": runtime}, image=image)
    text = schedulers.load("slurm").render(plan)["job.sh"]
    assert "mkdir -p /lustre/cache ||" in text
    assert "/lustre/cache:/lustre/cache" in text or '"source": "/lustre/cache"' in text
    assert '"DATA_CACHE": {"value": "/lustre/cache"' in text


def test_a_mount_that_holds_it_brings_it() -> None:
    mounts = {"/shared": {"host": "/lustre", "claim": "shared"}}
    plan = samples.decided(data_cache="/shared/a b/$x", mounts=mounts, local={"container": "podman"})
    text = schedulers.load("local").render(plan)["job.sh"]
    assert "mkdir -p '/lustre/a b/$x' ||" in text
    assert text.count("source=/lustre") == 1
    assert [m.inside for m in plan.mounts] == ["/shared"]


def test_pods_see_a_claim_or_the_hosts_folder() -> None:
    def volumes(**fields: Any) -> tuple[dict[str, Any], str]:
        plan = variants.decide({"runs": "runs"}, **fields)
        pod = pods.make(storage.settled(plan), {}, queues.make(plan, {}))
        places = {mount["name"]: mount["mountPath"] for mount in pod.mounts}
        return {places[v["name"]]: v for v in pod.volumes}, kubernetes.render(plan)["manifest.yaml"]

    claim = {"mounts": {"/data": {"claim": "data"}}}
    found, text = volumes(data_cache="/data/cache", **claim)
    assert "/data/cache" not in found
    assert found["/data"]["persistentVolumeClaim"] == {"claimName": "data"}
    assert '{name: "DATA_CACHE", value: "/data/cache"}' in text
    found, text = volumes(data_cache="/runs/cache")
    assert "/runs/cache" not in found
    assert "/runs/cache" in text
    assert "hostPath" not in text
    found, text = volumes(data_cache="/lustre/cache")
    assert found["/lustre/cache"]["hostPath"] == {"path": "/lustre/cache"}
    assert "#   host path /lustre/cache: the cluster's mounts" in text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mounts": {"/data": {"host": "/d", "readonly": True}}}, "in the mount /data, which is readonly"),
        ({"mounts": {"/data/": {"host": "/d", "local": True}}}, "on each host's own disk"),
        ({"data_cache": "//"}, "is the root"),
    ],
)
def test_a_place_that_cannot_be_a_cache_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        samples.decided(**{"data_cache": "/data/cache", **fields})


def test_where_the_host_has_it() -> None:
    def host(cache: str | None, **mounts: Any) -> str | None:
        return data_cache.on_host(samples.cluster(data_cache=cache, mounts=mounts))

    assert host(None) is None
    assert host("/a/b") == "/a/b"
    assert host("/a/b", **{"/a": "/x"}) == "/x/b"
    assert host("/a/b", **{"/a": "/x", "/a/b": "/y"}) == "/y"
    assert host("/ab", **{"/a": "/x"}) == "/ab"
    assert host("/a/b", **{"/a": {"claim": "c"}}) is None
