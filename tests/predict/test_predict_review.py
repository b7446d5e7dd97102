"""What a model was not made for needs review, with its reason, first in the manifest and on the page (U38)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medseg.cli import _main
from medseg.config import IntensityPlan, Plan, System
from medseg.core.segmentation import ClassInfo
from medseg.ingest.intensity import apply
from medseg.model.folder import Model, build_system, save_model
from medseg.plan.fingerprint import facts_of

RIGHT = ClassInfo("right lung", 1, (62, 138, 255), laterality="right")
LEFT = ClassInfo("left lung", 2, (255, 140, 66), laterality="left")
SPACING_MM = 4.0
WINDOW = IntensityPlan(scheme="window", low=-1000, high=400)
AIR, BODY, IN_RIGHT, IN_LEFT = -1000, 40, -700, -850


class Nearest(torch.nn.Module):
    """A network that knows each tissue by its Hounsfield units, wherever it lies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        units = np.array([[[AIR, BODY, IN_RIGHT, IN_LEFT]]], np.float32)
        air, body, right, left = (-(x - float(v)).abs() for v in apply(units, WINDOW).ravel())
        return torch.cat([torch.maximum(air, body), right, left], 1)


def thorax() -> np.ndarray:
    """40^3 voxels of 4 mm, RAS: the left lung at small x."""
    array = np.full((40, 40, 40), AIR, np.int16)
    array[4:36, 6:34, :] = BODY
    array[8:16, 10:28, 8:32] = IN_LEFT
    array[22:32, 10:28, 8:32] = IN_RIGHT
    return array


def a_plan() -> Plan:
    ml = SPACING_MM**3 / 1000
    spans = {
        "left lung": [0.8 * 3456 * ml, 1.2 * 3456 * ml],
        "right lung": [0.8 * 4320 * ml, 1.2 * 4320 * ml],
    }
    return Plan(dims=3, in_channels=1, classes=[RIGHT.as_json(), LEFT.as_json()], out_channels=3,
                spacing_mm=[SPACING_MM] * 3, intensity=[WINDOW], image_order=1, patch_size=[40, 40, 40], batch_size=1,
                volume_ml=spans, on_border={"left lung": 0.0, "right lung": 0.0})  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder whose network is the one above."""
    system, plan = System(name="3d-u-net", size="tiny"), a_plan()
    digest = save_model(tmp_path / "model", build_system(system, plan), system=system, plan=plan)
    loaded = Model(Nearest().eval(), None, plan, (RIGHT, LEFT), system, digest, {})
    monkeypatch.setattr("medseg.model.ensemble.load_model", lambda *_: loaded)
    return tmp_path / "model"


AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
MIRRORED = np.array([[-SPACING_MM, 0, 0, 39 * SPACING_MM], *AFFINE[1:]])
CASES: dict[str, tuple[Callable[[], np.ndarray], np.ndarray, str]] = {
    "a-good": (thorax, AFFINE, ""),
    "b-mr": (lambda: np.abs(np.random.default_rng(0).normal(300, 150, (40, 40, 40))), AFFINE, "Hounsfield"),
    "c-raw": (lambda: thorax() + 1024, AFFINE, "do not look like Hounsfield units"),
    "d-flipped-header": (thorax, MIRRORED, "left lung lies to the right of right lung"),
    "e-half": (lambda: thorax()[:, :, 16:], AFFINE, "lie on the border of the field of view"),
    "f-no-lungs": (lambda: np.where(thorax() < -600, AIR, thorax()), AFFINE, "nothing was found"),
}


def test_what_is_unlike_training_needs_review_and_stands_first(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for name, (make, affine, _) in CASES.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(make().astype(np.int16), affine), tmp_path / "in" / f"{name}.nii.gz")
    journey = tmp_path / "walk.yaml"
    journey.write_text("name: walk\ndata: {modality: ct}\nsystem: 3d-u-net\ncompute: {cores: 1, device: cpu}\n"
                       "predict: {engine: torch, precision: fp32}\ntrack: {enabled: false}\n")  # fmt: skip
    run = tmp_path / "run"
    code = _main(["run", str(journey), "--data", str(tmp_path / "in"), "--model", str(model), "--out", str(run), "--json"])  # fmt: skip
    said = capfd.readouterr()
    assert code == 0, said.err[-3000:]
    assert json.loads(said.out)["cases"]["review"] == 5

    rows = list(csv.DictReader((run / "predictions" / "manifest" / "manifest.csv").open()))
    assert [row["state"] for row in rows] == ["review"] * 5 + ["done"]
    assert rows[-1]["case"] == "a-good"
    reasons = {row["case"]: row["reason"] for row in rows}
    for name, (_, _, words) in CASES.items():
        assert words in reasons[name], (name, reasons[name])
    half = next(row for row in rows if row["case"] == "e-half")
    assert half["left lung ml"] == "", "a volume that is not known is no number"

    page = (run / "report.html").read_text()
    section = page.index("Needs review")
    assert section < page.index("What was run")
    for name in list(CASES)[1:]:
        assert section < page.index(name)

    assert _main(["status", str(run)]) == 0
    assert "lies to the right of" in capfd.readouterr().out


def test_a_class_that_leaves_every_training_image_is_not_looked_at_for_it() -> None:
    from medseg.predict.flags import border_flags

    reasons = {"aorta": "aorta: 90 voxels lie on the border", "lung": "lung: 90 voxels lie on the border"}
    plan = a_plan().model_copy(update={"on_border": {"aorta": 1.0, "lung": 0.03}})
    assert border_flags(reasons, plan) == [reasons["lung"]]
    assert border_flags(reasons, a_plan().model_copy(update={"on_border": {}})) == list(reasons.values())


def test_the_plan_learns_which_classes_run_into_the_border() -> None:
    from medseg.core.case import Image
    from medseg.core.geometry import Geometry
    from medseg.core.segmentation import Segmentation

    grid = Geometry((40, 40, 40), AFFINE)
    labels = np.zeros(grid.shape, np.uint8)
    labels[22:32, 10:28, 8:32], labels[8:16, 10:28, 20:] = 1, 2
    seg = Segmentation(labels, grid, (RIGHT, LEFT))
    found = facts_of("a", Image(thorax()[None], grid, "CT"), seg, (RIGHT, LEFT))
    assert found.on_border == {"left lung"}
