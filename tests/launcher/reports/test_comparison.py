"""`compare` names every single change between two runs, and nothing else, and the step at which their losses part."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.reports import comparison
from launcher.runs import lock, record
from launcher.runs.differences import Difference
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan

    Edit = Callable[[Path], None]

TOKEN = "hf_" + "notforanyoneseyes"
JOB: dict[str, Any] = {
    "nodes": 2,
    "deepspeed": "zero1",
    "precision": "fp32",
    "args": {"seed": 1, "lr": 1e-4},
    "env": {"NCCL_DEBUG": "WARN", "HF_TOKEN": {"secret": "hf-token"}},
}


class Bench:
    """A folder of two runs of one job; each is what `submit` leaves, with hosts and a loss as ranks write them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        (folder / "corpus.txt").write_text("text to train on\n")
        (folder / "own.py").write_text("print('one')\n")

    def fields(self, **job: Any) -> dict[str, Any]:
        args = {"data": [str(self.folder / "corpus.txt")], **JOB["args"], **job.pop("args", {})}
        return {**JOB, **job, "args": args, "env": {**JOB["env"], **job.pop("env", {})}}

    def run(self, job: dict[str, Any] | None = None, **cluster: Any) -> Path:
        decided = samples.decided(self.fields(**(job or {})), **cluster)
        decided = decided._replace(id="demo", workspace=decided.workspace._replace(runs=str(self.runs)))
        reserved = record.reserve(decided)
        self.write(reserved)
        return Path(reserved.folder)

    def write(self, reserved: Plan) -> None:
        folder = Path(reserved.folder)
        record.prepare(reserved, {"ds_config.json": json.dumps(reserved.config)})
        (folder / "code.json").write_text('{"sha256": "a"}')
        lock.write(reserved, "slurm", "a" * 64)
        folder.joinpath("hostfile-7-0").write_text("gpu-1 slots=2\ngpu-2 slots=2\n")
        (folder / "hosts").mkdir()
        for index, host in enumerate(("gpu-1", "gpu-2")):
            fact = {"host": host, "driver": "550.54"}
            (folder / "hosts" / f"{index}.json").write_text(json.dumps(fact))
        submitted = record.prepared(folder, "slurm")
        record.record(submitted, str(len(folder.name)), 1.0)


def locked(edit: Callable[[dict[str, Any]], None]) -> Edit:
    """A change of what lock.json says, as another machine or day would have written it."""

    def change(folder: Path) -> None:
        data = lock.read(folder)
        edit(data)
        (folder / lock.FILE).write_text(lock.text(data))

    return change


def hosts(text: str) -> Edit:
    def change(folder: Path) -> None:
        (folder / "hostfile-7-0").write_text(text)

    return change


def config(folder: Path) -> None:
    path = folder / "ds_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "wall_clock_breakdown": True}))


def driver(folder: Path) -> None:
    (folder / "hosts" / "1.json").write_text(json.dumps({"host": "gpu-2", "driver": "570.86"}))


