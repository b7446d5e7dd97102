"""Mirrored copies: averaged where mirroring keeps the meaning, sides exchanged where the network learnt it so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict.case import predict_case
from medseg.predict.mirrors import Mirrors, mirrors_of
from medseg.predict.windows import predict_logits

SIDES = [
    ClassInfo("right lung", 1, (0, 0, 255), laterality="right"),
    ClassInfo("left lung", 2, (255, 0, 0), laterality="left"),
]


def plan(**changes: object) -> Plan:
    facts = {"dims": 3, "in_channels": 1, "classes": [info.as_json() for info in SIDES], "out_channels": 3, "spacing_mm": [1, 1, 1],
             "intensity": [IntensityPlan(scheme="none")], "patch_size": [8, 8, 8], "batch_size": 1, "image_order": 1}  # fmt: skip
    return Plan.model_validate({**facts, **changes})


class ByPlace(nn.Module):
    """Knows sides by their place alone, and is sure of the one where the first axis is low only: an asymmetry."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[2], dtype=x.dtype).reshape(-1, 1, 1).expand(x.shape[2:])
        low = (places < x.shape[2] / 2).to(x.dtype)
        seen = x[:, 0]
        right, left = 3 * seen * low, 0.5 * seen * (1 - low)
        return torch.stack([1 - seen, right, left], dim=1)


def test_the_mirrored_copy_with_exchanged_sides_gives_both_sides_the_same_certainty() -> None:
    image = torch.ones(1, 8, 8, 8)
    plain = predict_logits(ByPlace(), image, (8, 8, 8), 3)
    both = predict_logits(ByPlace(), image, (8, 8, 8), 3, mirrors=Mirrors((0,), 0, ((2, 1),)))
    assert plain[1, 0, 0, 0] == 3
    assert plain[2, 7, 0, 0] == 0.5
    torch.testing.assert_close(both[1], both[2].flip(0))
    assert both[1, 0, 0, 0] == both[2, 7, 0, 0] == 1.75
    assert both[2, 0, 0, 0] == both[1, 7, 0, 0] == 0


def test_without_the_exchange_a_mirrored_copy_would_blur_the_sides() -> None:
    image = torch.ones(1, 8, 8, 8)
    blurred = predict_logits(ByPlace(), image, (8, 8, 8), 3, mirrors=Mirrors((0,)))
    assert blurred[1, 0, 0, 0] == blurred[1, 7, 0, 0] == 1.5


@pytest.mark.parametrize(
    ("flips", "changes", "copies"),
    [
        (False, {"mirror_axes": [0, 1], "flips": True}, 1),
        ("auto", {"mirror_axes": [0, 1]}, 1),
        ("auto", {"mirror_axes": [0, 1], "flips": True}, 4),
        (True, {"mirror_axes": [1, 2]}, 4),
        (True, {"mirror_axes": [1, 2], "swap_sides": True}, 8),
        (True, {}, 1),
        (True, {"swap_sides": True}, 2),
    ],
)
def test_copies_follow_the_setting_and_what_the_model_learnt(
    flips: bool | str, changes: dict[str, object], copies: int
) -> None:
    assert len(mirrors_of(Predict(flips=flips), plan(**changes)).copies) == copies


def test_an_organ_without_a_partner_forbids_the_exchange() -> None:
    alone = plan(classes=[SIDES[0].as_json()], out_channels=2, swap_sides=True)
    assert mirrors_of(Predict(flips=True), alone) == Mirrors()


@pytest.mark.parametrize("axes", [("R", "A", "S"), ("L", "P", "S"), ("A", "S", "L")])
def test_sides_stay_on_their_side_however_the_file_lies(axes: tuple[str, ...]) -> None:
    """The network calls right what is low on the first axis of the frame it sees, whatever the file's order."""
    table = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1)}
    affine = np.eye(4)
    affine[:3, :3] = np.array([table[a] for a in axes]).T
    image = Image(np.ones((1, 8, 8, 8), np.float32), Geometry((8, 8, 8), affine), ("ct",))
    model = Model(
        ByPlace().eval(),
        None,
        plan(swap_sides=True, flips=True),
        tuple(SIDES),
        System(name="3d-u-net"),
        "f00d" * 16,
        {},
    )
    labels = predict_case(model, image).labels
    right = np.array([affine @ [*v, 1] for v in np.argwhere(labels == 1)])[:, 0]
    left = np.array([affine @ [*v, 1] for v in np.argwhere(labels == 2)])[:, 0]
    assert len(right) == len(left) == 256
    assert right.max() < left.min()
