"""Slurm, asked: partitions, GPUs, limits, accounts, preemption, containers."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.discovery import slurm_output as output
from launcher.discovery.asking import ask
from launcher.discovery.facts import Lack, Qos, Slurm
from launcher.errors import SubmitError, ToolMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

_RUNTIMES = {"apptainer": "apptainer", "ch-run": "charliecloud"}


def learn() -> Slurm:
    """What Slurm's commands say here. Each refusal but sinfo's becomes a lack.

    Raises ToolMissingError without sinfo, SubmitError with its words when it does not answer.
    """
    if not shutil.which("sinfo"):
        raise ToolMissingError("there is no Slurm here: sinfo is not on PATH", hint="run it on a login host")
    lacks: list[Lack] = []
    # -e: hosts with other amounts are never one line; --noconvert: 1024 CPUs are no 1K; -a is left out, so that only
    # one's own partitions are shown
    listed = ask(["sinfo", "-h", "-e", "--noconvert", "-o", output.HOSTS])
    if listed.refusal:
        raise silent(listed.refusal)
    hosts = output.hosts(listed.text)
    if not hosts:
        raise SubmitError("sinfo shows no hosts", hint="ask the site which partitions you may use")
    config = output.config(_told(lacks, "the configuration", ["scontrol", "show", "config"]))
    partitions = _told(lacks, "limits of partitions", ["scontrol", "show", "partition", "--oneliner"])
    accounting = config.get("AccountingStorageType", "").endswith("slurmdbd") if config else None
    qos, accounts = _accounting(lacks, config.get("ClusterName", "")) if accounting else ([], [])
    return Slurm(
        name=config.get("ClusterName", ""),
        version=output.version(ask(["sinfo", "--version"]).text),
        hosts=tuple(hosts),
        partitions=tuple(output.partitions(partitions)),
        accounts=tuple(accounts),
        qos=tuple(qos),
        accounting=accounting,
        preempt_type=config.get("PreemptType", ""),
        preempt_mode=config.get("PreemptMode", ""),
        requeue=config["JobRequeue"] == "1" if "JobRequeue" in config else None,
        topology=config.get("TopologyPlugin", ""),
        containers=tuple(_containers(lacks, config.get("SLURM_CONF", ""))),
        lacks=tuple(lacks),
    )


def silent(refusal: str) -> SubmitError:
    """What is raised where a command that needs slurmctld alone is refused."""
    return SubmitError(refusal, hint="`scontrol ping` says whether slurmctld answers")


def _told(lacks: list[Lack], what: str, words: Sequence[str]) -> str:
    """What a command prints; '' and one lack more when it refuses."""
    answer = ask(words)
    if answer.refusal:
        lacks.append(Lack(what, answer.refusal, f"`{' '.join(words)}`"))
        return ""
    return answer.text


def _accounting(lacks: list[Lack], cluster: str) -> tuple[list[Qos], list[str]]:
    # one database may keep the accounts of several clusters
    own = ["sacctmgr", "-n", "-P", "show", "assoc", f"user={user()}", f"cluster={cluster}"]
    accounts = _told(lacks, "accounts", [*own, f"format={output.ASSOCIATION}"])
    levels = _told(lacks, "QOS", ["sacctmgr", "-n", "-P", "show", "qos", f"format={output.QOS}"])
    return output.qos(levels), output.accounts(accounts)


def user() -> str:
    """Slurm goes by the number of the user, whatever LOGNAME says; one without a name is asked for by it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _containers(lacks: list[Lack], conf: str) -> list[tuple[str, str]]:
    """The values of `slurm.container` that this machine shows signs of. Compute hosts may differ from it."""
    found = []
    options = _told(lacks, "whether srun has Pyxis", ["srun", "--help"])
    if "--container-image" in options:
        found.append(("pyxis", "srun has --container-image"))
    for name, runtime in _RUNTIMES.items():
        if shutil.which(name):
            found.append((runtime, f"{name} is on PATH here"))
    if conf and Path(conf).with_name("oci.conf").is_file():
        found.append(("oci", "oci.conf is beside slurm.conf"))
    return found
