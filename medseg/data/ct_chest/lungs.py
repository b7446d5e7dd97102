"""The two lungs: their shape between cage, diaphragm and mediastinum, and what fills them."""

from __future__ import annotations

import numpy as np

from medseg.data.ct_chest.body import ramp, spine_shape
from medseg.data.ct_chest.canvas import Canvas, Field, smooth_max
from medseg.data.ct_chest.chest import Chest

RIGHT, LEFT = 1, -1


def lung_shape(cage: Field, dome: Field, keep_out: Field) -> Field:
    """Distance to one lung: within the cage, above its dome, beside the mediastinum."""
    lung = smooth_max(cage + 1.0, dome, 3.0)
    return smooth_max(lung, -keep_out, 4.0)


def mediastinum_shape(canvas: Canvas, chest: Chest, side: int) -> Field:
    """Distance from the slab between the lungs to one lung's side of it: positive within the slab and beyond."""
    rng = canvas.rng
    y, z = canvas.y, canvas.z
    low, high = chest.back(z), chest.front(z)
    along = (y - low) / np.maximum(high - low, 1)
    scale = chest.half_width / 125
    thick = scale * rng.uniform(18, 30) * np.exp(-(((along - 0.5) / 0.28) ** 2))
    thick += scale * rng.uniform(2, 9) + scale * 12 * ramp(z, 20, 70)
    thick += scale * rng.uniform(6, 16) * np.exp(-(((along - 0.28) / 0.2) ** 2))
    thick += 2.5 * canvas.noise(35)
    shape = thick - side * (canvas.x - rng.uniform(-6, 6))
    spine, box = spine_shape(canvas, chest, rng.uniform(5, 9))
    shape[box] = smooth_max(shape[box], -spine, 5.0)
    return shape


def fill_lungs(canvas: Canvas, chest: Chest, lungs: dict[int, Field]) -> None:
    """Parenchyma: density by breath, gradient towards the back, texture of small vessels, disease in patches."""
    rng = canvas.rng
    base = rng.uniform(-965, -755)  # a real lung in a deep breath had a median of -944 HU
    gradient = rng.uniform(0, 130)
    dependent = np.clip((0.4 * chest.depth - canvas.y) / chest.depth, 0, 1) ** 2
    tissue = base + gradient * dependent + rng.uniform(8, 30) * canvas.noise(22) + 14 * canvas.noise(9)
    tissue += _small_vessels(canvas, rng.uniform(200, 700))
    tissue += _diffuse_disease(canvas, chest)
    np.clip(tissue, -990, 60, out=tissue)
    tissue = tissue.astype(np.float32)
    for shape in lungs.values():
        canvas.paint(shape, tissue)
    for side, shape in lungs.items():
        for hub in _hila(canvas, chest, side):
            _tree(canvas, shape, hub)


def _small_vessels(canvas: Canvas, contrast_hu: float) -> Field:
    # Where two independent smooth fields both vanish there are thin winding tubes.
    near = np.hypot(canvas.noise(26), canvas.noise(26))
    return contrast_hu * np.clip(1 - near / 0.28, 0, 1)


def _diffuse_disease(canvas: Canvas, chest: Chest) -> Field:
    rng = canvas.rng
    change = np.zeros(canvas.shape, np.float32)
    if rng.random() < 0.3:
        change -= rng.uniform(40, 130) * ramp(canvas.noise(rng.uniform(14, 50)), 0.0, 1.5)
    if rng.random() < 0.3:
        change += rng.uniform(80, 320) * ramp(canvas.noise(rng.uniform(25, 90)), 0.7, 1.8)
    if rng.random() < 0.2:
        low = ramp(-canvas.z, -20, 120) * ramp(-canvas.y, -10, 0.4 * chest.depth)
        change += rng.uniform(150, 450) * low * np.abs(canvas.noise(8))
    return change


def _hila(canvas: Canvas, chest: Chest, side: int) -> list[tuple[float, float, float]]:
    scale = chest.half_width / 125
    middle = float(chest.back(np.float32(-15))) + 0.5 * chest.depth
    return [(side * scale * 34.0, middle - 8, -18.0), (side * scale * 36.0, middle - 16, -45.0)]


def _tree(canvas: Canvas, lung: Field, hub: tuple[float, float, float]) -> None:
    """Vessels from one hub to random points deep in the lung, each with a bend; they belong to the lung."""
    rng = canvas.rng
    inside = np.flatnonzero(lung < -6)
    if len(inside) < 50:
        return
    blood = float(rng.choice([35.0, 60.0, 180.0])) + rng.uniform(-20, 20)
    ends = np.stack(np.unravel_index(rng.choice(inside, 22), canvas.shape), axis=-1)
    for end in ends:
        tip = np.array([axis[i] for axis, i in zip(canvas.axes, end)])
        start = np.asarray(hub) + rng.normal(0, 5, 3)
        bend = 0.5 * (start + tip) + rng.normal(0, 0.10, 3) * np.linalg.norm(tip - start)
        thick = rng.uniform(2.0, 5.0)
        for a, b, r0, r1 in ((start, bend, thick, 0.6 * thick), (bend, tip, 0.6 * thick, 0.5)):
            vessel, box = canvas.tube(a, b, r0, r1)
            canvas.paint(np.maximum(vessel, lung[box]), blood, box)
        if rng.random() < 0.4:
            _airway(canvas, lung, start + 5, bend + 5, 0.8 * thick)


def _airway(canvas: Canvas, lung: Field, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    wall, box = canvas.tube(start, end, radius + 1.5, 1.5)
    canvas.paint(np.maximum(wall, lung[box]), -150.0, box, 0.7)
    canvas.paint(np.maximum(wall + 1.6, lung[box]), -960.0, box)


def add_focal_disease(canvas: Canvas, chest: Chest, lungs: dict[int, Field], nodules: bool = True) -> None:
    """Nodules and consolidation (they stay part of the lung), fluid in the pleura (it takes the lung's place)."""
    rng = canvas.rng
    for side, shape in lungs.items():
        if rng.random() < 0.22:
            _effusion(canvas, chest, shape, side)
        inside = np.flatnonzero(shape < -4)
        if not len(inside):
            continue
        for _ in range(int(rng.integers(0, 5)) if nodules else 0):
            place = np.unravel_index(int(rng.choice(inside)), canvas.shape)
            centre = [float(axis[i]) for axis, i in zip(canvas.axes, place)]
            radius = float(np.clip(rng.lognormal(1.6, 0.6), 2, 16))
            knot, box = canvas.ellipsoid(centre, radius * rng.uniform(0.7, 1.3, 3))
            knot = np.maximum(knot + 0.15 * radius * canvas.noise(10, box), shape[box])
            canvas.paint(knot, rng.uniform(-100, 90), box)
        if rng.random() < 0.08:
            patch = ramp(canvas.noise(60) - 0.004 * canvas.y, 1.3, 1.5)
            cover = canvas.cover(shape) * patch
            # Denser than this it could not be told from fluid, which is not lung.
            canvas.hu += (rng.uniform(-400, -80) - canvas.hu) * cover


def _effusion(canvas: Canvas, chest: Chest, lung: Field, side: int) -> None:
    rng = canvas.rng
    behind = (
        chest.back(canvas.z)
        + rng.uniform(2, 0.28 * chest.depth)
        + 0.10 * side * canvas.x
        + 2 * canvas.noise(30)
    )
    behind = behind - 25 * ramp(canvas.z, -40, 60)
    fluid = canvas.y - behind
    canvas.paint(np.maximum(lung, fluid), rng.uniform(0, 30))
    np.maximum(lung, -fluid, out=lung)
