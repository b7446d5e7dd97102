"""What of a walk goes into MLflow: settings, curves, scores, cost, pictures, the report and the model."""

from __future__ import annotations

import json
import platform
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import medseg
from medseg.config import Pipeline
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.core.machine import MemoryTrace
from medseg.core.run import Result, RunFolder
from medseg.track.mlflow_store import Tracker, default_uri, history_metrics

PRIVATE_KEYS = (
    "data.root",
    "data.manifest",
    "data.split.file",
    "ingest.previous",
    "predict.model",
    "train.start_from",
    "track.uri",
    "compute.cluster.address",
    "compute.cluster.options",
)
"""Settings that may name a person's folder; they stay in the run folder."""


@dataclass
class Memory:
    """The trackers of one walk: one MLflow run, and a nested one for each system of a comparison."""

    pipeline: Pipeline
    trackers: dict[Path, Tracker]
    root: RunFolder
    uri: str
    _follower: Follower | None = None

    @classmethod
    def open(cls, pipeline: Pipeline, folder: RunFolder) -> Memory:
        """Starts the walk's MLflow run, or continues the one this folder had before."""
        uri = pipeline.track.uri or default_uri(folder.path.parent)
        kept = folder.path / "tracking.json"
        known = read_json(kept) if kept.exists() else {}
        names = {folder.path: (folder.path.name, {})}
        if len(pipeline.systems) > 1:
            names |= {
                folder.system(s.slug).path: (f"{folder.path.name} {s.slug}", {}) for s in pipeline.systems
            }
        trackers: dict[Path, Tracker] = {}
        for path, (name, tags) in names.items():
            tags = {**tags, **_tags()}
            if path != folder.path and trackers[folder.path].run_id:
                tags["mlflow.parentRunId"] = str(trackers[folder.path].run_id)
            old = known.get(str(path.relative_to(folder.path))) if known.get("uri") == uri else None
            trackers[path] = Tracker.open(
                uri, pipeline.track.experiment or pipeline.name, name, path, tags, old
            )
            if old is None:
                trackers[path].params(_settings(pipeline))
        memory = cls(pipeline, trackers, folder, uri)
        memory._keep()
        return memory

    def _keep(self, path: Path | None = None) -> None:
        """Writes down which run belongs to which folder; the list of one that was opened later, beside it."""
        place = path or self.root.path
        found = self.trackers.items() if path is None else [(path, self.trackers[path])]
        listed = {str(p.relative_to(place)): tracker.run_id for p, tracker in found}
        write_json(place / "tracking.json", {"uri": self.uri, **listed})

    def _tracker_of(self, folder: RunFolder) -> Tracker:
        """The folder's run; that of a training of a cross-validation is opened when it begins."""
        if folder.path not in self.trackers:
            assert folder.parent is not None
            above = self._tracker_of(folder.parent)
            kept = folder.path / "tracking.json"
            known = read_json(kept) if kept.exists() else {}
            old = known.get(".") if known.get("uri") == self.uri else None
            tags = {**_tags(), **({"mlflow.parentRunId": str(above.run_id)} if above.run_id else {})}
            name = f"{above.name} {folder.path.name}"
            experiment = self.pipeline.track.experiment or self.pipeline.name
            tracker = Tracker.open(self.uri, experiment, name, folder.path, tags, old)
            self.trackers[folder.path] = tracker
            if old is None:
                tracker.params({**_settings(self.pipeline), "training": folder.path.name})
            self._keep(folder.path)
        return self.trackers[folder.path]

    @property
    def run_id(self) -> str | None:
        return self.trackers[self.root.path].run_id

    def begin(self, step: str, folder: RunFolder) -> None:
        """Curves appear while training goes on: the history file is followed."""
        if step == "train":
            self._follower = Follower(folder.history, self._tracker_of(folder))
            self._follower.start()

    def end(self, step: str, folder: RunFolder, result: Result, seconds: float, trace: MemoryTrace) -> None:
        """A step's cost, its counts and what it made."""
        if self._follower is not None:
            self._follower.stop()
            self._follower = None
        tracker = self._tracker_of(folder)
        tracker.metrics({
            f"seconds/{step}": seconds, f"ram_peak_gb/{step}": trace.peak_bytes / 1e9, f"ram_mean_gb/{step}": trace.mean_bytes / 1e9,
            **{f"cases/{step}_{k}": v for k, v in result.counts().items()}, **_gpu_memory(step),
        })  # fmt: skip
        if step == "check" and "data_hash" in result.details:
            tracker.params({"data_hash": result.details["data_hash"]})
        if step == "plan":
            tracker.artifact(folder.plan)
        if step in ("score", "join") and folder.scores_json.exists():
            tracker.metrics(_score_metrics(read_json(folder.scores_json)))
            tracker.artifact(folder.scores_json)
        if step == "join":
            tracker.metrics(_spread_metrics(read_json(folder.folds_json)))
            tracker.artifact(folder.postprocessing)
        if step == "choose":
            tracker.artifact(folder.choice)
        if step == "report":
            for one in {
                folder.path: folder,
                **{p: RunFolder(p, self.root) for p in self.trackers if p != folder.path},
            }.values():
                self._pages(one)
        tracker.flush()

    def _pages(self, folder: RunFolder) -> None:
        tracker = self.trackers[folder.path]
        tracker.artifact(folder.report)
        for picture in sorted(folder.figures.glob("*.png"))[:40] if folder.figures.is_dir() else []:
            tracker.artifact(picture, "figures")

    def close(self, status: str) -> None:
        """Stores the models, ends all runs; nested ones first."""
        if self._follower is not None:
            self._follower.stop()
        for path, tracker in reversed(self.trackers.items()):
            folder = RunFolder(path, None if path == self.root.path else self.root)
            member = path.parent.name == "folds"  # its weights are stored with the joined model
            if (
                status == "FINISHED"
                and not member
                and self.pipeline.track.log_model
                and (folder.model / "model.json").exists()
            ):
                try:
                    store_model(folder, tracker)
                except (
                    OSError,
                    UserError,
                ) as err:  # the run itself is finished, and its model lies in its folder
                    tracker.without("the model", err)
            tracker.close(status)


