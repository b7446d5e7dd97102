"""Windows of air around the body are left out; what the network calls background stays background."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict.air import outside_air
from medseg.predict.case import Predictor

ORGAN = ClassInfo("organ", 1, (0, 0, 0))


class Threshold(torch.nn.Module):
    """Says organ above a number of HU: background in air, whatever the window."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        hu = x * 700 - 300
        return torch.cat([torch.zeros_like(hu), (hu - self.above) / 50], dim=1)


def a_body(noise: float = 15.0, lung: bool = True) -> Image:
    """A body with lungs in air, 2.5 mm voxels, 60 x 60 x 24."""
    rng = np.random.default_rng(0)
    x, y, _ = np.ogrid[-1:1:60j, -1:1:60j, -1:1:24j]
    array = np.full((60, 60, 24), -1000.0)
    body = (x / 0.35) ** 2 + (y / 0.3) ** 2 + np.zeros((1, 1, 24)) < 1
    array[body] = 40
    if lung:
        array[((np.abs(x) - 0.16) / 0.1) ** 2 + (y / 0.2) ** 2 + np.zeros((1, 1, 24)) < 1] = -990
    array += rng.normal(0, noise, array.shape)
    return Image(array.astype(np.int16)[None], Geometry.from_spacing(array.shape, (2.5, 2.5, 2.5)))


def a_model(net: torch.nn.Module, **changes: Any) -> Model:
    values: dict[str, Any] = {
        "dims": 3, "in_channels": 1, "classes": [ORGAN.as_json()], "out_channels": 2, "spacing_mm": [3.0, 3.0, 3.0],
        "intensity": [IntensityPlan(scheme="window", low=-1000, high=400, shift=-300, scale=700)],
        "image_order": 1, "patch_size": [8, 8, 8], "batch_size": 1,
    }  # fmt: skip
    plan = Plan(**{**values, **changes})
    return Model(net.eval(), None, plan, (ORGAN,), System(name="u-net"), "0", {})


def segmented(net: torch.nn.Module, image: Image, skip: bool, **changes: Any) -> Any:
    settings = Predict(skip_air=skip, precision="fp32", engine="torch", batch_size=2)
    return Predictor(a_model(net, **changes), settings).segment(image)


def test_labels_are_the_same_and_much_of_the_work_is_saved() -> None:
    image = a_body()
    whole, part = Threshold(-200), Threshold(-200)
    full, less = segmented(whole, image, False), segmented(part, image, True)
    assert np.array_equal(full.labels, less.labels)
    assert full.labels.any()
    assert less.provenance["windows_of_air"] > 0.4 * less.provenance["windows"]
    assert part.seen < 0.65 * whole.seen


def test_only_classes_in_the_air_itself_can_change_and_only_to_background() -> None:
    class Speckled(Threshold):
        """Takes noise of the air for an organ, but not air without noise."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hu = x * 700 - 300
            organ = (hu > -200) | ((hu > -992) & (hu < -940))
            return torch.cat([torch.zeros_like(hu), organ * 2.0 - 1.13], dim=1)

    image = a_body()
    full, less = segmented(Speckled(0), image, False), segmented(Speckled(0), image, True)
    differs = full.labels != less.labels
    assert differs.any()
    assert (full.labels[differs] == 1).all()
    assert (less.labels[differs] == 0).all()
    assert (image.array[0][differs] < -900).all()


def test_air_inside_the_body_is_never_left_out() -> None:
    image = a_body(noise=0)
    safe, step = outside_air(image.array[0], image.geometry)
    fine = np.kron(safe, np.ones(step, bool))[tuple(slice(0, n) for n in image.array.shape[1:])]
    inside = np.zeros_like(fine)
    inside[18:42, 20:40] = True
    assert not (fine & inside).any()
    assert fine.any()


def test_a_trachea_that_is_cut_at_the_top_is_not_the_outside() -> None:
    array = np.full((40, 40, 20), 40.0)
    array[18:22, 18:22, :] = -1000
    safe, _ = outside_air(array, Geometry.from_spacing(array.shape, (3.0, 3.0, 3.0)))
    assert not safe.any()


def test_a_network_that_finds_something_in_pure_air_is_asked_everywhere() -> None:
    always = Threshold(-2000)
    full, less = segmented(Threshold(-2000), a_body(), False), segmented(always, a_body(), True)
    assert less.provenance["windows_of_air"] == 0
    assert np.array_equal(full.labels, less.labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"intensity": [IntensityPlan(scheme="zscore")]},
        {"background": False, "classes": [ORGAN.as_json(), ClassInfo("b", 2, (0, 0, 0)).as_json()]},
    ],
)
def test_other_images_than_ct_and_networks_without_a_background_are_left_alone(changes: dict) -> None:
    assert segmented(Threshold(0), a_body(), True, **changes).provenance["windows_of_air"] == 0


def test_overlapping_classes_have_no_voxel_in_the_air() -> None:
    changes = {"overlapping": True, "background": False, "out_channels": 1}

    class One(Threshold):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[:, 1:]

    full, less = (segmented(One(-200), a_body(), skip, **changes) for skip in (False, True))
    assert less.provenance["windows_of_air"] > 0
    assert np.array_equal(full.regions, less.regions)
