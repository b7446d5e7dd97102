"""Heart, great vessels, windpipe, gullet and the fat between the lungs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medseg.data.ct_chest.body import spine_centre
from medseg.data.ct_chest.canvas import Box, Canvas, Field, smooth_min
from medseg.data.ct_chest.chest import Chest

Shape = tuple[Field, Box]


@dataclass
class Mediastinum:
    """Shapes in the order they are painted, each with its HU; `solid` keeps the lungs out, `airway` is the lumen."""

    solid: list[tuple[Shape, float]]
    airway: list[Shape]
    gullet: Shape
    gullet_gas: bool
    contrast_hu: float


def draw_mediastinum(canvas: Canvas, chest: Chest) -> Mediastinum:
    """Places the organs between the lungs."""
    rng = canvas.rng
    scale = chest.half_width / 125
    contrast = float(rng.choice([0.0, 0.0, 90.0, 200.0, 330.0])) * rng.uniform(0.7, 1.2)
    blood = 42 + contrast
    heart = _heart(canvas, chest, scale)
    solid = [(_grown(heart, 3.0), -80.0), (heart, 45 + contrast * rng.uniform(0.3, 0.9))]
    spine_y = float(spine_centre(chest, np.float32(0)))
    radius = scale * rng.uniform(9, 16)
    ascending = (10 * scale, heart_front(chest), -30 * scale)
    arch = [ascending, (12 * scale, heart_front(chest) - 5, 18), (-4, spine_y + 58 * scale, 36 * scale),
            (-20 * scale, spine_y + 26 * scale, 22), (-22 * scale, spine_y + 20 * scale, -30),
            (-16 * scale, spine_y + 20 * scale, -160), (-6 * scale, spine_y + 26 * scale, -330)]  # fmt: skip
    solid += [(shape, blood) for shape in _chain(canvas, arch, radius)]
    cava = [(24 * scale, heart_front(chest) - 8, 60), (24 * scale, heart_front(chest) - 10, -40)]
    solid += [(shape, blood + contrast * rng.uniform(0, 1.5)) for shape in _chain(canvas, cava, 8 * scale)]
    middle = float(chest.back(np.float32(-15))) + 0.5 * chest.depth
    for side in (-1, 1):
        hub = (side * 42 * scale, middle - 10, -22)
        solid += [
            (s, blood)
            for s in _chain(canvas, [(0, heart_front(chest) - 15, -12), hub], rng.uniform(8, 12) * scale)
        ]
        if rng.random() < 0.35:
            mass = canvas.ellipsoid(
                (side * 38 * scale, middle - 10, rng.uniform(-45, 5)), rng.uniform(12, 30, 3)
            )
            solid.append((mass, rng.uniform(20, 90)))
    gullet = canvas.tube((0, spine_y + 24 * scale, 140), (-8, spine_y + 28 * scale, -150), 8 * scale)
    return Mediastinum(
        solid, _airways(canvas, chest, spine_y, scale), gullet, bool(rng.random() < 0.4), contrast
    )


def heart_front(chest: Chest) -> float:
    """y of the great vessels' roots."""
    return float(chest.back(np.float32(0))) + 0.66 * chest.depth


def _heart(canvas: Canvas, chest: Chest, scale: float) -> Shape:
    rng = canvas.rng
    floor = 0.5 * (chest.dome_right + chest.dome_left)
    radii = scale * np.array([rng.uniform(48, 72), rng.uniform(36, 52), rng.uniform(42, 58)])
    centre = (
        rng.uniform(-32, -12) * scale,
        heart_front(chest) - 12,
        max(floor + 28, -95 * scale) + rng.uniform(-5, 12),
    )
    angle = rng.uniform(0.2, 0.7)
    # The long axis points to the patient's left, forward and down.
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    swing = rng.uniform(0.1, 0.6)
    turn = turn @ np.array([[np.cos(swing), -np.sin(swing), 0], [np.sin(swing), np.cos(swing), 0], [0, 0, 1]])
    return canvas.ellipsoid(centre, radii, turn=turn)


def _grown(shape: Shape, by_mm: float) -> Shape:
    return shape[0] - np.float32(by_mm), shape[1]


def _chain(canvas: Canvas, points: Sequence[Sequence[float]], radius: float) -> list[Shape]:
    return [canvas.tube(a, b, radius) for a, b in pairwise(points)]


def _airways(canvas: Canvas, chest: Chest, spine_y: float, scale: float) -> list[Shape]:
    rng = canvas.rng
    wide = scale * rng.uniform(6.5, 10)
    split = (rng.uniform(-3, 5), spine_y + 42 * scale, 0.0)
    right = (scale * 36, split[1] - 6, -28 * scale)
    left = (-scale * 42, split[1] - 8, -32 * scale)
    return [
        canvas.tube((split[0], split[1] + 14, 200), split, wide),
        canvas.tube(split, right, 0.85 * wide, 0.6 * wide),
        canvas.tube(split, left, 0.75 * wide, 0.55 * wide),
    ]


def keep_lungs_out(canvas: Canvas, organs: Mediastinum, slab: Field) -> Field:
    """The mediastinum's shape for one lung: the slab with every organ and the walled airways joined to it."""
    shape = slab.copy()
    for (distance, box), _ in organs.solid:
        shape[box] = smooth_min(shape[box], distance - 1.0, 4.0)
    for distance, box in [*organs.airway, organs.gullet]:
        shape[box] = smooth_min(shape[box], distance - 3.0, 3.0)
    return shape


def paint_mediastinum(canvas: Canvas, organs: Mediastinum, cage: Field) -> None:
    """Fat, organs, and the airways with their walls."""
    rng = canvas.rng
    filling = rng.uniform(-100, 20) + 15 * canvas.noise(20)
    canvas.paint(cage, filling.astype(np.float32))
    for (distance, box), hu in organs.solid:
        canvas.paint(distance, (hu + 10 * canvas.noise(20, box)).astype(np.float32), box)
    distance, box = organs.gullet
    canvas.paint(distance, 35.0, box)
    if organs.gullet_gas:
        canvas.paint(distance + rng.uniform(3, 5), -900.0, box)
    for distance, box in organs.airway:
        canvas.paint(distance - 2.0, 20.0, box)
    for distance, box in organs.airway:
        canvas.paint(distance, -990.0, box)
