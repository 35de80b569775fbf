"""What a job tokenizes before it trains: said, or refused with the command that prepares first."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from launcher import entry
from launcher.cli import main
from launcher.runs import prepared
from launcher.submission import texts, tokenizing
from tests import commandline, samples

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.plan import Plan

GPU: dict[str, Any] = {"gpu": "h100-80gb", "slots": 8, "cpus": 100, "fabric": "tcp"}


def text(folder: Path, size: float, name: str = "a.txt") -> str:
    """A file of so many bytes that takes no room."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("wb") as file:
        file.truncate(int(size))
    return str(folder / name)


def decided(
    data: list[Any], cluster: dict[str, Any] | None = None, wait: Any = None, cache: Any = None, **args: Any
) -> Plan:
    args = {"tokenizer": "/tok", "data-wait": wait, "data-cache": cache, **args}
    given = {name: value for name, value in args.items() if value is not None}
    fields = {"model": "gpt2", "nodes": 2, "args": {"data": data, **given}}
    return samples.decided(fields, **(GPU if cluster is None else cluster))


def look(plan: Plan, *earlier: Plan) -> tokenizing.Wait:
    wait = tokenizing.look(plan, earlier)
    assert wait
    return wait


def test_seconds_are_bytes_by_rate_and_processes(tmp_path: Path) -> None:
    wait = look(decided([text(tmp_path, 400e9)]))
    assert (wait.size, wait.processes, wait.gpus) == (400e9, 200, 16)
    assert wait.seconds == 400e9 / (tokenizing.RATE * 200)
    assert wait.gpu_hours == wait.seconds * 16 / 3600
    assert "400 GB of text are tokenized first" in wait.text
    assert "16 GPUs wait" in wait.text


def test_no_more_processes_than_there_is_work(tmp_path: Path) -> None:
    assert look(decided([text(tmp_path, 3e6)])).processes == 3
    assert look(decided([text(tmp_path, 10)])).text == "", "not worth a line"


def test_what_counts_as_text(tmp_path: Path) -> None:
    names = ("a.txt", "b.jsonl.gz", "c.parquet", "d.md", "e.png", "f.bin")
    for name in names:
        text(tmp_path / "folder", 1e9, name)
    factor = 1 + texts._PACKED[".gz"] + texts._PACKED[".parquet"] + 1
    assert look(decided([str(tmp_path / "folder")])).size == factor * 1e9
    assert look(decided([str(tmp_path / "folder" / "*.txt")])).size == 1e9
    assert look(decided([{"path": str(tmp_path / "folder" / "d.md"), "weight": 1}])).size == 1e9
    assert look(decided(["builtin"])).text == ""


def test_bytes_are_faster_than_bpe(tmp_path: Path) -> None:
    data = [text(tmp_path, 1e12)]
    slow, fast = look(decided(data)), look(decided(data, tokenizer="bytes"))
    assert slow.seconds / fast.seconds == tokenizing.RATE_OF_BYTES / tokenizing.RATE
    assert look(decided(data, tokenizer="auto")).seconds == fast.seconds, "a named architecture reads bytes"


def test_a_tokenizer_of_its_own_is_trained_first(tmp_path: Path) -> None:
    assert tokenizing.TRAINED_ON == entry.module("workloads.tokenizer").TRAINED_ON
    for size, trained in ((8e6, 8e6), (1e12, tokenizing.TRAINED_ON)):
        data = [text(tmp_path, size)]
        more = look(decided(data, tokenizer="bpe:512")).seconds - look(decided(data)).seconds
        assert more == pytest.approx(trained / tokenizing.TRAINING_RATE)


def test_a_path_is_one_source_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text(tmp_path / "data", 1e12)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    shared = {**GPU, "data_cache": str(tmp_path / "cache")}
    fields = {
        "workload": "prepare",
        "model": "gpt2",
        "args": {"data": [f"{tmp_path}/data"], "tokenizer": "/tok"},
    }
    prepare = samples.decided(fields, **shared)
    for spelling in (
        f"{tmp_path}/data/",
        f"{tmp_path}/./data",
        f"{tmp_path}/x/../data",
        "data",
        "./data",
        "link",
    ):
        plan = decided([spelling], {**shared, "data_cache": f"{tmp_path}/./cache/"}, tokenizer="/tok/")
        assert tokenizing.look(plan, [prepare]) is None, spelling
    assert look(decided([f"{tmp_path}/data/*"], shared), prepare).size == 1e12, "a glob is another source"