def store_model(folder: RunFolder, tracker: Tracker) -> None:
    """The model as an MLflow model with a signature; `mlflow.pyfunc.load_model` predicts with it."""
    import tempfile
    import warnings

    import numpy as np

    from medseg.config_plan import load_plan
    from medseg.predict.pyfunc import save_pyfunc

    plan = load_plan(folder.plan)
    example = np.zeros((1, plan.in_channels, *plan.patch_size), dtype=np.float32)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on type hints, meant for who writes the wrapper
        target = Path(temporary) / "model"
        save_pyfunc(folder.model, target, example)
        tracker.folder(target, "model")


@dataclass
class Follower:
    """Sends the lines of a growing history.jsonl to the tracker every few seconds."""

    path: Path
    tracker: Tracker
    _read: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        # Lines of an earlier, interrupted training were sent then.
        self._read = len(self.path.read_text().splitlines()) if self.path.exists() else 0
        self._thread = threading.Thread(target=self._loop, daemon=True, name="medseg-tracking")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._send()

    def _loop(self) -> None:
        while not self._stop.wait(5.0):
            self._send()

    def _send(self) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        whole = [line for line in lines[self._read :] if line.endswith("}")]
        for step, numbers in history_metrics(json.loads(line) for line in whole):
            self.tracker.metrics(numbers, step)
        self._read += len(whole)
        import psutil

        load = {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/ram_percent": psutil.virtual_memory().percent,
        }
        self.tracker.metrics(load, step=self._read)
        self.tracker.flush()


def _settings(pipeline: Pipeline) -> dict[str, Any]:
    values = pipeline.model_dump(mode="json")
    for dotted in PRIVATE_KEYS:
        node: Any = values
        *parents, last = dotted.split(".")
        for key in parents:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.get(last):
            node[last] = "(in the run folder)"
    values["data"]["classes"] = list(values["data"]["classes"])
    return values


def _tags() -> dict[str, str]:
    return {"medseg.version": medseg.__version__, "python": platform.python_version(), **_git_state()}


def _git_state() -> dict[str, str]:
    """Commit and whether files were changed, where medseg runs from a checkout."""
    here = Path(medseg.__file__).parent.parent
    if not (here / ".git").exists():
        return {}
    try:
        done = [subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
                for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])]  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": done[0], "git.changed": str(bool(done[1]))}


def _gpu_memory(step: str) -> dict[str, float]:
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    return {f"gpu_peak_gb/{step}": torch.cuda.max_memory_allocated() / 1e9}


def _spread_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """Mean and spread over folds, and over seeds where there are several."""
    out = {}
    for over in ("over_folds", "over_seeds"):
        for column, spread in ((scores["folds"][over] or {}).get("mean") or {}).items():
            out |= {
                f"{over}/{column}_{key}": spread[key] for key in ("mean", "sd") if spread[key] is not None
            }
    return out


def _score_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    out = {f"score/mean/{k}": v for k, v in scores.get("mean", {}).items()}
    for name, values in scores.get("per_class", {}).items():
        out |= {f"score/{name}/{k}": v for k, v in values.items()}
    return {k: v for k, v in out.items() if isinstance(v, int | float)}
