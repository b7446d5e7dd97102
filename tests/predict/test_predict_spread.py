"""A cohort over workers: the same bytes as in one process, whatever dies; several models read each case once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.core.atomic import part_prefix
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.jobs import journal
from medseg.model.folder import build_system, save_model
from medseg.predict import spread
from medseg.predict.folder import folder_names, predict_each, predict_folder
from medseg.predict.share import Share

CASES = 8


def save_tiny(folder: Path, seed: int, spacing: float = 2.0) -> Path:
    import torch

    torch.manual_seed(seed)
    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("organ", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_mm=[spacing] * 3, intensity=[IntensityPlan(scheme="window", low=-1000, high=400)],
                image_order=1, patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    save_model(folder, build_system(system, plan), system=system, plan=plan)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run-a") / "model", 0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images, one of them damaged."""
    folder = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    for number in range(CASES):
        array = rng.normal(-300, 400, (24, 20, 20)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), folder / f"case{number}.nii.gz")
    (folder / "case3.nii.gz").write_bytes(b"damaged")
    return folder


def settings(cluster: Any = "none") -> Pipeline:
    return Pipeline.model_validate({"name": "predict", "system": "from-model", "predict": {"precision": "fp32"},
                                    "compute": {"cores": 1, "cluster": cluster}})  # fmt: skip


