"""Limits of QOS and accounts, as slurmctld tells them, against what a job asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.discovery import facts, slurm_limits
from launcher.discovery.asking import Answer
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

# Slurm 24.11.5: scontrol --oneliner show assoc_mgr
QOS = (
    "Current Association Manager state\nQOS Records\nQOS=short(2) UsageRaw=0.000000 GrpJobs=N(0) GrpJobsAccrue=N(0)"
    " GrpSubmitJobs=N(0) GrpWall=N(0.00) GrpTRES=cpu=N(0),mem=N(0),energy=N(0),node=4(3),billing=N(0),gres/gpu=32(24),"
    "gres/gpumem=N(0) GrpTRESMins=cpu=N(0),node=N(0) MaxWallPJ=10 MaxTRESPJ=node=2 MaxTRESPN= MaxTRESMinsPJ="
    " MinPrioThresh=  MinTRESPJ= PreemptMode=OFF Priority=0 Account Limits=No Accounts User Limits=No Users\n"
)
ACCOUNT = (
    "Association Records\n"
    "ClusterName=test Account=nlp UserName= Partition= Priority=0 ID=1 GrpJobs=2(2) GrpJobsAccrue=N(0)"
    " GrpTRES=cpu=N(0),node=N(0) MaxJobs= MaxWallPJ= MaxTRESPJ=\n"
    "ClusterName=test Account=nlp UserName=ann(7) Partition= Priority=0 ID=2 GrpJobs=N(0)"
    " GrpTRES=cpu=N(0) MaxJobs=0(0) MaxWallPJ=0 MaxTRESPJ=gres/gpu=8\n"
)


def test_records_are_read() -> None:
    (qos,) = slurm_limits.read(QOS)
    assert qos == slurm_limits.Limits("QOS short", 10, {"node": 2}, {"node": (4, 3), "gres/gpu": (32, 24)})
    whole, own = slurm_limits.read(ACCOUNT)
    assert (whole.title, whole.wall, whole.group) == ("account nlp", None, {"jobs": (2, 2)})
    assert (own.title, own.wall, own.job) == ("account nlp of user ann", None, {"gres/gpu": 8})
    assert slurm_limits.read("") == []


def said(
    monkeypatch: pytest.MonkeyPatch, job: dict[str, Any], answers: dict[str, str], **slurm: Any
) -> list[str]:
    def ask(words: Sequence[str]) -> Answer:
        text = next((text for word, text in answers.items() if word in words), None)
        return Answer("", "scontrol: access denied") if text is None else Answer(text)

    monkeypatch.setattr(slurm_limits, "ask", ask)
    plan = samples.decided(
        {"model": "gpt2", **job}, gpu="h100-80gb", slots=8, fabric="infiniband", slurm=slurm
    )
    partition = facts.Partition("gpu", qos="short" if "qos=short" in answers else "")
    return [problem.message for problem in slurm_limits.beyond(plan, partition)]


def test_what_is_beyond_a_limit_or_finds_it_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition's QOS and the job's are asked once where they are the same."""
    found = said(monkeypatch, {"nodes": 3, "walltime": "1h"}, {"qos=short": QOS}, qos="short")
    assert found == [
        "walltime 01:00:00 is more than the 00:10:00 of QOS short",
        "QOS short: a job may have node 2, and this one asks for 3",
        "QOS short: node 3 of 4 are used, and the job asks for 3",
        "QOS short: gres/gpu 24 of 32 are used, and the job asks for 24",
    ]
    found = said(monkeypatch, {"nodes": 5, "walltime": "5m"}, {"qos=short": QOS})
    assert "QOS short: node 4 is all that its jobs may have, and this one asks for 5" in found
    found = said(monkeypatch, {"nodes": 2, "walltime": "5m"}, {"accounts=nlp": ACCOUNT}, account="nlp")
    assert found == [
        "account nlp: jobs 2 of 2 are used, and the job asks for 1",
        "account nlp of user ann: a job may have gres/gpu 8, and this one asks for 16",
    ]


def test_a_range_of_hosts_asks_for_its_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"qos=short": QOS.replace("node=4(3)", "node=4(0)").replace("gres/gpu=32(24)", "gres/gpu=32(0)")}
    job = {"walltime": "5m", "batch": {"micro": 1, "global": 96}}
    assert said(monkeypatch, {**job, "nodes": {"min": 2, "max": 6}}, free) == []
    (found,) = said(monkeypatch, {**job, "nodes": {"min": 3, "max": 6}}, free)
    assert found == "QOS short: a job may have node 2, and this one asks for 3"


def test_what_is_within_them_or_not_told_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, {"nodes": 1, "walltime": "5m"}, {"qos=short": QOS}) == []
    assert said(monkeypatch, {"nodes": 9, "walltime": "9h"}, {}, qos="other", account="nlp") == []
