"""The way back: labels on the case's own grid, equal to those of the dense computation, slab by slab."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan
from medseg.core.geometry import Geometry, reorient_array
from medseg.ingest.prepare import PreparedImage
from medseg.ingest.resample import axis_matrix
from medseg.ingest.straighten import straight_grid
from medseg.predict.slanted import SlantedPainter
from medseg.predict.stream import Painter
from medseg.predict.windows import Slab

ORACLES = Path(__file__).parents[1] / "oracles"


def a_plan(channels: int, **changes: Any) -> Plan:
    return Plan(
        **{
            "dims": 3,
            "in_channels": 1,
            "classes": [],
            "out_channels": channels,
            "intensity": [IntensityPlan(scheme="none")],
            "patch_size": [16, 16, 16],
            "batch_size": 1,
            **changes,
        }
    )


def prepared_on(source: Geometry, spacing: Any, low: Any = None, high: Any = None) -> PreparedImage:
    turned, order, flips = source.reoriented()
    low, high = low or (0, 0, 0), high or turned.shape
    kept = turned.cropped(low, [h - lo for lo, h in zip(low, high)])
    grid = kept.with_spacing(spacing)
    return PreparedImage(
        np.zeros((1, 1, 1, 1), np.float32), grid, source, order, flips, tuple(low), tuple(high)
    )


def painted(
    prepared: PreparedImage, plan: Plan, logits: torch.Tensor, lead: int, step: int, sink: Any = None
) -> Any:
    painter = Painter(prepared, plan, lead, sink)
    for start in range(0, logits.shape[lead + 1], step):
        stop = min(start + step, logits.shape[lead + 1])
        lent = logits.narrow(lead + 1, start, stop - start).clone()
        painter.take(Slab(lead, start, stop, lent))
        lent.fill_(float("nan"))
    return painter.finish()


def dense(
    prepared: PreparedImage, logits: np.ndarray, orders: tuple[int, ...] = (1, 1, 1), widen: bool = False
) -> Any:
    """All logits on the cropped case, the slow and plain way."""
    out = logits.astype(np.float64)
    for axis, order in enumerate(orders):
        matrix = axis_matrix(out.shape[axis + 1], prepared.kept.shape[axis], order, widen).astype(np.float64)
        out = np.moveaxis(np.tensordot(out, matrix, axes=([axis + 1], [1])), -1, axis + 1)
    return out


@pytest.mark.parametrize("case", ["ex0", "ex1"])
@pytest.mark.parametrize("lead", [0, 1, 2])
def test_labels_and_probabilities_are_those_of_nnunet(case: str, lead: int) -> None:
    table = np.load(ORACLES / "predict_export.npz")
    facts = next(
        row for row in json.loads((ORACLES / "predict_export.json").read_text()) if row["case"] == case
    )
    logits = table[f"{case}_logits"].astype(np.float32)
    order = facts["transpose_forward"]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for new, old in enumerate(order):
        affine[new, old] = facts["spacing"][old]
    low, high = zip(*facts["bbox_transposed"])
    prepared = prepared_on(Geometry(facts["original_shape"], affine), (1, 1, 1), low, high)
    grid = prepared.kept.with_spacing(facts["target_spacing_transposed"], logits.shape[1:])
    prepared = PreparedImage(
        prepared.array, grid, prepared.source, prepared.order, (), prepared.low, prepared.high
    )
    assert prepared.order == tuple(order)

    chances = np.zeros((3, *prepared.kept.shape), np.float32)

    def sink(box: tuple[slice, ...], values: torch.Tensor) -> None:
        chances[(slice(None), *box)] = values.numpy()

    plan = a_plan(3, image_order=3)
    labels, _ = painted(prepared, plan, torch.from_numpy(logits), lead, 4, sink)
    ours = reorient_array(labels, prepared.order, ())[prepared.box]
    assert labels.shape == tuple(facts["original_shape"])
    theirs = reorient_array(table[f"{case}_seg"], order, ())
    outside = np.ones(theirs.shape, bool)
    outside[prepared.box] = False
    assert not reorient_array(labels, order, ())[outside].any()
    ranked = np.sort(np.log(chances), axis=0)
    differs = ours != theirs[prepared.box]
    # The reference rounds interpolated logits to float16: two of them, near 2, move by 0.001 each.
    assert (ranked[-1] - ranked[-2])[differs].max(initial=0) < 2e-3
    wanted = reorient_array(table[f"{case}_probabilities"].astype(np.float32), order, ())[
        (slice(None), *prepared.box)
    ]
    assert np.abs(chances - wanted).max() < 1.5e-3


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (0.6, 2.0, 1.1), (1.0, 1.0, 1.0), (0.5, 0.5, 0.4)])
@pytest.mark.parametrize("smooth", [True, False])
def test_streamed_labels_equal_the_dense_ones(spacing: Any, smooth: bool) -> None:
    source = Geometry.from_spacing((21, 26, 19), (1.0, 1.0, 1.0))
    prepared = prepared_on(source, spacing, (2, 0, 1), (19, 26, 18))
    logits = torch.randn(5, *prepared.geometry.shape)
    if smooth:
        coarse = torch.randn(1, 5, 3, 3, 3)
        logits = torch.nn.functional.interpolate(coarse, prepared.geometry.shape, mode="trilinear")[0]
    everywhere = dense(prepared, logits.numpy(), widen=True)
    for lead, step in product(range(3), (1, 7)):
        labels, _ = painted(prepared, a_plan(5, image_order=1), logits, lead, step)
        best = np.sort(everywhere, axis=0)
        differs = labels[prepared.box] != everywhere.argmax(0)
        assert (best[-1] - best[-2])[differs].max(initial=0) < 1e-5


def test_regions_are_painted_one_by_one() -> None:
    source = Geometry.from_spacing((21, 26, 19), (1.0, 1.0, 1.0))
    prepared = prepared_on(source, (1.7, 1.4, 2.0))
    logits = torch.randn(3, *prepared.geometry.shape)
    plan = a_plan(3, overlapping=True, background=False, image_order=1)
    everywhere = dense(prepared, logits.numpy())
    for lead in range(3):
        _, regions = painted(prepared, plan, logits, lead, 4)
        assert regions.dtype == bool
        assert regions.shape == (3, *source.shape)
        assert np.abs(everywhere[regions != (everywhere > 0)]).max(initial=0) < 1e-5


def orientations() -> list[np.ndarray]:
    found = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for signs in product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            for column, (row, sign) in enumerate(zip(order, signs)):
                matrix[row, column] = sign
            found.append(matrix)
    return found


def test_labels_lie_at_the_same_place_for_all_48_orders_of_the_axes() -> None:
    """The logits are a function of the place in mm, so must be the labels, whatever order the file has."""
    upright = Geometry.from_spacing((18, 16, 20), (1.0, 1.5, 0.8), (-3, 4, 7))
    logits = torch.randn(4, *upright.with_spacing((1.6, 1.6, 1.6)).shape)
    expected, _ = painted(prepared_on(upright, (1.6, 1.6, 1.6)), a_plan(4), logits, 0, 5)
    for matrix in orientations():
        order = [int(np.abs(matrix[:, column]).argmax()) for column in range(3)]
        shape = tuple(upright.shape[o] for o in order)
        affine = np.eye(4)
        affine[:3, :3] = matrix * np.array([upright.spacing[o] for o in order])
        corner = [0 if matrix[:, c].sum() > 0 else shape[c] - 1 for c in range(3)]
        affine[:3, 3] = np.array([-3, 4, 7]) - affine[:3, :3] @ corner
        stored = Geometry(shape, affine)
        labels, _ = painted(prepared_on(stored, (1.6, 1.6, 1.6)), a_plan(4), logits, 2, 5)
        assert labels.shape == shape
        _, perm, flips = stored.reoriented()
        assert np.array_equal(reorient_array(labels, perm, flips), expected)


def test_memory_of_the_way_back_does_not_grow_with_the_classes() -> None:
    """What is kept between slabs is planes, never classes x case."""
    source = Geometry.from_spacing((64, 64, 64), (1.0, 1.0, 1.0))
    prepared = prepared_on(source, (2.0, 2.0, 2.0))
    painter = Painter(prepared, a_plan(60), 2)
    logits = torch.randn(60, *prepared.geometry.shape)
    for start in range(0, 32, 8):
        painter.take(Slab(2, start, start + 8, logits[..., start : start + 8]))
        assert sum(t.numel() for t in painter._waiting) <= 60 * 32 * 32 * 2
    assert painter.positions.nbytes == 64**3


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_tilted_grid_gets_the_labels_of_the_same_places(overlapping: bool) -> None:
    """Logits that are linear in mm survive interpolation, so labels on the tilted grid follow from the place alone."""
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    affine[1, 2] = 3.0 * np.tan(np.radians(15))
    source = Geometry((30, 34, 16), affine)
    _, order, flips = source.reoriented()
    grid = straight_grid(source, (1.5, 1.5, 1.5))
    prepared = PreparedImage(
        np.zeros((1, 1, 1, 1), np.float32), grid, source, order, flips, (0, 0, 0), source.shape, False
    )
    rng = np.random.default_rng(0)
    slopes, middle = rng.normal(size=(4, 3)), grid.to_world((np.array(grid.shape) - 1) / 2)

    def logits_at(geometry: Geometry) -> np.ndarray:
        places = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1)) - middle
        return np.moveaxis(places @ slopes.T, -1, 0)

    wanted = logits_at(source)
    plan = a_plan(4, overlapping=overlapping, background=not overlapping)
    logits = torch.from_numpy(logits_at(grid).astype(np.float32))
    for lead in range(3):
        painter = SlantedPainter(prepared, plan, lead)
        for start in range(0, grid.shape[lead], 6):
            stop = min(start + 6, grid.shape[lead])
            painter.take(Slab(lead, start, stop, logits.narrow(lead + 1, start, stop - start)))
        labels, regions = painter.finish()
        if overlapping:
            inner = np.abs(wanted) > 1.5 * np.abs(slopes).sum(1)[:, None, None, None]
            assert np.array_equal(regions[inner], (wanted > 0)[inner])
        else:
            assert np.mean(labels == wanted.argmax(0)) > 0.97
            inside = (slice(2, -2),) * 3
            best = np.sort(wanted, axis=0)
            differs = (labels != wanted.argmax(0))[inside]
            assert (best[-1] - best[-2])[inside][differs].max(initial=0) < 1e-3
