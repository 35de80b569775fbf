"""Slurm's commands asked through stand-ins: what is missing, old, slow or refused is said, never guessed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.discovery import asking
from launcher.discovery import slurm_output as output
from launcher.discovery.facts import Gpus
from tests.launcher.discovery import answers

if TYPE_CHECKING:
    from pathlib import Path

SAID = answers.SLURM["23.11"]
SCRIPTS = {
    "sinfo": 'case "$*" in *--version*) cat "$SAID/version";; *) cat "$SAID/sinfo";; esac',
    "scontrol": 'case "$*" in *config*) cat "$SAID/config";; *) cat "$SAID/partition";; esac',
    "sacctmgr": 'case "$*" in *assoc*) cat "$SAID/accounts";; *) cat "$SAID/qos";; esac',
    "srun": "echo '      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH'",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's commands, the only ones on PATH beside the system's own."""
    folder, said = tmp_path / "bin", tmp_path / "said"
    folder.mkdir()
    said.mkdir()
    for name, text in SAID.items():
        (said / name).write_text(text)
    for name, body in SCRIPTS.items():
        put(folder, name, body)
    for name in ("cat", "sh", "sleep"):
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SAID", str(said))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    return folder


def put(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def discover(capsys: Any, *words: str) -> tuple[int, str, str]:
    code = main.main(["cluster", "discover", *words])
    return (code, *capsys.readouterr())


def test_what_the_commands_say_becomes_the_file(tools: Path, capsys: Any) -> None:
    code, out, err = discover(capsys, "--partition", "gpu")  # slurm is all that is here
    assert (code, err) == (0, "")
    assert 'gpu: "h100-80gb"' in out
    assert "# Slurm 23.11.10, cluster h100" in out
    assert "# container: pyxis   srun has --container-image" in out
    assert "urgent, walltime 04:00:00, a job node=2, all together gres/gpu=128" in out


@pytest.mark.heavy
def test_what_is_refused_is_a_comment_and_a_line(
    tools: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking.ask, "__defaults__", (0.5, "", ()))
    put(
        tools,
        "sacctmgr",
        "echo 'sacctmgr: error: slurmdbd: not running with persistent connection' >&2; exit 1",
    )
    put(tools, "srun", "sleep 60")
    (tools / "scontrol").unlink()
    code, out, err = discover(capsys, "slurm")
    assert code == 0
    assert err.splitlines() == [
        "not learned: the configuration: scontrol is not on PATH",
        "not learned: limits of partitions: scontrol is not on PATH",
        "not learned: whether srun has Pyxis: srun did not answer within 0.5 s",
    ]
    assert "# NOT LEARNED, because it was refused or did not answer:" in out
    assert "whether there are accounts is not known" in out
    put(tools, "scontrol", SCRIPTS["scontrol"])
    code, out, err = discover(capsys, "slurm")
    assert "not learned: accounts: sacctmgr: error: slurmdbd: not running" in err
    assert "partition: " in out


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (None, 6, "there is no Slurm here: sinfo is not on PATH; run it on a login host"),
        (
            "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1",
            4,
            "Unable to contact",
        ),
        ("exit 0", 4, "sinfo shows no hosts"),
        ("echo 'gpu|many|4|x|y'", 4, "sinfo shows no hosts"),
    ],
)
def test_without_an_answer_there_is_no_file(
    body: str | None, code: int, says: str, tools: Path, tmp_path: Path, capsys: Any
) -> None:
    (tools / "sinfo").unlink()
    if body:
        put(tools, "sinfo", body)
    file = tmp_path / "new.yaml"
    found, out, err = discover(capsys, "slurm", "-o", str(file))
    assert (found, out, file.exists()) == (code, "", False)
    assert says in err


def test_a_controller_that_is_silent_refuses_no_job(tools: Path, capsys: Any) -> None:
    for name in ("sbatch", "scontrol"):
        put(tools, name, f"echo '{name}: error: Unable to contact slurm controller' >&2; exit 1")
    code = main.main(["check", "jobs/quickstart.yaml", "--live", "--on", "slurm"])
    err = capsys.readouterr().err
    assert code == 4
    assert "Unable to contact slurm controller; `scontrol ping` says whether slurmctld answers" in err
    assert "would refuse" not in err


