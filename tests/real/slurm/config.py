"""Every text of a test cluster: the configuration files, the command lines, and the first script of a node.

Owns what the daemons are told; `tests/real/slurm/cluster.py` starts, breaks and stops them.
The pages of the settings are at https://slurm.schedmd.com/slurm.conf.html.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What a test may choose. Times are in seconds; `gpus`, `cpus` and `memory_mb` are per node.

    `types` are of the nodes' GPUs, in turn; without, they have none. `oci` is the text of oci.conf (the container
    runtime), `extra` more lines for slurm.conf.
    """

    nodes: int = 4
    accounting: bool = True
    gpus: int = 8
    cpus: int = 4
    memory_mb: int = 6000
    kill_wait: int = 2
    slurmd_timeout: int = 15  # a busy machine answers late, and a host that is up is called down
    oci: str = ""
    extra: str = ""
    types: tuple[str, ...] = ()

    def gpu_type(self, name: str) -> str:
        """The type of a node's GPUs; '' where they have none."""
        return self.types[self.names.index(name) % len(self.types)] if self.types else ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"n{i}" for i in range(1, self.nodes + 1))


@dataclass(frozen=True)
class Network:
    """The bridge, addresses and ports that one cluster has for itself; clusters differ by `number` (1 to 99).

    198.18.0.0/15 is kept for tests of network devices (RFC 2544), so no real network of the host is hidden.
    """

    number: int

    @property
    def bridge(self) -> str:
        return f"slurmbr{self.number}"

    @property
    def head(self) -> str:
        """The address of slurmctld and slurmdbd, and of the machine that submits."""
        return f"198.18.{self.number}.1"

    # Both daemons listen on every address, whatever address they are given: two clusters need other ports.
    @property
    def ctld_port(self) -> int:
        return 16000 + 2 * self.number

    @property
    def dbd_port(self) -> int:
        return 16001 + 2 * self.number

    def address(self, node: str) -> str:
        return f"198.18.{self.number}.{10 + int(node[1:])}"

    def link(self, node: str) -> str:
        """The host's end of a node's cable. The kernel cuts names of interfaces at 15 characters."""
        return f"slurm{self.number}{node}"


