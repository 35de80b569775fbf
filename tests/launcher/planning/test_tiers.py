"""Checkpoints on own disks and at a mirror: what a job may write, where it cannot be, and what ranks are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from workloads import keeping

from launcher.errors import LauncherError, PlanError
from launcher.planning import on_this_machine, tiers
from launcher.schedulers import local, slurm
from launcher.schedulers.kubernetes import storage
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.plan import Plan

ADDRESSES = ("s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "file:///archive/a")


def planned(checkpoint: dict[str, Any], cluster: dict[str, Any] | None = None, **job: Any) -> Plan:
    return samples.decided({"checkpoint": checkpoint, **job}, **(cluster or {}))


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_are_known(address: str) -> None:
    assert keeping.problem(address) == ""
    assert planned({"mirror": address}).job.checkpoint.mirror == address


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://key:secret@bucket/a", "holds credentials, which belong into `env:` as secrets"),
        ("s3://key@bucket/a", "holds credentials"),
        ("ftp://host/a", "has no scheme that is known"),
        ("/archive", "has no scheme that is known"),
        ("s3:bucket/a", "has no scheme that is known"),
        ("s3:///a", "names no bucket; write s3://BUCKET/FOLDER"),
        ("file://archive/a", "is no folder of this host"),
        ("file:///", "is no folder of this host"),
        ("s3://bucket/a?secret=b", "holds a character"),
        ("s3://bucket/a b", "holds a character"),
        ("s3://bucket/a\nb", "holds a character"),
        ("s3://bucket/../b", "leads upwards"),
        ("s3://[", "is no address"),
    ],
)
def test_others_are_refused_without_their_words(address: str, words: str) -> None:
    assert words in keeping.problem(address)
    with pytest.raises(LauncherError, match="mirror") as refused:
        planned({"mirror": address})
    assert "secret=" not in str(refused.value)
    assert "key:" not in str(refused.value)


@pytest.mark.parametrize(
    ("checkpoint", "job", "words"),
    [
        ({"mirror": "s3://b"}, {"workload": "./own.py"}, "checkpoint.mirror: a program of your own"),
        ({"local": {}}, {"workload": "./own.py"}, "checkpoint.local: a program of your own"),
        (
            {"local": {}},
            {"workload": "chat_rl", "model": "/m", "args": {"reward": "brief"}},
            "these do: chat_dpo, chat_reward, chat_sft, finetune, pretrain",
        ),
        ({"local": {"every": 500}}, {}, "every 500 steps is not more often than checkpoint.every: 500"),
        (
            {"local": {}},
            {
                "deepspeed": {
                    "preset": "zero3",
                    "zero_optimization": {
                        "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme"},
                    },
                }
            },
            "checkpoint.local: states that are offloaded to NVMe are not kept there",
        ),
    ],
)
def test_what_cannot_be_kept_there(checkpoint: dict[str, Any], job: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError) as refused:
        planned(checkpoint, {"nvme": {"path": "/nvme", "size": "1TB"}}, **job)
    assert words in str(refused.value)


def test_ranks_are_told() -> None:
    checkpoint = {"mirror": "s3://b/a", "local": {"every": 5, "keep": 2}}
    made = planned(checkpoint, {"scratch": "/fast disk"})
    made = made._replace(workspace=made.workspace._replace(user="anna"))
    words = ["--checkpoint-mirror=s3://b/a", "'--checkpoint-owner=anna, /shared/runs'"]
    words += ["'--checkpoint-local=/fast disk'"]
    words += ["--checkpoint-local-every=5", "--checkpoint-local-keep=2"]
    for scheduler in (local, slurm):
        told = scheduler.render(made)["job.sh"]
        assert [word for word in words if word not in told] == []
        plain = scheduler.render(planned({}))["job.sh"]
        assert "--checkpoint-mirror" not in plain
        assert "--checkpoint-owner" not in plain
        assert "--checkpoint-local" not in plain


def test_a_folder_that_containers_do_not_see_is_refused() -> None:
    address = {"mirror": "file:///archive/a"}
    podman = {"image": "/images/a", "local": {"container": "podman"}}
    with pytest.raises(PlanError, match="/archive/a is not mounted where ranks run"):
        local.render(planned(address, {**podman, "image": "registry/a:1"}))
    mounted = {**podman, "image": "registry/a:1", "mounts": {"/archive": {"host": "/disk"}}}
    assert "--checkpoint-mirror=file:///archive/a" in local.render(planned(address, mounted))["job.sh"]


def test_in_pods_it_must_be_on_what_outlives_them() -> None:
    made = planned({"mirror": "file:///runs/archive"})
    assert storage.kept(made) == []
    found = [str(p) for p in tiers.unmounted(made, storage.kept(made))]
    assert found == [
        "checkpoint.mirror: /runs/archive is not mounted where ranks run, and would be lost with their container; "
        "add it to `mounts:` of the cluster file"
    ]
    claimed = planned({"mirror": "file:///runs/archive"}, {"kubernetes": {"runs": "claim"}})
    assert list(tiers.unmounted(claimed, storage.kept(claimed))) == []
    assert "end with the pod" in "".join(map(str, storage.warnings(planned({}))))
    assert list(storage.warnings(planned({"mirror": "s3://b"}))) == []  # they are at the mirror


def test_a_folder_that_cannot_be_made_here_is_told_before(tmp_path: Path) -> None:
    def said(folder: str) -> str:
        return "".join(map(str, on_this_machine.problems(planned({"mirror": f"file://{folder}"}), "local")))

    assert said(f"{tmp_path}/archive") == ""
    assert said(f"{tmp_path}/a/b/c").endswith("does not exist; make it, or name another folder")
    (tmp_path / "file").touch()
    assert "is no folder" in said(f"{tmp_path}/file")


def test_own_disks_take_all_but_two_things() -> None:
    assert keeping.unsaved({"zero_optimization": {"stage": 3, "offload_param": None}}) == {}
    assert keeping.unsaved({"expert_parallel": {"enabled": True}}) == {
        "local": "experts that ranks hold apart"
    }
