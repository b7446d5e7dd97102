"""Cases prepared by workers are those that one process prepares, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan
from medseg.config_plan import save_plan
from medseg.core import ClassInfo, UserError
from medseg.core.run import Result, RunFolder
from medseg.ingest import cache, spread, stage
from medseg.ingest.cache import open_prepared
from medseg.jobs.executor import Outcome

CASES = 5
CLASSES = [ClassInfo(name, k + 1, (0, 0, 0)) for k, name in enumerate(("lung", "heart"))]


def a_plan() -> Plan:
    return Plan(dims=3, in_channels=1, classes=[one.as_json() for one in CLASSES], out_channels=3, spacing_mm=[2.0] * 3,
                image_order=1, intensity=[IntensityPlan(scheme="zscore")], patch_size=[8] * 3, batch_size=1)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five labelled images; the label of the fourth has a value that nobody knows."""
    place = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for k in range(CASES):
        label = np.zeros((20, 18, 16), np.uint8)
        label[4:10, 4:10, 4:10], label[12:15, 12:15, 12:15] = 1, 7 if k == 3 else 2
        for folder, array in (
            ("images", rng.normal(0, 1, label.shape).astype(np.float32)),
            ("labels", label),
        ):
            (place / folder).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), place / folder / f"case{k}.nii.gz")
    return place


def journey(data: Path, cluster: Any = "none") -> Pipeline:
    facts = {"root": str(data), "classes": {"lung": 1, "heart": 2}, "split": {"folds": 3}}
    return Pipeline.model_validate({"name": "t", "data": facts, "system": {"name": "3d-u-net", "size": "tiny"},
                                    "ingest": {"workers": 2}, "compute": {"cores": 1, "cluster": cluster}})  # fmt: skip


def prepare(data: Path, run: Path, cluster: Any = "none") -> tuple[Result, dict[str, Any]]:
    """The step in a new run folder: its result, and what was kept of each case."""
    from medseg.data.cohort import find_cases, save_cohort

    pipeline, folder = journey(data, cluster), RunFolder(run)
    if not folder.plan.is_file():
        save_cohort(find_cases(pipeline.data), folder)
        save_plan(a_plan(), folder.plan)
    result = stage.run(pipeline, folder)
    assert not list(folder.prepared.rglob(".part-*"))
    return result, {case: contents(path) for case, path in cache.prepared_cases(folder).items()}


def contents(path: Path) -> tuple[Any, ...]:
    case = open_prepared(path)
    low = (0,) * len(case.shape)
    arrays = (case.read_image(low, case.shape), case.read_target(low, case.shape), *case.foreground.values())
    return json.loads((path / "case.json").read_text()), [array.tobytes() for array in arrays]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What threads of one process prepare."""
    return prepare(data, tmp_path_factory.mktemp("whole"))[1]


def kill_one(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the first worker that is there is killed before a third case is sent; returns whom it hit."""
    opened, killed = spread.open_workers, list[int]()

    def watch(*arguments: Any) -> Executor:
        pool = opened(*arguments)
        submit, sent = pool.submit, list[Any]()

        def send(*task: Any) -> Any:
            sent.append(task)
            while len(sent) == 3 and not killed:
                if pids := pool.pids:  # type: ignore[attr-defined]
                    os.kill(pids[0], signal.SIGKILL)
                    killed.append(pids[0])
                time.sleep(0.01)
            return submit(*task)

        monkeypatch.setattr(pool, "submit", send)
        return pool

    monkeypatch.setattr(spread, "open_workers", watch)
    return killed


def assert_nothing_is_lost(result: Result, found: dict[str, Any], whole: dict[str, Any]) -> None:
    assert found == whole
    assert (result.done, list(result.failed), result.details["new"]) == (CASES - 1, ["case3"], CASES - 1)
    assert "7" in result.failed["case3"], "the reason is that of one process"


def test_processes_prepare_the_same_cases_and_a_killed_one_loses_nothing(
    data: Path, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = kill_one(monkeypatch)
    result, found = prepare(data, tmp_path, {"kind": "processes", "workers": 2})
    assert len(killed) == 1
    assert_nothing_is_lost(result, found, whole)
    monkeypatch.undo()
    again, _ = prepare(data, tmp_path)
    assert (again.details["new"], again.details["kept"]) == (0, CASES - 1), (
        "threads go on where workers ended"
    )


@pytest.mark.slow
def test_a_dask_cluster_prepares_the_same_cases_and_a_killed_worker_loses_nothing(
    data: Path, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    killed = kill_one(monkeypatch)
    result, found = prepare(data, tmp_path, {"kind": "dask", "workers": 2})
    assert len(killed) == 1
    assert_nothing_is_lost(result, found, whole)


def test_an_order_is_plain_data_that_makes_the_same_order_again(data: Path, tmp_path: Path) -> None:
    order = spread.Order(journey(data, "slurm"), a_plan(), tuple(CLASSES), tmp_path, "k")
    assert spread.Order.from_json(json.loads(json.dumps(order.as_json()))) == order


def asked_of(data: Path, place: Path) -> dict[str, Any]:
    from medseg.data.cohort import find_cases

    row = find_cases(journey(data).data).rows[0]
    order = spread.Order(journey(data), a_plan(), tuple(CLASSES), place, "k")
    return {"order": order.as_json(), "row": row.as_json(), "mask": None}


def test_a_full_disk_in_a_worker_stops_all_cases(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("the disk is full", str(tmp_path))

    monkeypatch.setattr(cache, "store_case", refuse)
    answer = spread.prepare_row(asked_of(data, tmp_path))
    monkeypatch.setattr(spread, "map_cases", lambda *_, **__: [Outcome(asked_of(data, tmp_path), answer)])
    order = spread.Order(journey(data, "processes"), a_plan(), tuple(CLASSES), tmp_path, "k")
    with pytest.raises(UserError, match="the disk is full"):
        list(spread.by_workers(order, [], {}, 2))


def test_a_fault_in_a_worker_is_told_without_a_path(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(f"cannot do {tmp_path}")

    monkeypatch.setattr(cache, "store_case", fail)
    answer = spread.prepare_row(asked_of(data, tmp_path))
    assert answer["failed"].startswith("RuntimeError in ")
    assert str(tmp_path) not in answer["failed"]


@pytest.mark.parametrize(("kind", "workers"), [("processes", 2), ("slurm", 8)])
def test_workers_of_this_computer_are_no_more_than_its_memory_holds(
    kind: str, workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def refuse(cluster: Any, _: Any) -> Any:
        seen.append(cluster.workers)
        raise UserError("no workers today")

    monkeypatch.setattr(spread, "open_workers", refuse)
    pipeline = journey(data, {"kind": kind, "workers": 8})
    order = spread.Order(pipeline, a_plan(), tuple(CLASSES), tmp_path, "k")
    with pytest.raises(UserError, match="no workers today"):
        list(spread.by_workers(order, [], {}, 2))
    assert seen == [workers]