def test_what_cannot_be_seen_is_said_to_be_unknown() -> None:
    wait = look(decided(["/not/here", "hf:wikitext"]))
    assert wait.unseen == ("/not/here", "hf:wikitext")
    assert "/not/here, hf:wikitext cannot be seen from here" in wait.text
    assert not wait.refused
    assert look(decided(["/not/here"], {"slots": 2})).text == "", "nothing waits that costs"


def test_tokens_need_no_time(tmp_path: Path) -> None:
    text(tmp_path / "pair", 1e12, "a.bin")
    text(tmp_path / "pair", 1e9, "a.idx")
    for name in ("pair", "pair/a", "pair/a.bin"):
        wait = look(decided([str(tmp_path / name)]))
        assert (wait.size, wait.unseen, wait.text) == (0, (), "")


def test_a_mount_is_looked_at_where_the_host_has_it(tmp_path: Path) -> None:
    text(tmp_path, 1e9)
    cluster = {**GPU, "mounts": {"/data": str(tmp_path)}, "image": "registry.example.com/x:1"}
    assert look(decided(["/data/a.txt"], cluster)).size == 1e9


def test_the_limit(tmp_path: Path) -> None:
    data = [text(tmp_path, 400e9)]  # 17 minutes
    assert look(decided(data)).limit == 600
    assert look(decided(data)).refused
    assert not look(decided(data, wait=30)).refused
    assert look(decided(data, wait=0)).refused
    slow = {"slots": 2, "cpus": 10}
    assert look(decided([text(tmp_path, 50e9)], slow)).limit == 3600, "when ranks give up"
    assert not look(decided([text(tmp_path, 50e9)], slow)).refused


def test_other_workloads_tokenize_nothing(tmp_path: Path) -> None:
    for fields in ({"workload": "./train.py"}, {"workload": "generate"}, {"workload": "allreduce"}):
        assert tokenizing.look(samples.decided({"args": {}, **fields}, **GPU)) is None
    prepare = samples.decided({"workload": "prepare", "args": {"data": [text(tmp_path, 1e13)]}}, **GPU)
    assert look(prepare).gpus == 0
    assert not look(prepare).refused, "it is what the job is for"


def test_a_stage_before_may_prepare_it(tmp_path: Path) -> None:
    data = [text(tmp_path, 1e12)]
    fields = {"workload": "prepare", "model": "gpt2", "args": {"data": data, "tokenizer": "/tok"}}
    prepare = samples.decided(fields, **GPU)
    for folder in (prepare.folder, f"/runs/{prepare.id}"):
        after = decided(data, cache=f"{folder}/data")
        assert tokenizing.look(after, [prepare]) is None
        assert look(after).refused
        assert look(decided(data, cache=f"{folder}/data", tokenizer="/other"), prepare).refused
    assert look(decided(data), prepare).refused, "it looks elsewhere"
    shared = {**GPU, "data_cache": "/shared/cache"}
    assert tokenizing.look(decided(data, shared), [samples.decided(fields, **shared)]) is None
    assert look(decided(data, shared), decided(data, shared)).refused, "not a stage that prepares"


