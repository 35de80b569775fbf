"""Metrics to MLflow: to the server of MLFLOW_TRACKING_URI, or without one to mlruns/ in the run's folder.

Owns the run at the tracking server: a restart continues it. A server that is away must not end the training.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST = 500  # characters of a parameter, which every backend takes
_MOST_FAILURES = 3


class Mlflow:
    """Sink of one run in an experiment; needs the package mlflow or mlflow-skinny."""

    def __init__(self, experiment: str, run_dir: Path, config: dict[str, Any]) -> None:
        # MLflow's own defaults are minutes of retries, during which all ranks would wait
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (run_dir.resolve() / "mlruns").as_uri()
        if own:  # files need no database, and MLflow wants to be told that they are meant
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault(
            "MLFLOW_DISABLE_TELEMETRY", "true"
        )  # what is trained here is nobody else's to count
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=own)
        self._failures = 0
        self._run = ""
        self._try(lambda: self._begin(experiment, run_dir, config))

    def log(self, values: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(key, float(value), now, step) for key, value in values.items()]
        if self._run:
            self._try(lambda: self._client.log_batch(self._run, metrics=metrics))

    def close(self) -> None:
        if self._run:
            self._try(lambda: self._client.set_terminated(self._run))

    def _begin(self, experiment: str, run_dir: Path, config: dict[str, Any]) -> None:
        """Take up the run that an earlier attempt began, or begin one."""
        kept = run_dir / "mlflow-run"
        if kept.exists():
            self._run = kept.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run = str(self._client.create_run(number, run_name=run_dir.resolve().name).info.run_id)
        kept.write_text(self._run, encoding="utf-8")
        for key, value in config.items():
            self._client.log_param(self._run, key, str(value)[:_LONGEST])

    def _try(self, what: Any) -> None:
        """Do it, or say once why it failed, whatever a server or a network raises; the third failure is the last."""
        try:
            what()
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                shown = re.sub(r"//[^/@\s]*@", "//", reason)  # a server's address may hold a password
                print(f"mlflow: {shown}; metrics.jsonl has all numbers", file=sys.stderr, flush=True)
            if self._failures == _MOST_FAILURES:
                self._run = ""
