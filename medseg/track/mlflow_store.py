"""Runs remembered in MLflow: one SQLite file and a folder of artifacts, or a server.

Only the coordinating process writes. Everything is buffered on disk first (`spool.jsonl` in the run folder), so a
tracking server that is down costs a warning, not a training; `Tracker.close` replays what is left.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.atomic import is_full
from medseg.core.errors import UserError
from medseg.core.progress import say

MAX_ARTIFACT_BYTES = 20_000_000


def default_uri(runs_folder: Path) -> str:
    """The SQLite store beside the run folders; the file can be copied elsewhere and opened there."""
    return f"sqlite:///{(runs_folder / 'mlflow.db').resolve().as_posix()}"


def _quiet_mlflow() -> Any:
    """Imports MLflow without telemetry and without its chatter on start."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    # On import it sets its own level; its remarks on tables it makes are no business of a person's.
    for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Its store prints every error of SQLite with a traceback before it raises it; what it raises is said in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


@dataclass
class Tracker:
    """One MLflow run for one walk. Use `Tracker.open`, then `params`, `metrics`, `artifact`, `close`.

    Every call first appends to the spool; `flush` sends what the spool holds. A failing server is noticed once.
    """

    uri: str
    experiment: str
    name: str
    spool: Path
    artifacts: Path
    run_id: str | None = None
    trouble: str | None = None
    _client: Any = None
    _sent: int = 0
    _lost: bool = False
    _files: list[tuple[Path, str]] = field(default_factory=list)

    @classmethod
    def open(cls, uri: str, experiment: str, name: str, run_path: Path, tags: Mapping[str, str] | None = None, run_id: str | None = None) -> Tracker:  # fmt: skip
        """Starts (or, with `run_id`, continues) a run. A store that cannot be reached leaves a warning and a spool."""
        artifacts = run_path.parent / "mlartifacts"
        tracker = cls(uri, experiment, name, run_path / "tracking-spool.jsonl", artifacts, run_id)
        tracker._connect(tags or {})
        return tracker

    def _connect(self, tags: Mapping[str, str]) -> None:
        store = Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None
        new = store is not None and not store.exists()
        try:
            mlflow = _quiet_mlflow()
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            client = mlflow.MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                # A server chooses its own place; a local file gets a folder beside it, never ./mlruns.
                place = self.artifacts.resolve().as_uri() if self.uri.startswith("sqlite") else None
                number = client.create_experiment(self.experiment, artifact_location=place)
            else:
                number = found.experiment_id
            if self.run_id is None:
                self.run_id = client.create_run(number, run_name=self.name, tags=dict(tags)).info.run_id
            self._client = client
        except Exception as err:
            # Tables that a full disk cut short would refuse every later run; the next one makes them anew.
            if store is not None and new and is_full(err):
                store.unlink(missing_ok=True)
            self._give_up(err)

    def _give_up(self, err: Exception) -> None:
        if self.trouble is None:
            self.trouble = "its disk is full" if is_full(err) else type(err).__name__
            say(
                f"tracking: the store does not answer ({self.trouble}); the run goes on, its figures wait in {self.spool.name}"
            )
        self._client = None

    def without(self, what: str, err: Exception) -> None:
        """Says that something could not be kept; the run goes on."""
        reason = "the disk is full" if is_full(err) else str(err).splitlines()[0]
        say(f"tracking: {what} cannot be kept ({reason}); the run goes on without")

    # --- what is remembered ---------------------------------------------------------------------------------------

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters, flattened to `section.key`; texts are cut at MLflow's limit."""
        for key, value in flatten(values).items():
            self._append({"param": key, "value": str(value)[:500]})
        self.flush()

    def metrics(
        self, values: Mapping[str, float | int | None], step: int = 0, at: float | None = None
    ) -> None:
        """Numbers at a step; null ones are left out (absent is not zero)."""
        stamp = int((at or time.time()) * 1000)
        for key, value in values.items():
            if isinstance(value, int | float) and value == value and abs(value) != float("inf"):
                self._append({"metric": safe_key(key), "value": float(value), "step": int(step), "at": stamp})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file to keep with the run; files above 2 MB are named in the log and left out."""
        if path.is_file() and path.stat().st_size <= MAX_ARTIFACT_BYTES:
            self._files.append((path, folder))
        elif path.is_file():
            say(f"tracking: {path.name} has {path.stat().st_size / 1e6:.1f} MB and stays in the run folder")

    def folder(self, path: Path, name: str) -> None:
        """A whole folder (the model), whatever its size."""
        if self._client is not None and path.is_dir():
            try:
                self._client.log_artifacts(self.run_id, str(path), name)
            except Exception as err:
                self._give_up(err)

    # --- sending --------------------------------------------------------------------------------------------------

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Adds a whole line to the spool, or none: half a line would swallow the next one."""
        if self._lost:
            return
        try:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            with self.spool.open("ab", buffering=0) as file:
                start = file.tell()
                line = (json.dumps(entry) + "\n").encode()
                if file.write(line) != len(line):
                    file.truncate(start)
                    raise OSError(errno.ENOSPC, "no space for a whole line")
        except OSError as err:
            self._lost = True
            self.without("figures", err)

    def _waiting(self) -> list[dict[str, Any]]:
        if not self.spool.exists():
            return []
        lines = self.spool.read_text(encoding="utf-8").splitlines()
        if len(lines) < self._sent:
            self._sent = 0  # another job of the same run sent the rest and began a new file
        return [json.loads(line) if line.endswith("}") else {} for line in lines[self._sent :]]

    def flush(self) -> None:
        """Sends what waits, in batches of the size MLflow takes; what was sent is not sent again."""
        waiting = self._waiting()
        if self._client is None or not waiting:
            return
        from mlflow.entities import Metric, Param

        for start in range(0, len(waiting), 100):
            part = waiting[start : start + 100]
            numbers = [Metric(e["metric"], e["value"], e["at"], e["step"]) for e in part if "metric" in e]
            texts = [Param(e["param"], e["value"]) for e in part if "param" in e]
            try:
                self._client.log_batch(self.run_id, metrics=numbers, params=texts)
            except Exception as err:
                self._give_up(err)
                return
            self._sent += len(part)

    def close(self, status: str = "FINISHED") -> None:
        """Sends the rest, stores the files, ends the run; the spool goes once all of it has arrived."""
        self.flush()
        for path, folder in self._files:
            if self._client is None:
                break
            try:
                self._client.log_artifact(self.run_id, str(path), folder or None)
            except Exception as err:
                self._give_up(err)
        if self._client is None:
            return
        try:
            self._client.set_terminated(self.run_id, status=status)
        except Exception as err:
            self._give_up(err)
            return
        self.spool.unlink(missing_ok=True)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[safe_key(name)] = value
    return flat


def safe_key(name: str) -> str:
    """A name MLflow accepts: letters, digits, _ - . space and /."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)[:250]


def history_metrics(lines: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, dict[str, float]]]:
    """Training history lines -> (step, {train/loss: ..}) for the curves."""
    for line in lines:
        numbers = {f"train/{k}": v for k, v in line.items() if k != "step" and isinstance(v, int | float)}
        yield int(line.get("step", 0)), numbers


def ui_command(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command and environment that open MLflow's UI on this computer only, without its job workers.

    Raises UserError for a store that is no local file and no server address.
    """
    import sys

    if not uri.startswith(("sqlite:///", "http://", "https://", "postgresql", "mysql")):
        raise UserError(
            f"'{uri}' is no tracking store", hint="give sqlite:///path/mlflow.db or a server address"
        )
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return command, {**os.environ, **quiet}
