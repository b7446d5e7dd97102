"""One person on the table: everything painted in order, and the distances to both lungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.data.ct_chest import abdomen, body, lungs, mediastinum, surroundings
from medseg.data.ct_chest.canvas import Canvas, Field
from medseg.data.ct_chest.chest import Chest


@dataclass(frozen=True)
class Person:
    """HU on the canvas's grid, the signed distance in mm to each lung (negative inside), contrast agent or not."""

    canvas: Canvas
    right: Field
    left: Field
    contrast: bool


def paint_person(
    chest: Chest, low_mm: Sequence[float], high_mm: Sequence[float], step_mm: float, rng: np.random.Generator
) -> Person:
    """Paints the part of a person between two corners in mm (patient frame, carina at the origin)."""
    canvas = Canvas(low_mm, high_mm, step_mm, rng)
    cage, skin = chest.cage(canvas), body.outline(canvas, chest)
    surroundings.paint_arms(canvas, chest)
    surroundings.paint_head(canvas, chest)
    body.paint_trunk(canvas, chest, skin, cage)
    under = np.where(canvas.x > 0, -chest.diaphragm(canvas, 1), -chest.diaphragm(canvas, -1)).astype(
        np.float32
    )
    _paint_inside(canvas, chest, cage, under)
    organs = mediastinum.draw_mediastinum(canvas, chest)
    right, left = _paint_lungs(canvas, chest, cage, organs)
    body.paint_bones(canvas, chest, cage)
    body.paint_pelvis(canvas, chest, min(chest.dome_left, chest.dome_right) - rng.uniform(300, 360))
    surroundings.paint_devices(canvas, chest)
    lowest = float(np.min(chest.back(np.linspace(-250, 60, 30)))) - chest.back_fat - chest.muscle
    if rng.random() < 0.85:
        surroundings.paint_table(canvas, skin, lowest)
    surroundings.paint_covers(canvas, skin)
    return Person(canvas, right, left, organs.contrast_hu > 0)


def _paint_inside(canvas: Canvas, chest: Chest, cage: Field, under: Field) -> None:
    if float(canvas.axes[2][0]) < max(chest.dome_left, chest.dome_right):
        abdomen.paint_abdomen(canvas, chest, cage, under)


def _paint_lungs(
    canvas: Canvas, chest: Chest, cage: Field, organs: mediastinum.Mediastinum
) -> tuple[Field, Field]:
    shapes: dict[int, Field] = {}
    domes = {side: chest.diaphragm(canvas, side) for side in (lungs.RIGHT, lungs.LEFT)}
    # All above the domes is mediastinum first; then the lungs take their part of it.
    above = np.maximum(cage, np.where(canvas.x > 0, domes[1], domes[-1])).astype(np.float32)
    mediastinum.paint_mediastinum(canvas, organs, above)
    for side, dome in domes.items():
        slab = lungs.mediastinum_shape(canvas, chest, side)
        between = mediastinum.keep_lungs_out(canvas, organs, -slab)
        shapes[side] = lungs.lung_shape(cage, dome, between)
    lungs.fill_lungs(canvas, chest, shapes)
    lungs.add_focal_disease(canvas, chest, shapes)
    return shapes[lungs.RIGHT], shapes[lungs.LEFT]
