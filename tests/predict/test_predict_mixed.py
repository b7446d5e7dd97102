"""Networks that see different windows of different grids, averaged plane by plane on the case's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import Compute, IntensityPlan, Pipeline, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry, reorient_array
from medseg.core.segmentation import ClassInfo
from medseg.model.cascade import add_previous
from medseg.model.ensemble import configurations_of, load_models, save_ensemble
from medseg.model.export import export_model
from medseg.model.facts import load_facts
from medseg.model.folder import build_system, copy_model, load_model, save_model
from medseg.predict.case import Predictor
from medseg.predict.many import _announce, _need, _prepare_budget
from medseg.predict.mixed import MixedPredictor, each, grid_of, predictor_of
from medseg.predict.pyfunc import ArrayModel
from medseg.predict.stage import open_job

CLASSES = [ClassInfo("organ", 1, (255, 0, 0)).as_json(), ClassInfo("vessel", 2, (0, 255, 0)).as_json()]
SETTINGS = Predict(precision="fp32", engine="torch", overlap=0.25)
TURNED = np.array([[0, -2.0, 0, 30], [2, 0, 0, -7], [0, 0, -3, 11], [0, 0, 0, 1]])
"""Voxel axes of a file: the first runs to the front, the second to the left, the third to the feet."""

SLANTED = np.array([[2.0, 0, 0.5, 0], [0, 2, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])


def a_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "dims": 3, "in_channels": 1, "classes": CLASSES, "out_channels": 3, "spacing_mm": [2.0, 2.0, 2.0],
        "intensity": [IntensityPlan(scheme="zscore")], "image_order": 1, "patch_size": [16, 16, 16], "batch_size": 1,
    }  # fmt: skip
    return Plan(**{**values, **changes})


COARSE = {"spacing_mm": [4.0, 4.0, 3.0], "patch_size": [8, 16, 16]}


def save(folder: Path, seed: int, **changes: Any) -> Path:
    plan = a_plan(**changes)
    torch.manual_seed(seed)
    system = System(name="3d-u-net", size="tiny", configuration="lowres" if changes else "full")
    net = build_system(system, plan)
    for parameter in net.parameters():  # far from each other, so that a mean differs from its parts
        parameter.data += 0.2 * torch.randn_like(parameter)
    save_model(folder, net, system=system, plan=plan, data_hash="d")
    return folder


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("fine") / "model", 0)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("coarse") / "model", 1, **COARSE)


def an_image(affine: np.ndarray) -> Image:
    rng = np.random.default_rng(4)
    smooth = np.cumsum(rng.normal(0, 1, (1, 26, 20, 14)), axis=1).astype(np.float32)
    return Image(smooth, Geometry(smooth.shape[1:], affine))


class Kept:
    """What a predictor hands over: probabilities (K, *S) of the RAS-ordered case."""

    def __init__(self) -> None:
        self.array: Any = None

    def __call__(self, prepared: Any) -> Any:
        def take(box: tuple[slice, ...], chances: torch.Tensor) -> None:
            if self.array is None:
                self.array = np.full((len(chances), *prepared.kept.shape), np.nan, np.float32)
            self.array[(slice(None), *box)] = chances.numpy()

        return take


def chances_of(folder: Path, image: Image) -> np.ndarray:
    kept = Kept()
    Predictor(load_model(folder), SETTINGS).segment(image, sink=kept)
    return kept.array


@pytest.mark.parametrize(
    "affine", [np.diag([2.0, 2, 3, 1]), TURNED, SLANTED], ids=["RAS", "turned", "slanted"]
)
def test_the_mean_is_that_of_the_probabilities_on_the_cases_own_grid(
    fine: Path, coarse: Path, affine: np.ndarray
) -> None:
    image = an_image(affine)
    expected = (chances_of(fine, image) + chances_of(coarse, image)) / 2
    kept = Kept()
    seg = predictor_of(load_models([fine, coarse]), SETTINGS).segment(image, sink=kept)
    assert np.allclose(kept.array, expected, atol=1e-5)
    _, order, flips = image.geometry.reoriented()
    ours, theirs = reorient_array(seg.labels, order, flips), expected.argmax(axis=0)
    clear = np.sort(expected, axis=0)
    assert (ours == theirs)[clear[-1] - clear[-2] > 1e-4].all()
    assert len(np.unique(ours)) > 1
    alone = chances_of(fine, image).argmax(axis=0)
    assert (alone != theirs).mean() > 0.01
    assert seg.geometry.same_grid(image.geometry)
    assert "mean of probabilities of 2 configurations" in seg.provenance["engine"]
    assert seg.provenance["system"] == "3d-u-net-tiny + 3d-u-net-tiny-lowres"
    assert 0 < seg.provenance["confidence"]["case"]["disagreement"] < 1


def test_classes_that_overlap_are_averaged_region_by_region(tmp_path: Path) -> None:
    regions = {"overlapping": True, "out_channels": 2}
    places = [save(tmp_path / "a", 2, **regions), save(tmp_path / "b", 3, **regions, **COARSE)]
    image = an_image(np.diag([2.0, 2, 3, 1]))
    expected = sum(chances_of(place, image) for place in places) / 2
    seg = predictor_of(load_models(places), SETTINGS).segment(image)
    assert seg.regions is not None
    clear = np.abs(expected - 0.5) > 1e-4
    assert (seg.regions == (expected > 0.5))[clear].all()


def test_members_of_one_configuration_count_as_one(fine: Path, coarse: Path, tmp_path: Path) -> None:
    """Three folds of one and one of the other: half of the mean is the one, half the other."""
    more = [save(tmp_path / f"fine-{seed}", seed) for seed in (5, 6)]
    image = an_image(np.diag([2.0, 2, 3, 1]))
    three = Kept()
    Predictor(load_models([fine, *more]), SETTINGS).segment(image, sink=three)
    expected = (three.array + chances_of(coarse, image)) / 2
    model = load_models([fine, coarse, *more])
    assert [len(getattr(part.net, "members", [0])) for part in model.parts] == [3, 1]
    kept = Kept()
    predictor_of(model, SETTINGS).segment(image, sink=kept)
    assert np.allclose(kept.array, expected, atol=1e-5)


def test_a_model_folder_of_two_configurations_is_verified_copied_and_loaded(
    fine: Path, coarse: Path, tmp_path: Path
) -> None:
    digest = save_ensemble(tmp_path / "both", {"fine": fine, "coarse": coarse})
    copy_model(tmp_path / "both", tmp_path / "copy")
    model = load_model(tmp_path / "copy")
    assert model.hash == digest
    assert [part.plan.patch_size for part in model.parts] == [[16, 16, 16], [8, 16, 16]]
    facts = {"fine": load_facts(fine), "coarse": load_facts(coarse)}
    assert configurations_of(facts) == [["fine"], ["coarse"]]
    assert configurations_of({"one": facts["fine"], "two": facts["fine"]}) == [["one", "two"]]


def test_the_progress_counts_the_windows_of_all_configurations(fine: Path, coarse: Path) -> None:
    image, ticks = an_image(np.diag([2.0, 2, 3, 1])), []
    predictor = predictor_of(load_models([fine, coarse]), SETTINGS)
    seg = predictor.segment(image, tick=lambda done, total: ticks.append((done, total)))
    assert ticks[-1][0] == ticks[-1][1] == seg.provenance["windows"]
    assert sorted(ticks) == ticks


def open_mixed(places: list[Path], out: Path, ram: str) -> Any:
    pipeline = Pipeline.model_validate(
        {"name": "t", "system": "3d-u-net", "predict": SETTINGS, "compute": Compute(device="cpu", ram=ram)}
    )
    job = open_job(pipeline, places, out)
    _prepare_budget(job)
    return job


def test_the_memory_of_all_configurations_is_counted_and_a_case_that_does_not_fit_is_refused(
    fine: Path, coarse: Path, tmp_path: Path
) -> None:
    image = an_image(np.diag([2.0, 2, 3, 1]))
    both = open_mixed([fine, coarse], tmp_path / "out", "64 GB")
    assert isinstance(both.predictor, MixedPredictor)
    needs = [_need(open_mixed([one], tmp_path / "one", "64 GB"), image) for one in (fine, coarse)]
    need = _need(both, image)
    assert need.sums >= sum(one.sums for one in needs)
    assert need.prepared == sum(one.prepared for one in needs)
    tight = open_mixed([fine, coarse], tmp_path / "tight", "1 MB")
    task: Any = type("Task", (), {"case": "c1"})
    with pytest.raises(UserError, match="may be used") as caught:
        _announce(tight, image, task)
    assert caught.value.where == "case c1"
    assert all(part.half_sums for part in tight.predictor.parts)


def test_all_configurations_walk_along_one_axis(fine: Path, coarse: Path) -> None:
    predictor = predictor_of(load_models([fine, coarse]), SETTINGS)
    grid = Geometry.from_spacing((40, 30, 200), (2, 2, 2))
    assert grid_of(grid, predictor.parts[1].model.plan) == (20, 15, 133)
    assert predictor.agree(grid) == 2
    assert [part.cut.lead((40, 30, 20)) for part in predictor.parts] == [2, 2]


def test_what_needs_one_window_or_one_prepared_array_refuses_a_mean_of_configurations(
    fine: Path, coarse: Path, tmp_path: Path
) -> None:
    save_ensemble(tmp_path / "both", {"fine": fine, "coarse": coarse})
    with pytest.raises(UserError, match="mean of 2 configurations"):
        export_model(tmp_path / "both", "onnx", tmp_path / "exported")
    with pytest.raises(UserError, match="prepared in different ways") as caught:
        ArrayModel(tmp_path / "both").predict(np.zeros((1, 1, 16, 16, 16), np.float32))
    assert caught.value.hint == "give paths of images"


def test_a_mean_of_configurations_may_be_the_first_stage_of_a_cascade(
    fine: Path, coarse: Path, tmp_path: Path
) -> None:
    """Its memory is counted with all its parts, and short memory reaches each of them."""
    save_ensemble(tmp_path / "both", {"fine": fine, "coarse": coarse})
    first = load_facts(tmp_path / "both")
    settings = SETTINGS.model_dump(mode="json", include={"overlap", "flips", "ensemble"})
    previous = {"model": first["hash"], "classes": CLASSES, "settings": settings}
    second = save(tmp_path / "second", 8, in_channels=3, previous=previous)
    add_previous(second, tmp_path / "both")
    image = an_image(np.diag([2.0, 2, 3, 1]))
    job = open_mixed([second], tmp_path / "out", "64 GB")
    assert isinstance(job.predictor.earlier, MixedPredictor)
    assert len(each(job.predictor)) == 4
    need = _need(job, image)
    assert need is not None
    seg = job.predictor.segment(image)
    drawn = predictor_of(load_model(tmp_path / "both"), SETTINGS).segment(image)
    assert seg.labels.shape == drawn.labels.shape
    assert np.array_equal(job.predictor.earlier.segment(image).labels, drawn.labels)
