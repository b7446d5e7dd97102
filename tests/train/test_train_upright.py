"""A model remembers how its training cases lay, and says when an image fits better mirrored (U38, "flipped header")."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan, Predict
from medseg.config_plan import save_plan
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.run import RunFolder
from medseg.model.folder import load_model
from medseg.predict.case import Predictor
from medseg.predict.measured import measured
from medseg.predict.upright import NAMES, coarse, mirrored_flags
from medseg.train import stage
from medseg.train.upright import CASES, upright_facts, upright_of

SPACING_MM = 8.0
STEP_MM = 16.0
UPRIGHT = np.diag([SPACING_MM] * 3 + [1.0])
LUNG, TISSUE, AIR, BONE = -850.0, 40.0, -1000.0, 700.0


def chest(number: int) -> np.ndarray:
    """(44, 34, 38) HU at 8 mm, RAS: heart on the left (small x), spine at the back (small y), liver below on the right."""
    rng = np.random.default_rng([38, number])
    middle = np.array([22, 17, 19]) + rng.uniform(-2, 2, 3)
    scale = rng.uniform(0.92, 1.08)
    x, y, z = ((np.indices((44, 34, 38)).T - middle) / scale).T
    body = (x / 19) ** 2 + (y / 13) ** 2 < 1
    out = np.where(body, TISSUE, AIR)
    for side in (-1, 1):
        out[((x - 9 * side) / 7) ** 2 + ((y + 1) / 10) ** 2 + ((z - 3) / 14) ** 2 < 1] = LUNG
    out[((x + 5) / 6) ** 2 + ((y - 4) / 5) ** 2 + ((z + 1) / 6) ** 2 < 1] = TISSUE
    out[((x - 7) / 12) ** 2 + (y / 11) ** 2 + ((z + 14) / 9) ** 2 < 1] = TISSUE + 60
    out[(x / 2.5) ** 2 + ((y + 9) / 2.5) ** 2 < 1] = BONE
    return (out + rng.normal(0, 20, out.shape)).astype(np.float32)


def scaled(image: np.ndarray) -> np.ndarray:
    """What a network would see of it."""
    return (np.clip(image, -900, 900) - 100) / 120


def head(number: int) -> np.ndarray:
    """(26, 30, 26) numbers without a unit at 8 mm, as an MR has them: a bright face in front, a neck below, a lesion."""
    rng = np.random.default_rng([39, number])
    middle = np.array([13, 15, 14]) + rng.uniform(-1, 1, 3)
    x, y, z = (np.indices((26, 30, 26)).T - middle).T / rng.uniform(0.93, 1.07)
    out = np.where((x / 9) ** 2 + (y / 11) ** 2 + (z / 10) ** 2 < 1, 1.0, -1.0)
    out[(x / 5) ** 2 + ((y - 8) / 4) ** 2 + ((z + 4) / 6) ** 2 < 1] = 2.0
    out[(x / 4) ** 2 + ((y + 3) / 4) ** 2 < (z < -4)] = 0.5
    out[((x + 5) / 3) ** 2 + (y / 5) ** 2 + (z / 5) ** 2 < 1] = 2.5
    return (out * rng.uniform(0.8, 1.2) + rng.normal(0, 0.2, out.shape)).astype(np.float32)


def flags(facts: dict[str, Any], image: np.ndarray) -> list[str]:
    return mirrored_flags(json.loads(json.dumps(facts)), image, [SPACING_MM] * 3)


def facts_of(images: list[np.ndarray]) -> dict[str, Any]:
    made = upright_of([coarse(image, [SPACING_MM] * 3, STEP_MM) for image in images], STEP_MM)
    assert made is not None
    return made.as_json()


@pytest.fixture(scope="module")
def of_chests() -> dict[str, Any]:
    return facts_of([scaled(chest(number)) for number in range(20)])


@pytest.fixture(scope="module")
def of_heads() -> dict[str, Any]:
    return facts_of([head(number) for number in range(20)])


@pytest.mark.parametrize(("facts", "make"), [("of_chests", lambda n: scaled(chest(n))), ("of_heads", head)])
@pytest.mark.parametrize("axis", range(3), ids=NAMES)
def test_a_mirrored_image_is_flagged_along_its_axis(
    facts: str, make: Callable[[int], np.ndarray], axis: int, request: pytest.FixtureRequest
) -> None:
    for number in range(100, 105):
        found = flags(request.getfixturevalue(facts), np.flip(make(number), axis))
        assert len(found) == 1, (number, found)
        assert f"looks mirrored {NAMES[axis]}" in found[0]


@pytest.mark.parametrize(("facts", "make"), [("of_chests", lambda n: scaled(chest(n))), ("of_heads", head)])
def test_twenty_upright_images_raise_no_alarm(
    facts: str, make: Callable[[int], np.ndarray], request: pytest.FixtureRequest
) -> None:
    known = request.getfixturevalue(facts)
    assert [flags(known, make(number)) for number in range(200, 220)] == [[]] * 20


def test_half_a_field_of_view_and_other_bodies_raise_no_alarm(of_chests: dict[str, Any]) -> None:
    whole = scaled(chest(300))
    for part in (whole[:, :, :20], whole[:, :, 18:], whole[:22], whole[6:38, 4:30]):
        assert flags(of_chests, part) == []
    noise = np.random.default_rng(0).normal(size=whole.shape).astype(np.float32)
    for other in (noise, np.zeros_like(whole), head(300), whole[:6, :6, :6]):
        assert flags(of_chests, other) == []


def test_a_crop_too_short_along_an_axis_says_nothing_about_it(of_chests: dict[str, Any]) -> None:
    turned = scaled(chest(30))[:, :, ::-1]
    assert "head-foot" in " ".join(flags(of_chests, turned))
    assert not flags(of_chests, turned[:, :, 10:28])


def test_an_axis_along_which_the_cases_are_their_own_mirror_image_is_not_looked_at() -> None:
    images = [scaled(chest(number)) for number in range(20)]
    alike = [np.maximum(image, np.flip(image, 0)) for image in images]
    facts = facts_of(alike)
    assert facts["below"][0] is None
    assert facts["below"][2] is not None
    assert flags(facts, np.flip(images[0], 0)) == []


def test_four_cases_are_too_few_to_be_averaged() -> None:
    images = [coarse(scaled(chest(number)), [SPACING_MM] * 3, STEP_MM) for number in range(CASES)]
    assert upright_of(images[: CASES - 1], STEP_MM) is None
    assert upright_of(images, STEP_MM) is not None


def test_models_without_a_mean_say_nothing_and_a_damaged_one_says_so(of_chests: dict[str, Any]) -> None:
    turned = np.flip(scaled(chest(1)), 2)
    assert mirrored_flags(None, turned, [SPACING_MM] * 3) == []
    for key, value in (
        ("mean", "AAAA"),
        ("mean", "ü"),
        ("below", [None]),
        ("step_mm", 1.0),
        ("weight", None),
    ):
        assert "is damaged" in flags({**of_chests, key: value}, turned)[0], key
    assert "is damaged" in flags({"step_mm": 15}, turned)[0]


def test_blocks_are_means_about_the_middle() -> None:
    image = np.zeros((10, 8, 8), np.float32)
    image[1:5], image[5:9] = 1, 3
    found = coarse(image, (5, 5, 5), 20)
    assert found.shape == (2, 2, 2)
    assert found[0].tolist() == [[1, 1], [1, 1]]
    assert found[1].tolist() == [[3, 3], [3, 3]]
    assert np.array_equal(coarse(image[::-1], (5, 5, 5), 20), found[::-1])


@dataclass
class Stored:
    """A prepared case as far as it is read here."""

    image: np.ndarray
    geometry: Geometry

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape

    def read_image(self, low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
        assert (tuple(low), tuple(high)) == ((0, 0, 0), self.shape)
        return self.image[None].astype(np.float16)


def test_prepared_cases_give_the_facts_and_small_or_flat_ones_give_none() -> None:
    plan = Plan(dims=3, in_channels=1, classes=[], out_channels=2, spacing_mm=[SPACING_MM] * 3, image_order=1,
                intensity=[IntensityPlan(scheme="window", low=-1000, high=400)], patch_size=[16] * 3, batch_size=1)  # fmt: skip
    images = [scaled(chest(number)) for number in range(8)]
    grid = Geometry(images[0].shape, np.diag([SPACING_MM] * 3 + [1]))
    facts = upright_facts({f"c{n}": Stored(image, grid) for n, image in enumerate(images)}, plan)["upright"]
    assert facts["cases"] == 8
    assert facts["step_mm"] >= 15
    small = Geometry((6, 6, 6), np.diag([SPACING_MM] * 3 + [1]))
    assert (
        upright_facts({f"c{n}": Stored(image[:6, :6, :6], small) for n, image in enumerate(images)}, plan)
        == {}
    )
    assert upright_facts({"c": Stored(images[0], grid)}, plan) == {}
    flat = plan.model_copy(update={"dims": 2})
    assert upright_facts({f"c{n}": Stored(image, grid) for n, image in enumerate(images)}, flat) == {}


def a_run(tmp_path: Path) -> tuple[Pipeline, RunFolder]:
    """Nine chests as far as ingest takes them, one of them held out."""
    from medseg.data.cohort import find_cases, load_cohort, save_cohort
    from medseg.ingest.stage import run as ingest

    lines = ["case,image,label,split"]
    for number in range(9):
        image = chest(number).astype(np.int16)
        for kind, array in (("i", image), ("l", (image < -600).astype(np.uint8))):
            nibabel.save(nibabel.Nifti1Image(array, UPRIGHT), tmp_path / f"{kind}{number}.nii.gz")
        lines.append(f"c{number},i{number}.nii.gz,l{number}.nii.gz,{'val' if number == 8 else 'train'}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    pipeline = Pipeline(
        name="chests",
        data={"manifest": str(tmp_path / "cases.csv"), "modality": "ct", "classes": {"dark": 1}},
        system={"name": "3d-u-net", "size": "tiny"},
        train={"steps": 2, "augment": "none", "precision": "fp32"},
        compute={"cores": 1, "device": "cpu"},
        track={"enabled": False},
    )
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    cohort = find_cases(pipeline.data)
    save_cohort(cohort, folder, [{"status": "ok", "reason": "", "content": row.case} for row in cohort.rows])
    classes = [info.as_json() for info in load_cohort(folder).classes]
    plan = Plan(dims=3, in_channels=1, classes=classes, out_channels=2, spacing_mm=[SPACING_MM] * 3, image_order=1,
                intensity=[IntensityPlan(scheme="window", low=-1000, high=400)], patch_size=[32] * 3, batch_size=1)  # fmt: skip
    save_plan(plan, folder.plan)
    ingest(pipeline, folder)
    return pipeline, folder


def test_a_model_trained_for_two_steps_finds_the_flipped_header(tmp_path: Path) -> None:
    pipeline, folder = a_run(tmp_path)
    stage.run(pipeline, folder)
    model = load_model(folder.model)
    assert model.facts["upright"]["cases"] == 8

    predictor = Predictor(model, Predict(engine="torch", precision="fp32"))
    flipped = np.diag([SPACING_MM, SPACING_MM, -SPACING_MM, 1.0])
    for affine, wanted in ((UPRIGHT, False), (flipped, True)):
        image = Image(chest(50)[None], Geometry((44, 34, 38), affine), "CT")
        found = measured(predictor, image, predictor.segment(image))["flags"]
        assert any("looks mirrored head-foot" in flag for flag in found) == wanted, found