def test_a_file_that_is_there_is_kept(tools: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("slots: 3\n")
    code, _, err = discover(capsys, "slurm", "-o", str(file))
    assert (code, file.read_text()) == (2, "slots: 3\n")
    assert "exists; --update shows what would change, --force overwrites it" in err
    code, out, _ = discover(capsys, "slurm", "-o", str(file), "--update")
    assert (code, file.read_text()) == (1, "slots: 3\n")
    assert "-slots: 3" in out
    assert "+slots: 8" in out
    assert discover(capsys, "slurm", "-o", str(file), "--force")[0] == 0
    assert discover(capsys, "slurm", "-o", str(file), "--update") == (0, "", "")
    assert discover(capsys, "slurm", "--update")[0] == 2
    code, _, err = discover(capsys, "slurm", "-o", str(tmp_path / "no" / "where.yaml"))
    assert (code, "cannot be written" in err) == (2, True)


def test_no_scheduler_and_two(tools: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "none").write_text("{}")
    code, _, err = discover(capsys)
    assert (code, "say which" in err) == (2, True)
    (tmp_path / "none").unlink()
    (tools / "sinfo").unlink()
    code, _, err = discover(capsys)
    assert (code, "neither Slurm (sinfo) nor a kubeconfig" in err) == (6, True)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:8", [Gpus("", 8)]),
        ("gpu:h100:8(S:0-1)", [Gpus("h100", 8)]),
        ("gpu:a100:4(S:0,2),gpu:v100:2,nvme:1", [Gpus("a100", 4), Gpus("v100", 2)]),
        ("gpu", [Gpus("", 1)]),
        ("gpu:tesla", [Gpus("tesla", 1)]),
        ("shard:8,mps:100", []),
        ("(null)", []),
        ("", []),
    ],
)
def test_the_gpus_of_a_gres(gres: str, gpus: list[Gpus]) -> None:
    assert output.gpus(gres) == gpus


def test_accounts_of_this_cluster_alone(tools: Path, capsys: Any) -> None:
    """A database of several clusters has accounts of a user that this one does not know."""
    put(
        tools,
        "sacctmgr",
        'case "$*" in *qos*) ;; *cluster=h100*) echo nlp ;; *) printf "nlp\\nother\\n" ;; esac',
    )
    assert '  account: "nlp"\n' in discover(capsys, "slurm")[1]


def test_a_thousand_processors(tools: Path, capsys: Any) -> None:
    """sinfo shortens them, unless it is told not to."""
    put(
        tools,
        "sinfo",
        'case "$*" in *noconvert*) echo "big|2|1024|64000|(null)" ;; *) echo "big|2|1K|64000|(null)" ;; esac',
    )
    assert "cpus: 1024\n" in discover(capsys, "slurm")[1]


def test_what_a_site_s_plugin_says_is_told_with_the_refusal(tools: Path, capsys: Any) -> None:
    """Slurm's own last line says nothing then: it is job_submit.lua that wants something."""
    said = (
        "sbatch: error: this site wants an account: --account=PROJECT\nallocation failure: Unspecified error"
    )
    put(tools, "sbatch", f"printf '{said}\n' >&2; exit 1")
    code = main.main(["check", "jobs/quickstart.yaml", "--live", "--on", "slurm"])
    err = capsys.readouterr().err
    assert code == 4
    assert "sbatch would refuse it: this site wants an account: --account=PROJECT; Unspecified error" in err


def test_memory_that_the_site_has_not_told(tools: Path, capsys: Any) -> None:
    """RealMemory is 1 then, and every job would be refused for a host of 1 MiB."""
    put(tools, "sinfo", 'case "$*" in *version*) ;; *) echo "all|2|64|1|gpu:4" ;; esac')
    code, out, _ = discover(capsys, "slurm")
    assert code == 0
    assert "\n# memory: " in out
    assert "\nmemory: " not in out