@pytest.fixture(scope="module")
def whole(model: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The masks that one process makes."""
    out = tmp_path_factory.mktemp("whole")
    predict_folder(model, cohort, out, settings())
    return masks(out)


def masks(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("[!.]*.nii.gz")}


class Killer:
    """Kills one worker with signal 9 as soon as the first mask lies there."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.killed, self.pools = out, [], []
        opened = spread.open_workers

        def watch(*arguments: Any) -> Executor:
            self.pools.append(opened(*arguments))
            threading.Thread(target=self.strike, daemon=True).start()
            return self.pools[-1]

        monkeypatch.setattr(spread, "open_workers", watch)

    def strike(self) -> None:
        while not masks(self.out):
            time.sleep(0.005)
        pid = self.pools[-1].pids[0]
        os.kill(pid, signal.SIGKILL)
        # As one that dies in the middle of writing leaves it: this happens by itself only now and then.
        mine = part_prefix()
        (self.out / f"{mine.replace(f'-{os.getpid()}-', f'-{pid}-')}left.json").touch()
        self.killed.append(pid)


def assert_nothing_is_lost(result: Any, out: Path, whole: dict[str, bytes]) -> None:
    assert masks(out) == whole
    assert result.done == CASES - 1
    assert set(result.failed) == {"case3"}
    assert "damaged" in result.failed["case3"] or "gz" in result.failed["case3"] or result.failed["case3"]
    facts = json.loads((out / "manifest" / "manifest.json").read_text())
    assert facts["totals"]["cases"] == CASES
    counted = journal.counts(out / "manifest" / "journal.sqlite", "predict")
    assert sum(counted.values()) == CASES
    assert counted["failed"] == 1
    assert "waiting" not in counted
    assert not list(out.rglob(".part-*"))


def test_processes_make_the_same_masks_and_a_killed_one_loses_nothing(
    model: Path, cohort: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(tmp_path, monkeypatch)
    result = predict_folder(model, cohort, tmp_path, settings({"kind": "processes", "workers": 2}))
    assert_nothing_is_lost(result, tmp_path, whole)
    assert len(killer.killed) == 1
    assert "torch" in result.details["engine"].lower() or result.details["engine"]
    again = predict_folder(model, cohort, tmp_path, settings())
    assert (again.details["new"], again.details["kept"]) == (0, CASES - 1)


@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_masks_and_a_killed_worker_loses_nothing(
    model: Path, cohort: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    killer = Killer(tmp_path, monkeypatch)
    result = predict_folder(model, cohort, tmp_path, settings({"kind": "dask", "workers": 2}))
    assert_nothing_is_lost(result, tmp_path, whole)
    assert len(killer.killed) == 1


def test_what_stops_all_cases_comes_back_from_a_worker_as_a_sentence(model: Path, tmp_path: Path) -> None:
    order = spread.Order(settings(), ((tmp_path / "no model",),), (tmp_path,)).as_json(10**9)
    answer = spread.predict_row({"order": order, "row": {}})
    assert "stop" in answer
    with pytest.raises(UserError):
        raise UserError(**answer["stop"])


def test_workers_of_this_computer_share_cores_and_memory() -> None:
    pipeline = settings({"kind": "processes", "workers": 4})
    compute = pipeline.compute.model_copy(update={"cores": 8})
    order = spread.Order(pipeline.model_copy(update={"compute": compute}), (), ()).as_json(4 * 10**9)
    assert order["pipeline"]["compute"]["cores"] == 2
    assert order["pipeline"]["compute"]["ram"] == 10**9
    elsewhere = spread.Order(settings("slurm"), (), ()).as_json(4 * 10**9)
    assert elsewhere["pipeline"]["compute"]["ram"] is None


def test_an_order_is_plain_data_that_makes_the_same_journey_again() -> None:
    pipeline = settings({"kind": "slurm", "options": {"queue": "gpu"}})
    text = json.dumps(spread.Order(pipeline, (), ()).as_json(10**9))
    assert Pipeline.model_validate(json.loads(text)["pipeline"]) == pipeline


# --- several models -----------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often images were read and prepared."""
    from medseg.ingest import prepare
    from medseg.io import doors

    counts = {"read": 0, "prepared": 0}
    read, made = doors.read_image, prepare.prepare_image

    def reading(*arguments: Any, **keywords: Any) -> Any:
        counts["read"] += 1
        return read(*arguments, **keywords)

    def preparing(*arguments: Any, **keywords: Any) -> Any:
        counts["prepared"] += 1
        return made(*arguments, **keywords)

    monkeypatch.setattr(doors, "read_image", reading)
    monkeypatch.setattr(prepare, "prepare_image", preparing)
    return counts


def test_several_models_read_and_prepare_each_case_once_and_make_the_masks_they_make_alone(
    model: Path, cohort: Path, whole: dict[str, bytes], tmp_path: Path, counted: dict[str, int]
) -> None:
    twin = save_tiny(tmp_path / "run-b" / "model", 1)
    coarse = save_tiny(tmp_path / "run-c" / "model", 2, spacing=3.0)
    out = tmp_path / "out"
    results = predict_each([model, twin, coarse], cohort, out, settings())
    names = list(results)
    assert counted["read"] <= CASES
    assert counted["prepared"] == 2 * (CASES - 1)
    assert [result.done for result in results.values()] == [CASES - 1] * 3
    assert masks(out / names[0]) == whole
    alone = tmp_path / "alone"
    predict_folder(coarse, cohort, alone, settings())
    assert masks(out / names[2]) == masks(alone)
    for name in names:
        facts = json.loads((out / name / "manifest" / "manifest.json").read_text())
        assert len(facts["totals"]["models"]) == 1


def test_a_model_that_is_added_later_does_only_its_own_cases(
    model: Path, cohort: Path, tmp_path: Path, counted: dict[str, int]
) -> None:
    twin = save_tiny(tmp_path / "run-b" / "model", 1)
    predict_each([model], cohort, tmp_path / "out", settings())
    results = list(predict_each([model, twin], cohort, tmp_path / "out", settings()).values())
    assert [result.details["new"] for result in results] == [0, CASES - 1]
    with pytest.raises(UserError, match="not one of 1 cases could be predicted") as caught:
        predict_each([model, twin], cohort, tmp_path / "out", settings(), Share(only="failed"))
    assert "case3" in str(caught.value)


def test_folders_of_models_have_names_that_tell_them_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "lung-1" / "model", tmp_path / "heart", tmp_path / "x" / "lung-1" / "model"]
    assert folder_names(paths) == ["lung-1", "heart", "lung-1-2"]


# --- what a kill leaves -------------------------------------------------------------------------------------------


def test_unfinished_files_of_a_killed_call_are_gone_after_the_next(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    import subprocess

    code = (
        "import os\nfrom pathlib import Path\nfrom medseg.core.atomic import atomic_path\n"
        f"with atomic_path(Path({str(tmp_path / 'case0.nii.gz')!r})):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert len(list(tmp_path.glob(".part-*"))) == 1
    predict_folder(model, cohort, tmp_path, settings(), Share(trial=1))
    assert list(tmp_path.glob(".part-*")) == []
