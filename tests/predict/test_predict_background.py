"""`predict.guided_filter.background`: doubtful rims are kept for the filter, and probabilities stay as they were."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.config_types import GuidedFilter
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.ingest.prepare import PreparedImage
from medseg.model.folder import Model
from medseg.predict.case import predict_case
from medseg.predict.slanted import painter_of
from medseg.predict.stream import Painter
from medseg.predict.windows import Slab

SHIFT = math.log(3)  # odds of 0.75


def a_plan(channels: int, **changes: Any) -> Plan:
    return Plan(dims=3, in_channels=1, classes=[], out_channels=channels, batch_size=1, patch_size=[16, 16, 16],
                intensity=[IntensityPlan(scheme="none")], **changes)  # fmt: skip


def prepared(spacing: float, straight: bool) -> PreparedImage:
    source = Geometry.from_spacing((12, 14, 10), (1.0, 1.0, 1.0))
    grid = source.with_spacing((spacing, spacing, spacing))
    empty = np.zeros((1, 1, 1, 1), np.float32)
    return PreparedImage(empty, grid, source, (0, 1, 2), (), (0, 0, 0), source.shape, straight)


def painted(painter: Painter, logits: torch.Tensor) -> Any:
    for start in range(0, logits.shape[1], 3):
        stop = min(start + 3, logits.shape[1])
        painter.take(Slab(0, start, stop, logits[:, start:stop].clone()))
    return painter.finish()


@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize("spacing", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["exclusive", "overlapping", "no background"])
def test_labels_are_those_of_shifted_logits_and_probabilities_are_not(
    straight: bool, spacing: float, kind: str
) -> None:
    case = prepared(spacing, straight)
    logits = torch.randn(3, *case.geometry.shape, generator=torch.Generator().manual_seed(3))
    plan = a_plan(3, overlapping=kind == "overlapping", background=kind == "exclusive")
    shifted = logits.clone()
    if kind == "overlapping":
        shifted += SHIFT
    elif kind == "exclusive":
        shifted[0] -= SHIFT
    chances: list[dict[str, torch.Tensor]] = [{}, {}]

    def sink(found: dict[str, torch.Tensor]) -> Any:
        return lambda box, values: found.update({str(box): values.clone()})

    labels, regions = painted(painter_of(case, plan, 0, sink(chances[0]), 0.75), logits)
    wanted_labels, wanted_regions = painted(painter_of(case, plan, 0), shifted)
    painted(painter_of(case, plan, 0, sink(chances[1])), logits)
    np.testing.assert_array_equal(labels, wanted_labels)
    np.testing.assert_array_equal(regions, wanted_regions)
    assert len(chances[0]) == len(chances[1]) > 0
    for box, values in chances[1].items():
        torch.testing.assert_close(chances[0][box], values)


@pytest.mark.parametrize("overlapping", [True, False])
def test_planes_of_probabilities_lean_like_slabs_of_logits(overlapping: bool) -> None:
    case = prepared(1.0, True)
    logits = torch.randn(3, *case.geometry.shape, generator=torch.Generator().manual_seed(5))
    plan = a_plan(3, overlapping=overlapping, background=not overlapping)
    wanted = painted(painter_of(case, plan, 0, background=0.75), logits)
    painter = painter_of(case, plan, 0, background=0.75)
    for index, plane in enumerate(logits.unbind(1)):
        painter.put(index, plane.sigmoid() if overlapping else plane.softmax(0))
    for found, one in zip(painter.finish(), wanted, strict=True):
        np.testing.assert_array_equal(found, one)


class Dim(torch.nn.Module):
    """Sure of a class in a dark ball, and a third sure of it in a thin dark plate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chance = torch.where(x < 0.25, 0.95, torch.where(x < 0.5, 0.35, 0.02))
        return torch.cat([(1 - chance).log(), chance.log()], dim=1)


def test_a_thin_part_that_is_less_than_half_likely_is_kept_and_cut_at_its_edges() -> None:
    hu = np.full((30, 30, 30), 40.0, np.float32)
    hu[4:14, 4:26, 4:26] = -850
    hu[20:23, 4:26, 4:26] = -500
    plan = a_plan(2, background=True, spacing_mm=[1, 1, 1], image_order=1).model_copy(update={
        "intensity": [IntensityPlan(scheme="window", low=-1000, high=400, shift=-1000, scale=1400)],
        "guided_filter": GuidedFilter(radius_mm=3, background=0.75)})  # fmt: skip
    info = ClassInfo("lung", 1, (255, 0, 0))
    model = Model(Dim().eval(), None, plan, (info,), System(name="3d-u-net"), "f00d" * 16, {})
    image = Image(hu[None], Geometry.from_spacing((30, 30, 30), (1, 1, 1)))
    found = predict_case(model, image).labels
    assert found[20:23, 8:22, 8:22].all()
    assert not found[16:18].any()
    assert not found[26:].any()
    usual = Predict(guided_filter=GuidedFilter(radius_mm=3))
    assert not predict_case(model, image, usual).labels[20:23].any()
    assert not predict_case(model, image, Predict(guided_filter="none")).labels[20:23].any()