def write(settings: Settings, network: Network, folder: Path) -> None:
    """Make the folders, keys, device files and configuration of a cluster under `folder`."""
    for name in ("etc", "run", "log", "state", "spool", "dev", "db"):
        (folder / name).mkdir()
    etc = folder / "etc"
    key = etc / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    # Slurm sets CUDA_VISIBLE_DEVICES only for character devices. Regular files give no variable, and gres
    # without files makes the node INVALID. Any device number will do: this is that of /dev/null.
    for index in range(settings.gpus):
        os.mknod(folder / f"dev/nvidia{index}", 0o020666, os.makedev(1, 3))
    (etc / "slurm.conf").write_text(_slurm_conf(settings, network, folder))
    (etc / "gres.conf").write_text(_gres_conf(settings, folder))
    (etc / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    if settings.oci:
        (etc / "oci.conf").write_text(settings.oci)
    (etc / "hosts").write_text(_hosts(settings, network))
    # No DNS: slurmd asks for the name of 0.0.0.0 when it starts, and waits 10 s where no resolver answers.
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
    slurmdbd = etc / "slurmdbd.conf"
    slurmdbd.write_text(_slurmdbd_conf(network, folder))
    slurmdbd.chmod(0o600)  # slurmdbd refuses to read it otherwise


def munged(folder: Path) -> tuple[str, ...]:
    """One munged serves all nodes: its socket is a path, which network namespaces do not hide."""
    return (
        *("munged", "--foreground", "--force", "--num-threads=4"),  # --force: it would not run as root
        f"--key-file={folder}/etc/munge.key",
        f"--socket={folder}/run/munge.socket",
        f"--pid-file={folder}/run/munged.pid",
        f"--log-file={folder}/log/munged.log",
        f"--seed-file={folder}/run/munge.seed",
    )


def mariadbd(folder: Path) -> tuple[str, ...]:
    """A database server that is up in 0.3 s: an empty data directory in memory, no grant tables, TLS or TCP.

    mariadb-install-db (4 s) is not needed without grant tables, but the database must exist, or slurmdbd
    waits 5 s before it makes it. slurmctld registers the cluster itself.
    """
    data, run = folder / "db", folder / "run"
    return (
        *("unshare", "--mount", "sh", "-c"),
        f'mount -t tmpfs tmpfs {data} && mkdir {data}/slurm_acct_db && exec "$@"',
        *("-", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={run}/db.sock"),
        *(f"--pid-file={run}/db.pid", "--skip-networking", "--skip-grant-tables", "--skip-ssl"),
        *("--skip-log-bin", "--debug-no-sync", "--performance-schema=OFF", "--innodb-buffer-pool-size=64M"),
        *("--innodb-log-file-size=16M", "--innodb-undo-tablespaces=0", "--innodb-lock-wait-timeout=900"),
        "--innodb-data-file-path=ibdata1:4M:autoextend",
        "--innodb-temp-data-file-path=ibtmp1:4M:autoextend",
    )


def slurmctld(folder: Path) -> tuple[str, ...]:
    """The controller, in the foreground, with the cluster's own host names; -i forgives a lost state file."""
    etc = folder / "etc"
    mounts = f"mount --bind {etc}/hosts /etc/hosts && mount --bind {etc}/nsswitch.conf /etc/nsswitch.conf"
    return ("unshare", "--mount", "sh", "-c", f"{mounts} && exec slurmctld -D -i")


def node(network: Network, folder: Path, name: str) -> tuple[str, ...]:
    """A node: new namespaces, and in them bash as PID 1 with the script below, which waits for eth0."""
    namespaces = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc")
    return ("unshare", *namespaces, "--kill-child=SIGKILL", "bash", "-c", _node_script(network, folder, name))


def _node_script(network: Network, folder: Path, name: str) -> str:
    # bash stays PID 1, instead of `exec slurmd`, so that orphans are reaped; the node ends with slurmd.
    return f"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind {folder}/etc/hosts /etc/hosts
mount --bind {folder}/etc/nsswitch.conf /etc/nsswitch.conf
# crun refuses a host that mixes cgroup v1 and v2, so a node sees v2 only.
umount -R /sys/fs/cgroup 2>/dev/null && mount -t cgroup2 cgroup2 /sys/fs/cgroup || true
hostname {name}
ip link set lo up
for _ in $(seq 500); do ip link show eth0 >/dev/null 2>&1 && break; sleep .01; done
ip addr add {network.address(name)}/24 dev eth0
ip link set eth0 up
slurmd -D -N {name} &
wait $!
"""


def _slurm_conf(settings: Settings, network: Network, folder: Path) -> str:
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={network.address(name)} CPUs={settings.cpus} "
        f"RealMemory={settings.memory_mb} Gres={_gres(settings, name)}"
        for name in settings.names
    )
    return f"""\
ClusterName=test
# Any name other than localhost must be the host's own, or slurmctld says it is "not a valid controller".
SlurmctldHost=localhost({network.head})
SlurmctldPort={network.ctld_port}
SlurmdPort=6818
# Numbers that start at 1 again let submitit take an old 1_0_result.pkl for the result of a new job.
FirstJobId={int(time.time()) % 1_000_000 + 1000}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits for cred_expire (default 120 s) before it starts again; less than 5 s is refused.
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
CredType=cred/munge
MailProg=/bin/true
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
# No cgroups, so that any kernel will do; sacct still has MaxRSS.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
GresTypes=gpu
# Nodes may have more CPUs than this machine; otherwise they are INVALID, "Low CPUs".
SlurmdParameters=config_overrides
# A crashed or cut node comes back by itself.
ReturnToService=2
# Short, so that tests of failures are fast. UnkillableStepTimeout must be at least 5 times MessageTimeout.
SlurmctldTimeout=10
SlurmdTimeout={settings.slurmd_timeout}
MessageTimeout=5
TCPTimeout=2
KillWait={settings.kill_wait}
UnkillableStepTimeout=60
CompleteWait=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptParameters=send_user_signal
{_accounting(network, folder) if settings.accounting else ""}
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low Nodes=ALL MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 State=UP
PartitionName=evict Nodes=ALL MaxTime=60 PriorityTier=1 PreemptMode=CANCEL GraceTime=5 State=UP
PartitionName=down Nodes=n1 MaxTime=60 State=DOWN
{settings.extra}
"""


def _accounting(network: Network, folder: Path) -> str:
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={network.head}
AccountingStoragePort={network.dbd_port}
# The munge socket: AuthInfo is not read for slurmdbd, and sacct would look in /run/munge.
AccountingStoragePass={folder}/run/munge.socket
AccountingStorageTRES=gres/gpu"""


def _gres(settings: Settings, name: str) -> str:
    return ":".join(filter(None, ("gpu", settings.gpu_type(name), str(settings.gpus))))


def _gres_conf(settings: Settings, folder: Path) -> str:
    if not settings.gpus:
        return ""
    files = f"Name=gpu File={folder}/dev/nvidia[0-{settings.gpus - 1}] Flags=nvidia_gpu_env"
    if not settings.types:
        return f"{files}\n"
    return "".join(f"NodeName={n} {files} Type={settings.gpu_type(n)}\n" for n in settings.names)


def _hosts(settings: Settings, network: Network) -> str:
    # slurmctld looks up the submitting host by name to tell srun that a step is over. Where the name is
    # missing a job stays COMPLETING for 60 s.
    lines = ["127.0.0.1 localhost", f"{network.head} head {os.uname().nodename}"]
    return "\n".join(lines + [f"{network.address(name)} {name}" for name in settings.names]) + "\n"


def _slurmdbd_conf(network: Network, folder: Path) -> str:
    # StorageHost=localhost is the client library's word for its Unix socket (MYSQL_UNIX_PORT).
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
DbdHost=localhost
DbdAddr={network.head}
DbdPort={network.dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
"""