def test_tokens_that_are_there_are_found(tmp_path: Path) -> None:
    data: list[Any] = [text(tmp_path, 1e12), {"path": text(tmp_path, 1e12, "b.txt"), "weight": 1}]
    os.utime(tmp_path / "a.txt", (1e9, 1e9))
    os.utime(tmp_path / "b.txt", (1e9, 1e9))
    folder = tmp_path / "cache" / "0123456789abcdef"
    folder.mkdir(parents=True)
    facts = {
        "sources": [data[0], json.dumps(data[1], separators=(",", ":"))],
        "tokenizer": "/tok",
        "created": "2026-11-25T12:00:00Z",
    }
    cluster = {**GPU, "data_cache": str(tmp_path / "cache")}

    def ready(**changes: Any) -> bool:
        (folder / "corpus.json").write_text(json.dumps({**facts, **changes}))
        return tokenizing.look(decided(data, cluster)) is None

    assert ready()
    assert ready(sources=[data[0], json.dumps({**data[1], "weight": 0.25})]), "a weight makes no other tokens"
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "cache" / "0123456789abcdef" / "corpus.1.reader").write_text("")  # touched right now
    for spelling in (f"{tmp_path}/./a.txt", f"{tmp_path}//a.txt", str(tmp_path / "link" / "a.txt")):
        assert ready(sources=[spelling, facts["sources"][1]], tokenizer="/tok/"), spelling
    assert not ready(tokenizer="/other")
    assert not ready(sources=[data[0]])
    assert not ready(created="1999-01-01T00:00:00Z"), "the text has changed since"
    assert not ready(created="soon")
    (folder / "corpus.json").unlink()
    assert tokenizing.look(decided(data, cluster)) is not None


# The command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    (tmp_path / "site.yaml").write_text(
        "gpu: h100-80gb\nslots: 8\ncpus: 100\nfabric: tcp\nkubernetes: {runs: r}\n"
    )
    text(tmp_path / "my text", 1e12)
    data = json.dumps(str(tmp_path / "my text"))
    (tmp_path / "job.yaml").write_text(
        f"name: demo\ncluster: site.yaml\nmodel: gpt2\nbatch: {{micro: 1}}\nargs: {{data: [{data}], tokenizer: gpt2}}\n"
    )
    return tmp_path


@pytest.mark.parametrize("verb", ["plan", "slurm", "kubernetes", "local"])
@pytest.mark.heavy
def test_too_long_a_wait_is_refused_with_the_command_that_prepares(
    verb: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [verb, "job.yaml", "--cluster", "site.yaml"] + (["--dry-run"] if verb != "plan" else [])
    assert main.main(words) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "job.yaml:5:8: args.data: 1.0 TB of text are tokenized first, about 1 h 23 min with 100"
    )
    assert "the limit is 10 min 00 s" in err
    told = shlex.split(err.split("`")[1].replace("DIR", str(here / "cache")))
    assert told[:3] == ["python", "-m", "launcher"]
    assert told[3] == ("slurm" if verb == "plan" else verb)
    assert main.main([*told[3:], "--dry-run"] + (["--set", "nodes=1"] if verb == "local" else [])) == 0
    assert "workloads.prepare" in capsys.readouterr().out
    assert main.main([*words, "--set", "args.data-wait=84"]) == 0
    out, err = capsys.readouterr()
    assert "note: args.data: 1.0 TB of text" in err
    assert out


def test_force_only_warns(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["slurm", "job.yaml", "--dry-run", "--force"]) == 0
    assert "warning: job.yaml:5:8: args.data: 1.0 TB" in capsys.readouterr().err


@pytest.mark.deepspeed
@pytest.mark.parametrize("shared", [False, True])
def test_a_pipeline_trains_on_what_it_prepared(shared: bool, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    words = ["local", "jobs/smoke/llama-corpus.yaml", "--wait", "--set", "pretrain.args.max-steps=2"]
    words += ["--set", f"cluster.data_cache={cache}"] if shared else []
    commandline.launcher(words, {**os.environ, "LAUNCHER_RUNS": str(tmp_path / "runs")})
    (prepare,), (pretrain,) = ((tmp_path / "runs").glob(f"smoke-{name}-*") for name in ("prepare", "zero3"))
    lines = {run: (run / "metrics.jsonl").read_text() for run in (prepare, pretrain)}
    assert '"tokenized"' in lines[prepare]
    assert '"tokenized"' not in lines[pretrain], "it found the tokens"
    assert (prepare / "data").is_symlink() == shared
    (made,) = prepared.listed([cache if shared else prepare / "data"])
    assert (made.state, made.sources, made.tokenizer) == ("finished", ("builtin",), "bpe:512")
    assert prepared.find([made.folder.parent], made.key[:4]).tokens == made.tokens
    prepared.remove(made)
