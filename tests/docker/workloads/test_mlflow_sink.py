"""MLflow's sink: one run over restarts, at a server or in the run's folder, and a training that outlives its server."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from workloads.mlflow_sink import Mlflow

if TYPE_CHECKING:
    from pathlib import Path

# A module in place of MLflow's, for machines without it: what a run holds is a JSON file below the address.
STAND_IN = """
import json, os, pathlib, types

class Metric:
    def __init__(self, key, value, timestamp, step):
        self.key, self.value, self.step = key, value, step

class MlflowClient:
    def __init__(self, tracking_uri=None):
        address = tracking_uri or os.environ["MLFLOW_TRACKING_URI"]
        self.address = address
        self.file = pathlib.Path(address.removeprefix("file://")) / "run.json"
    def _load(self):
        if self.address.startswith("http"):
            raise OSError(f"cannot reach {self.address}\\nmore lines")
        return json.loads(self.file.read_text()) if self.file.exists() else {"params": {}, "metrics": [], "runs": 0}
    def _save(self, data):
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(data))
    def get_experiment_by_name(self, name):
        self._load()
        return None
    def create_experiment(self, name):
        self._save(self._load() | {"experiment": name})
        return "1"
    def create_run(self, experiment_id, run_name):
        data = self._load()
        self._save(data | {"runs": data["runs"] + 1, "name": run_name, "status": "RUNNING"})
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    def update_run(self, run_id, status):
        self._save(self._load() | {"status": status})
    def log_param(self, run_id, key, value):
        data = self._load()
        data["params"][key] = value
        self._save(data)
    def log_batch(self, run_id, metrics):
        data = self._load()
        data["metrics"] += [[m.key, m.value, m.step] for m in metrics]
        self._save(data)
    def set_terminated(self, run_id):
        self._save(self._load() | {"status": "FINISHED"})
"""


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # so that what the sink sets is taken back
        monkeypatch.delenv(name)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "path" / "mlflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "entities.py").write_text("from mlflow import Metric\n")
    monkeypatch.syspath_prepend(str(package.parent))
    for name in ("mlflow", "mlflow.entities"):  # as they were before, after the test
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)


def run(folder: Path, config: dict[str, Any], *steps: tuple[int, float]) -> None:
    sink = Mlflow("an experiment", folder, config)
    for step, loss in steps:
        sink.log({"loss": loss}, step)
    sink.close()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.heavy  # reads MLflow
def test_a_restart_continues_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "demo-1"
    folder.mkdir()
    run(folder, {"lr": 0.1, "data": ["a"] * 500}, (1, 2.5))
    run(folder, {"lr": 0.2}, (2, 1.5))
    kept = json.loads((folder / "mlruns" / "run.json").read_text())
    assert kept["metrics"] == [["loss", 2.5, 1], ["loss", 1.5, 2]]
    assert (kept["runs"], kept["name"], kept["status"]) == (1, "demo-1", "FINISHED")
    assert kept["params"]["lr"] == "0.1"
    assert len(kept["params"]["data"]) == 500


@pytest.mark.usefixtures("stand_in")
@pytest.mark.heavy  # reads MLflow
def test_a_server_that_is_away_ends_no_training_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@nowhere")
    run(tmp_path, {}, (1, 2.5), (2, 2.0))
    said = capsys.readouterr().err
    assert said == "mlflow: cannot reach http://nowhere; metrics.jsonl has all numbers\n"
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.heavy  # reads MLflow
def test_the_real_one(tmp_path: Path) -> None:
    run(tmp_path, {"lr": 0.1}, (1, 2.5))
    run(tmp_path, {"lr": 0.1}, (2, 1.5))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("an experiment")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 2.5), (2, 1.5)]
    assert found.data.params == {"lr": "0.1"}
