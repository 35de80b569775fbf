"""lock.json says what a run was made of, holds no secret, and gets its hosts once they are known."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.images import registry
from launcher.planning import interpreter
from launcher.runs import differences, lock, record
from tests import samples

if TYPE_CHECKING:
    from launcher.planning import plan

SECRET = "hf_" + "notforanyoneseyes"


def prepared(tmp_path: Path, scheduler: str = "local", **fields: object) -> plan.Plan:
    """A plan whose folder is there, with plan.json and lock.json."""
    cluster = fields.pop("cluster", {})
    assert isinstance(cluster, dict)
    decided = samples.decided(dict(fields), **cluster)
    site = decided.workspace._replace(runs=str(tmp_path / "runs"), python=sys.executable)
    reserved = record.reserve(decided._replace(workspace=site))
    record.prepare(reserved, {})
    lock.write(reserved, scheduler)
    return reserved


def read(made: plan.Plan) -> dict[str, Any]:
    return lock.read(Path(made.folder))


def test_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    data = {"data": [str(tmp_path / "corpus.txt"), "/not/here"]}
    locked = read(prepared(tmp_path, args=data))
    assert locked["seeds"] == {"args.seed": 0}, "the workload's own, too"
    assert locked["packages"]["pytest"] == pytest.__version__
    assert locked["python"] == {"path": sys.executable, "version": sys.version.split()[0]}
    here, gone = locked["data"]
    assert (here["named"], here["fingerprint"]["hashed"]) == ("args.data", "all")
    assert gone["fingerprint"] is None
    assert locked["image"] is None


def test_each_source_of_a_mixture_is_in_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("text")
    data = [{"path": str(tmp_path / name), "weight": weight} for name, weight in (("a", 0.7), ("b", 0.3))]
    one = prepared(tmp_path, args={"data": data})
    entries = read(one)["data"]
    assert [(e["named"], e["path"]) for e in entries] == [("args.data", d["path"]) for d in data]
    assert all(entry["fingerprint"]["bytes"] == 4 for entry in entries)
    (tmp_path / "b").write_text("other")
    data[0]["weight"] = 0.5
    other = prepared(tmp_path, args={"data": data})
    told = differences.between(*(differences.read(Path(made.folder)) for made in (one, other)))
    assert {difference.what for difference in told} == {"args.data", f"data args.data {tmp_path / 'b'}"}


def test_a_cache_is_named_and_whatever_runs_add_to_it_is_no_change(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cluster = {"data_cache": str(cache)}
    one = prepared(tmp_path, cluster=cluster)
    place = {"path": str(cache), "host": str(cache), "fingerprint": None}
    assert read(one)["data"] == [{"named": "environment.DATA_CACHE", **place}]
    (cache / "more").write_text("tokens")
    assert differences.between(*[differences.read(Path(one.folder))] * 2) == []
    same = prepared(tmp_path, cluster=cluster)
    assert differences.between(*(differences.read(Path(made.folder)) for made in (one, same))) == []
    chosen = prepared(tmp_path, cluster=cluster, args={"data-cache": str(cache)})
    assert read(chosen)["data"] == [{"named": "args.data-cache", **place}]
    elsewhere = prepared(tmp_path, cluster={"data_cache": str(tmp_path / "elsewhere")})
    told = differences.between(*(differences.read(Path(made.folder)) for made in (one, elsewhere)))
    assert {d.what for d in told} == {"environment.DATA_CACHE", "cluster.data_cache"}


def test_no_secret_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "CUDA_API_KEY", "TRITON_THING"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    env = {"HF_HUB_TOKEN": {"secret": "hf-token"}, "OTHER_TOKEN": SECRET, "PLAIN": "value of a variable"}
    made = prepared(tmp_path, env=env)
    text = (Path(made.folder) / lock.FILE).read_text()
    assert SECRET not in text
    assert "value of a variable" not in text
    assert "HF_TOKEN" not in read(made)["environment"]
    assert "OMP_NUM_THREADS" in read(made)["environment"]
    assert read(made)["secrets"] == {"HF_HUB_TOKEN": "hf-token, key HF_HUB_TOKEN"}


def test_an_image_has_the_digest_that_its_registry_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "inspect", lambda name: ({"Digest": f"sha256:{len(name)}"}, ""))
    image = "registry.example.com/team/train:1"
    locked = read(prepared(tmp_path, "kubernetes", cluster={"image": image}))
    assert locked["image"] == {"name": image, "ours": False, "digest": f"sha256:{len(image)}"}
    assert (locked["python"], locked["packages"]) == (None, {})
    pinned = "registry.example.com/train@sha256:" + "a" * 64
    assert registry.digest(pinned) == "sha256:" + "a" * 64


def test_a_mounted_file_is_looked_at_where_the_host_has_it(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    cluster = {
        "mounts": {"/data": str(tmp_path)},
        "image": "registry.example.com/x:1",
        "slurm": {"container": "pyxis"},
    }
    locked = read(prepared(tmp_path, "slurm", args={"data": ["/data/corpus.txt"]}, cluster=cluster))
    (entry,) = locked["data"]
    assert entry["path"] == "/data/corpus.txt"
    assert entry["host"] == str(tmp_path / "corpus.txt")
    assert entry["fingerprint"]["bytes"] == 4


def test_hosts_and_drivers_are_added_once_they_are_known(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    folder = Path(made.folder)
    assert lock.complete(folder)["hosts"] == []
    (folder / "hostfile-7-0").write_text("gpu-2 slots=2\ngpu-1 slots=2\n")
    (folder / "hosts").mkdir()
    (folder / "hosts" / "0.json").write_text(json.dumps({"host": "gpu-2", "driver": "550.54"}))
    (folder / "hosts" / "1.json").write_text("torn")
    assert lock.complete(folder)["hosts"] == ["gpu-2", "gpu-1"]
    assert lock.read(folder)["drivers"] == {"gpu-2": "550.54"}


def test_a_run_without_a_lock_has_none(tmp_path: Path) -> None:
    assert lock.complete(tmp_path, ["a"]) == {}
    for text in ("[]", "torn", "[" * 100_000):
        (tmp_path / lock.FILE).write_text(text)
        assert lock.read(tmp_path) == {}


@pytest.mark.parametrize(
    "broken",
    [
        {"code": {"program": "x"}, "image": {"file": "x"}},
        {"data": ["x", {"fingerprint": "x"}], "seeds": 3, "hosts": 5},
        {"python": "x", "packages": [], "drivers": 1, "spellings": "x", "secrets": 0, "environment": []},
    ],
)
def test_what_others_wrote_into_it_breaks_nothing(broken: dict[str, Any], tmp_path: Path) -> None:
    plan = prepared(tmp_path)
    whole = read(plan)
    (Path(plan.folder) / lock.FILE).write_text(json.dumps(broken))
    assert isinstance(list(differences.locks(read(plan), whole)), list)
    assert lock.complete(Path(plan.folder), ["a"]).get("hosts", ["a"]) == ["a"]


def test_an_interpreter_that_does_not_start_has_no_packages(tmp_path: Path) -> None:
    assert interpreter.installed(str(tmp_path / "absent")) == ("", {})
    assert interpreter.installed("python3") == ("", {}), (
        "a name that the hosts know is none of this machine's"
    )
    assert registry.local_digest(str(tmp_path / "no-engine"), "image") == ""


def test_a_commands_files_and_the_checkpoint_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("text")
    saved = tmp_path / "saved" / "checkpoints"
    (saved / "step-1").mkdir(parents=True)
    words = ["python", "train.py", str(tmp_path / "corpus.txt"), f"--out={tmp_path}/saved", "$RUN_DIR/x"]
    made = prepared(tmp_path, command=words, checkpoint={"resume": str(saved)})
    named = {entry["named"]: entry for entry in read(made)["data"]}
    assert set(named) == {"checkpoint.resume", "command.2", "command.3"}
    assert all(entry["fingerprint"] for entry in named.values())
    (saved / "step-1" / "weights").write_text("other")
    again = prepared(tmp_path, command=words, checkpoint={"resume": str(saved)})
    told = {difference.what for difference in differences.locks(read(made), read(again))}
    assert told == {f"data checkpoint.resume {saved}", f"data command.3 {tmp_path}/saved"}


@pytest.mark.parametrize(
    ("one", "other", "told"), [("a" * 12, "b" * 12, ["code.docker"]), ("a" * 12, "", [])]
)
def test_an_image_of_unknown_programs_is_no_difference(one: str, other: str, told: list[str]) -> None:
    locks = [{"code": {"docker": docker, "commit": "c"}} for docker in (one, other)]
    assert [difference.what for difference in differences.locks(*locks)] == told


def test_a_lock_is_json_whatever_hosts_and_paths_are_called(tmp_path: Path) -> None:
    told = {"hosts": ["a\ud800"], "python": {"path": os.fsdecode(b"/caf\xe9/python")}}
    (tmp_path / lock.FILE).write_bytes(lock.text(told).encode())
    assert lock.read(tmp_path) == told
