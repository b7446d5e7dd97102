"""A benchmark in MLflow: one run a call, and a nested one an entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Memory:
    """The run of a call. root: its tracker; folder: where trackers of entries keep what MLflow has not taken yet."""

    root: Any
    uri: str
    folder: Path
    experiment: str

    @classmethod
    def open(cls, folder: Path, experiment: str, name: str, settings: Mapping[str, Any]) -> Memory:
        """Begins the run `name` of an experiment, with its settings as parameters. folder: the benchmark's work."""
        from medseg.track.mlflow_store import Tracker, default_uri

        uri = default_uri(folder.parent)
        root = Tracker.open(uri, experiment, name, folder, {})
        root.params(dict(settings))
        return cls(root, uri, folder, experiment)

    def add(self, entry: Mapping[str, Any], params: Sequence[str], metrics: Sequence[str]) -> None:
        """An entry as a run below this one. params, metrics: which of its facts are kept as what."""
        from medseg.track.mlflow_store import Tracker

        tags = {"mlflow.parentRunId": str(self.root.run_id)} if self.root.run_id else {}
        name = f"{entry['system']} {entry['data_set']}"
        place = self.folder / "tracking" / entry["data_set"] / entry["system"]
        tracker = Tracker.open(self.uri, self.experiment, name, place, tags)
        tracker.params({name: entry[name] for name in params if name in entry})
        tracker.metrics({name: entry.get(name) for name in metrics})
        tracker.close("FINISHED" if entry["state"] == "done" else "FAILED")

    def close(self, status: str) -> None:
        """Ends the run with FINISHED, FAILED or KILLED."""
        self.root.close(status)
