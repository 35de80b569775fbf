"""The text that Slurm's commands print, as facts. Pure.

Their JSON is not used: its shape follows the plugin of the release (openapi/v0.0.37 … data_parser/v0.0.44: a limit is a
number in one and {set, infinite, number} in the next), while fields that a format names have not changed.
https://slurm.schedmd.com/sinfo.html, https://slurm.schedmd.com/scontrol.html, https://slurm.schedmd.com/sacctmgr.html
"""

from __future__ import annotations

import re

from launcher.discovery.facts import Gpus, Hosts, Partition, Qos

HOSTS = "%R|%D|%c|%m|%G"
ASSOCIATION = "Account"
QOS = "Name,MaxWall,MaxTRES,MaxTRESPU,GrpTRES"
_NONE = {"", "N/A", "n/a", "(null)", "None", "NONE", "UNLIMITED", "ALL"}


def version(text: str) -> str:
    """`slurm 24.11.5` or Debian's `slurm-wlm 24.11.5`: the number."""
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?(?:-\w+)?)", text)
    return found[1] if found else ""


def hosts(text: str) -> list[Hosts]:
    """Lines of `sinfo -h -e -o HOSTS`. A line that is not one is left out."""
    found = []
    for line in text.splitlines():
        fields = line.split("|")
        if len(fields) != 5 or not all(field.isdecimal() for field in fields[1:4]):
            continue
        partition, count, cpus, memory, gres = fields
        found.append(
            Hosts(partition, int(count), cpus=int(cpus), memory=int(memory) * 2**20, gpus=tuple(gpus(gres)))
        )
    return found


def gpus(gres: str) -> list[Gpus]:
    """The GPUs of a GRES: `gpu:8`, `gpu:h100:8(S:0-1)`, `gpu:a100:4,gpu:v100:2,nvme:1`, `(null)`."""
    entries = re.sub(r"\([^)]*\)", "", gres).split(",")
    found = [re.fullmatch(r"gpu(?::([^:]*[^:0-9][^:]*))?(?::(\d+))?", entry.strip()) for entry in entries]
    return [Gpus(match[1] or "", int(match[2] or 1)) for match in found if match]


def partitions(text: str) -> list[Partition]:
    """Lines of `scontrol show partition --oneliner`."""
    found = []
    for line in text.splitlines():
        row = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" not in row:
            continue
        found.append(
            Partition(
                name=row["PartitionName"],
                default=row.get("Default") == "YES",
                state=row.get("State", ""),
                max_time=_limit(row.get("MaxTime", "")),
                max_nodes=_limit(row.get("MaxNodes", "")),
                preempt=row.get("PreemptMode", ""),
                qos=_limit(row.get("QoS", "")),
                accounts=_limit(row.get("AllowAccounts", "")),
            )
        )
    return found


def config(text: str) -> dict[str, str]:
    """Lines of `scontrol show config`: `Key = value`."""
    rows = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in rows}


def accounts(text: str) -> list[str]:
    """Lines of `sacctmgr -n -P show assoc format=ASSOCIATION`, each account once."""
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def qos(text: str) -> list[Qos]:
    """Lines of `sacctmgr -n -P show qos format=QOS`."""
    rows = (line.split("|") for line in text.splitlines())
    return [Qos(row[0], *map(_limit, row[1:])) for row in rows if len(row) == 5 and row[0]]


def _limit(word: str) -> str:
    return "" if word in _NONE else word
