"""What lies below the diaphragm: liver, spleen, stomach, kidneys, bowel with gas, fat."""

from __future__ import annotations

import numpy as np

from medseg.data.ct_chest.canvas import Box, Canvas, Field, smooth_max
from medseg.data.ct_chest.chest import Chest

GAS_HU = -960.0


def paint_abdomen(canvas: Canvas, chest: Chest, cage: Field, under: Field) -> None:
    """Fills the cavity; `under` is the distance to all that lies below both domes (negative inside)."""
    rng = canvas.rng
    cavity = np.maximum(cage + rng.uniform(1, 4), under + rng.uniform(1.5, 4))
    canvas.paint(np.maximum(cage, under), 50.0)
    canvas.paint(cavity, (rng.uniform(-112, -95) + 10 * canvas.noise(25)).astype(np.float32))
    scale = chest.half_width / 125
    bright = float(rng.choice([0.0, 30.0, 60.0]))
    _bowel(canvas, chest, cavity, int(rng.integers(20, 70)))
    _kidneys(canvas, chest, cavity, bright, scale)
    _stomach(canvas, chest, cavity, scale)
    _spleen(canvas, chest, cavity, bright, scale)
    _liver(canvas, chest, cavity, bright, scale)
    if rng.random() < 0.5:
        _flexure(canvas, chest, cavity)


def _clip(shape: Field, box: Box, cavity: Field, margin: float = 1.0) -> Field:
    return np.maximum(shape, cavity[box] + np.float32(margin))


def _liver(canvas: Canvas, chest: Chest, cavity: Field, bright: float, scale: float) -> None:
    rng = canvas.rng
    height = scale * rng.uniform(110, 190)
    bottom = chest.dome_right - height
    left_lobe = rng.uniform(-70, 0) * scale
    box = canvas.box((left_lobe, -chest.depth, bottom - 30), (2 * chest.half_width, chest.depth, 200))
    x, y, z = canvas.at(box)
    shape = smooth_max(cavity[box] + 1.0, left_lobe - x, 20.0)
    lower = bottom + np.clip(0.55 * height * (1 - x / chest.half_width), 0, height * 0.75)
    shape = smooth_max(shape, lower - z, 15.0)
    shape = smooth_max(shape, np.float32(-0.28 * chest.depth) - y + 0.4 * np.clip(30 - x, 0, 80), 15.0)
    tissue = rng.uniform(35, 65) + bright + 8 * canvas.noise(18, box)
    canvas.paint(shape, tissue.astype(np.float32), box)
    veins = np.hypot(canvas.noise(40, box), canvas.noise(40, box))
    canvas.paint(np.maximum(shape + 6, (veins - 0.15) * 12), 45 + 2 * bright, box, 0.7)


def _spleen(canvas: Canvas, chest: Chest, cavity: Field, bright: float, scale: float) -> None:
    rng = canvas.rng
    centre = (-0.68 * chest.half_width, -0.28 * chest.depth, chest.dome_left - rng.uniform(35, 75))
    shape, box = canvas.ellipsoid(centre, scale * np.array([32, 38, rng.uniform(38, 65)]))
    canvas.paint(_clip(shape, box, cavity), rng.uniform(40, 60) + 1.2 * bright, box)


def _stomach(canvas: Canvas, chest: Chest, cavity: Field, scale: float) -> None:
    rng = canvas.rng
    centre = np.array([-0.42 * chest.half_width, 0.12 * chest.depth, chest.dome_left - rng.uniform(15, 60)])
    radii = scale * np.array([rng.uniform(28, 62), rng.uniform(30, 65), rng.uniform(35, 80)])
    shape, box = canvas.ellipsoid(centre, radii)
    shape = _clip(shape, box, cavity, 0.5)
    canvas.paint(shape, 40.0, box)
    food = rng.uniform(-60, 60) + rng.choice([5.0, 60.0, 200.0]) * canvas.noise(8, box)
    inner = shape + np.float32(rng.uniform(2, 4))
    canvas.paint(inner, np.clip(food, -950, 300).astype(np.float32), box)
    if rng.random() < 0.85:
        # The patient lies on the back: gas collects in front of a level.
        level = centre[1] + rng.uniform(-0.9, 0.9) * radii[1]
        canvas.paint(np.maximum(inner, np.float32(level) - canvas.y[box]), GAS_HU, box)


def _kidneys(canvas: Canvas, chest: Chest, cavity: Field, bright: float, scale: float) -> None:
    rng = canvas.rng
    for side in (-1, 1):
        centre = (side * 58 * scale, -0.26 * chest.depth, chest.dome_left - rng.uniform(95, 140))
        shape, box = canvas.ellipsoid(centre, scale * np.array([27, 25, rng.uniform(45, 58)]))
        canvas.paint(_clip(shape, box, cavity), 35 + 2 * bright, box)


def _bowel(canvas: Canvas, chest: Chest, cavity: Field, loops: int) -> None:
    rng = canvas.rng
    top = min(chest.dome_left, chest.dome_right) - 25
    gas_share = rng.uniform(0.1, 0.8)
    for _ in range(loops):
        start = np.array([rng.uniform(-0.85, 0.85) * chest.half_width, rng.uniform(-0.2, 0.55) * chest.depth,
                          top - rng.uniform(0, 340)])  # fmt: skip
        end = start + rng.normal(0, 28, 3)
        _loop(canvas, cavity, start, end, rng.uniform(8, 26), gas_share)


def _loop(
    canvas: Canvas, cavity: Field, start: np.ndarray, end: np.ndarray, radius: float, gas_share: float
) -> None:
    rng = canvas.rng
    shape, box = canvas.tube(start, end, radius)
    if 0 in shape.shape:
        return
    shape = _clip(shape + 0.12 * radius * canvas.noise(30, box), box, cavity, 0.0)
    canvas.paint(shape, 45.0, box)
    inner = shape + np.float32(rng.uniform(1.5, 3))
    kind = rng.random()
    if kind < 0.35:
        content = rng.uniform(0, 40) + 0 * shape
    elif kind < 0.7:
        content = rng.uniform(-250, 80) + rng.uniform(40, 260) * canvas.noise(7, box)
    else:
        content = float(rng.choice([20.0, 250.0, 500.0])) + 0 * shape
    canvas.paint(inner, np.clip(content, -1000, 900).astype(np.float32), box)
    if rng.random() < gas_share:
        level = 0.5 * (start[1] + end[1]) + rng.uniform(-1.2, 0.8) * radius
        canvas.paint(np.maximum(inner, np.float32(level) - canvas.y[box]), GAS_HU, box)


def _flexure(canvas: Canvas, chest: Chest, cavity: Field) -> None:
    """A loop of colon right below a dome: gas that lies next to the lung and is none."""
    rng = canvas.rng
    side = rng.choice([-1, -1, 1])
    dome = chest.dome_left if side < 0 else chest.dome_right
    place = np.array([side * rng.uniform(0.3, 0.75) * chest.half_width, rng.uniform(0.0, 0.4) * chest.depth,
                      dome - rng.uniform(10, 45)])  # fmt: skip
    _loop(canvas, cavity, place, place + rng.normal(0, 25, 3), rng.uniform(14, 30), 1.0)