# Fields of the job, of the cluster, or files of the second run → all that is named.
OF_THE_JOB: dict[str, tuple[dict[str, Any], set[str]]] = {
    "seed": ({"args": {"seed": 2}}, {"args.seed"}),
    "learning rate": ({"args": {"lr": 2e-4}}, {"args.lr"}),
    "new option": ({"args": {"max-steps": 7}}, {"args.max-steps"}),
    "variable": ({"env": {"NCCL_DEBUG": "INFO"}}, {"environment.NCCL_DEBUG"}),
    "new variable": ({"env": {"IT": f"is $(here) {TOKEN}"}}, {"environment.IT"}),
    "secret": ({"env": {"HF_TOKEN": {"secret": "other"}}}, {"secrets.HF_TOKEN"}),
    "model": ({"model": "tiny-llama"}, {"job.model"}),
    "walltime": ({"walltime": "3h"}, {"job.walltime"}),
    "checkpoints": ({"checkpoint": {"every": 7}}, {"job.checkpoint.every"}),
    "restarts": ({"restarts": 0}, {"job.restarts"}),
    "key of DeepSpeed": (
        {"deepspeed": {"preset": "zero1", "gradient_clipping": 0.5}},
        {"deepspeed.gradient_clipping"},
    ),
}
OF_THE_CLUSTER: dict[str, tuple[dict[str, Any], set[str]]] = {
    "fabric": ({"fabric": "tcp"}, {"cluster.fabric"}),
    "image": ({"image": "registry.example.com/x:2"}, {"image"}),
    "partition": ({"slurm": {"partition": "low"}}, {"cluster.slurm.partition"}),
}
OF_FILES: dict[str, tuple[Edit, set[str]]] = {
    "version": (locked(lambda data: data["packages"].update(torch="2.8")), {"packages.torch"}),
    "interpreter": (locked(lambda data: data["python"].update(version="3.13")), {"python.version"}),
    "launcher": (locked(lambda data: data.update(launcher="9")), {"launcher"}),
    "our programs": (locked(lambda data: data["code"].update(docker="0")), {"code.docker"}),
    "commit": (locked(lambda data: data["code"].update(commit="0")), {"code.commit"}),
    "digest of a tag": (
        locked(lambda data: data.update(image={"name": "x", "digest": "sha256:1"})),
        {"image.digest"},
    ),
    "shell variable": (locked(lambda data: data["environment"].update(OMP_X="1")), {"shell.OMP_X"}),
    "order of hosts": (hosts("gpu-2 slots=2\ngpu-1 slots=2\n"), {"hosts"}),
    "another host": (hosts("gpu-1 slots=2\ngpu-9 slots=2\n"), {"hosts", "drivers.1"}),
    "driver": (driver, {"drivers.1"}),
    "configuration by hand": (config, {"deepspeed.wall_clock_breakdown"}),
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def named(one: Path, other: Path) -> set[str]:
    return {difference.what for difference in comparison.read({"a": one, "b": other}).differences}


def test_of_two_runs_of_one_plan_nothing_differs(bench: Bench) -> None:
    assert named(bench.run(), bench.run()) == set()


@pytest.mark.parametrize("change", OF_THE_JOB)
def test_a_change_of_the_job_is_named(change: str, bench: Bench) -> None:
    fields, whats = OF_THE_JOB[change]
    assert named(bench.run(), bench.run(fields)) == whats


@pytest.mark.parametrize("change", OF_THE_CLUSTER)
def test_a_change_of_the_cluster_is_named(change: str, bench: Bench) -> None:
    fields, whats = OF_THE_CLUSTER[change]
    told = named(bench.run(), bench.run(**fields))
    assert {what for what in told if not what.startswith("environment.")} == whats


@pytest.mark.parametrize("change", OF_FILES)
def test_a_change_of_what_was_there_is_named(change: str, bench: Bench) -> None:
    edit, whats = OF_FILES[change]
    one, other = bench.run(), bench.run()
    for folder in (one, other):
        lock.complete(folder)
        locked(lambda data: data.setdefault("packages", {}).update(torch="2.9"))(folder)
        locked(lambda data: data.update(image={"name": "x", "digest": "sha256:0"}))(folder)
    edit(other)
    assert named(one, other) == whats


def test_data_and_code_that_were_edited_are_named(bench: Bench) -> None:
    one = bench.run()
    (bench.folder / "corpus.txt").write_text("other text\n")
    other = bench.run()
    assert named(one, other) == {f"data args.data {bench.folder / 'corpus.txt'}"}
    (other / "code.json").write_text('{"sha256": "b"}')
    reserved = samples.decided(bench.fields())
    reserved = reserved._replace(id=other.name, workspace=reserved.workspace._replace(runs=str(bench.runs)))
    lock.write(reserved, "slurm", "a" * 64)
    assert "code.snapshot" in named(one, other)


def test_a_program_that_was_edited_is_named(bench: Bench) -> None:
    own = {"workload": str(bench.folder / "own.py"), "model": None}
    one = bench.run(own)
    (bench.folder / "own.py").write_text("print('two')\n")
    assert named(one, bench.run(own)) == {"code.program"}


def test_more_hosts_are_named(bench: Bench) -> None:
    assert "nodes" in named(bench.run(), bench.run({"nodes": 3}))


def test_a_range_of_hosts_is_named(bench: Bench) -> None:
    """Its plan is that of the most."""
    batch = {"micro": 1, "global": 8}
    numbers = (2, {"min": 1, "max": 2}, {"min": 1, "max": 4})
    fixed, narrow, wide = (bench.run({"nodes": nodes, "batch": batch}) for nodes in numbers)
    assert named(fixed, narrow) == {"nodes"}
    assert "nodes.max" in named(narrow, wide)


def test_the_step_where_losses_part(bench: Bench) -> None:
    one, other = bench.run(), bench.run()
    for folder, last in ((one, 0.5), (other, 0.4)):
        lines = [{"step": n, "loss": 1 / n} for n in (1, 2, 3)] + [{"step": 4, "loss": last}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = comparison.read({"a": one, "b": other}).curves
    assert (found.common, found.parts, found.losses) == (4, 4, (0.5, 0.4))
    assert found.largest == pytest.approx(0.2)
    assert comparison.curves({1: 1.0}, {2: 1.0}).common == 0
    assert comparison.curves({1: 1.0}, {1: 1.0}).parts is None


def test_the_table_and_the_json(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", str(bench.runs))
    one, other = bench.run(), bench.run({"args": {"seed": 2}, "env": {"OTHER": TOKEN}})
    assert main.main(["compare", one.name, other.name, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == [one.name, other.name]
    assert {"what": "args.seed", "one": 1, "other": 2} in told["differences"]
    assert main.main(["compare", str(one), str(other)]) == 0
    text = capsys.readouterr().out
    assert "args.seed" in text
    assert "environment.OTHER" in text
    assert "loss: no step that both have measured" in text
    assert TOKEN not in text + json.dumps(told), "values of variables are not told"
    shutil.copy(one / "plan.json", bench.folder / "plan.json")
    assert main.main(["compare", str(bench.folder), one.name]) == 0
    assert "has no lock.json: only its plan is compared" in capsys.readouterr().out
    assert main.main(["compare", one.name, one.name]) == 2
    assert "name another one" in capsys.readouterr().err
    assert main.main(["compare", one.name, "absent"]) == 5


def test_folders_of_one_name_are_told_apart(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    one = bench.run()
    other = bench.folder / "elsewhere" / one.name
    other.parent.mkdir()
    bench.run({"nodes": 3}).rename(other)
    assert main.main(["compare", str(one), str(other), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == [str(one), str(other)]
    assert "nodes" in {difference["what"] for difference in told["differences"]}
    assert main.main(["compare", str(one), f"{one}/../{one.name}"]) == 2
    assert f"{one.name} is one run" in capsys.readouterr().err


def test_values_that_differ_are_never_shown_as_equal() -> None:
    long, found = (
        "registry.example/" + "x" * 60,
        comparison.curves({1: 2.0, 2: 1.0}, {1: 2.0, 2: 1.0 + 1e-12}),
    )
    differences = [
        Difference("image", f"{long}:1", f"{long}:2"),
        Difference("args.data", f"a{long}", f"b{long}"),
        Difference("args.note", long, None),
        Difference("args.list", [long, 1], [long, 1, 2]),
    ]
    _, *rows, last = comparison.text(comparison.Comparison(("a", "b"), differences, found, [])).splitlines()
    for row in rows:
        _, one, other = re.split(r"  +", row)
        assert one != other
        assert max(map(len, (one, other))) <= 42
    assert last == "loss: parts at step 2: 1.0 and 1.000000000001; at most 1.0e-12 apart to step 2"
