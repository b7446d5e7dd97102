"""Soft tissue and bones of the trunk: skin, fat, muscle, ribs, spine, breastbone, shoulder blades, pelvis."""

from __future__ import annotations

import numpy as np

from medseg.data.ct_chest.canvas import Canvas, Field, smooth_min
from medseg.data.ct_chest.chest import Chest, superellipse

RIB_PITCH_MM = 26.0


def ramp(z: Field, low: float, high: float) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((z - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def outline(canvas: Canvas, chest: Chest, skin_mm: float = 0.0) -> Field:
    """Distance to the skin (negative inside): trunk, shoulders and neck."""
    z = canvas.z
    neck = ramp(z, chest.apex + 5, chest.apex + 60)
    shoulders = ramp(z, -10, 70) * chest.shoulder * (0.45 if chest.arms_up else 1.0)
    hips = 0.12 * chest.half_width * (1 - ramp(z, -420, -240))
    width = chest.half_width + chest.muscle + chest.lateral_fat + shoulders + hips
    width = width * (1 - neck) + 0.55 * chest.half_width * neck - skin_mm
    bulge = np.exp(-(((z + 260) / 120) ** 2)) * chest.belly
    front = chest.front(z) + chest.front_fat + 0.5 * chest.muscle + bulge
    back = chest.back(z) - chest.back_fat - chest.muscle
    middle = 0.5 * (front + back)
    depth = 0.5 * (front - back) * (1 - neck) + 0.5 * chest.half_width * neck - skin_mm
    return superellipse(canvas.x, canvas.y - middle, width, depth, 2.35)


def paint_trunk(canvas: Canvas, chest: Chest, skin: Field, cage: Field) -> None:
    """Skin, fat under it, the muscles over the ribs and beside the spine, the breasts."""
    rng = canvas.rng
    if rng.random() < 0.45:
        skin = np.minimum(skin, _breasts(canvas, chest))
    fat = (-105 + 12 * canvas.noise(30)).astype(np.float32)
    canvas.paint(skin, 10.0)
    canvas.paint(skin + rng.uniform(1.5, 3), fat)
    flesh = (rng.uniform(40, 65) + 12 * canvas.noise(14)).astype(np.float32)
    thick = chest.muscle * (1 + 0.35 * canvas.noise(60))
    back_muscle = 16 * np.exp(-((np.abs(canvas.x) - 38) ** 2) / 900) * (canvas.y < chest.back(canvas.z) + 25)
    top = 24 * ramp(canvas.z, 0, chest.apex)
    canvas.paint(np.maximum(cage - thick - back_muscle - top, skin + 4), flesh)
    layers = np.abs(np.sin((cage + 3 * canvas.noise(50)) / rng.uniform(2.5, 4.5)))
    canvas.paint(
        np.maximum(np.maximum(3 - cage, skin + 4), (layers - 0.35) * 8), fat, share=0.5 * rng.random()
    )


def _breasts(canvas: Canvas, chest: Chest) -> Field:
    rng = canvas.rng
    radius = rng.uniform(35, 70)
    shape = np.full(canvas.shape, 99.0, np.float32)
    for side in (-1, 1):
        centre = (
            side * 0.6 * chest.half_width,
            float(chest.front(np.float32(-60))) + 5,
            rng.uniform(-80, -30),
        )
        piece, box = canvas.ellipsoid(centre, (radius, rng.uniform(25, 55), radius))
        shape[box] = np.minimum(shape[box], piece)
    return shape


def spine_centre(chest: Chest, z: Field) -> Field:
    """y of the vertebral bodies' centres."""
    return chest.back(z) + 0.20 * chest.depth


def spine_shape(
    canvas: Canvas, chest: Chest, extra_mm: float = 0.0
) -> tuple[Field, tuple[slice, slice, slice]]:
    """Distance to the column of vertebral bodies and what stands behind it."""
    reach = 46.0
    box = canvas.box((-reach, -chest.depth, -2000), (reach, chest.depth * 0.2, 2000))
    x, y, z = canvas.at(box)
    y = y - spine_centre(chest, z)
    body = superellipse(x, y, np.float32(17 + extra_mm), np.float32(14 + extra_mm), 2.2)
    arch = np.maximum(np.abs(x) - 15 - extra_mm, np.abs(y + 26) - 20)
    return smooth_min(body, arch, 4.0), box


def paint_bones(canvas: Canvas, chest: Chest, cage: Field) -> None:
    """Ribs, spine, breastbone, shoulder blades, collar bones."""
    rng = canvas.rng
    marrow, cortex = rng.uniform(90, 260), rng.uniform(350, 900)
    _ribs(canvas, chest, cage, marrow, cortex)
    _spine(canvas, chest, marrow, cortex)
    _breastbone(canvas, chest, cage, marrow, cortex)
    for side in (-1, 1):
        _shoulder(canvas, chest, cage, side, marrow, cortex)


def _shell(
    canvas: Canvas, distance: Field, marrow: float, cortex: float, box: object, thick_mm: float = 2.0
) -> None:
    canvas.paint(distance, cortex, box)  # type: ignore[arg-type]
    canvas.paint(distance + thick_mm, marrow, box)  # type: ignore[arg-type]


def _ribs(canvas: Canvas, chest: Chest, cage: Field, marrow: float, cortex: float) -> None:
    rng = canvas.rng
    pitch, tilt = RIB_PITCH_MM * rng.uniform(0.85, 1.15), rng.uniform(0.25, 0.7)
    phase = (canvas.z + tilt * canvas.y) / pitch + rng.random()
    height = np.abs(phase - np.floor(phase) - 0.5) * pitch
    rib = np.hypot(np.maximum(np.abs(cage - 6) - 1, 0), np.maximum(height - 3, 0)) - rng.uniform(2.2, 3.4)
    limit = np.maximum(-170 * chest.half_width / 125 - canvas.z, canvas.z - chest.apex + 5)
    arch = np.where(canvas.y > 0, -70 - 0.9 * np.abs(canvas.x) - canvas.z, -99)
    rib = np.maximum(rib, np.maximum(limit, arch))
    cartilage = (canvas.y > 0.2 * chest.depth) & (np.abs(canvas.x) < 0.55 * chest.half_width)
    canvas.paint(rib, np.where(cartilage, 110, cortex).astype(np.float32))
    canvas.paint(rib + 1.6, np.where(cartilage, 90, marrow).astype(np.float32))


def _spine(canvas: Canvas, chest: Chest, marrow: float, cortex: float) -> None:
    shape, box = spine_shape(canvas, chest)
    x, y, z = canvas.at(box)
    y = y - spine_centre(chest, z)
    level = z / RIB_PITCH_MM
    disc = (np.abs(level - np.floor(level) - 0.5) < 0.12) & (y > -14)
    _shell(canvas, shape, marrow, cortex, box)
    canvas.paint(shape, np.where(disc, 85, canvas.hu[box]).astype(np.float32), box)
    canvas.paint(superellipse(x, y + 20, np.float32(9), np.float32(7), 2.0), 25.0, box)
    side = np.abs(y + 34) - 16 + 0.8 * np.abs(np.abs(x) - 8)
    canvas.paint(np.where(disc, 5, side).astype(np.float32), 60.0, box, 0.7)


def _breastbone(canvas: Canvas, chest: Chest, cage: Field, marrow: float, cortex: float) -> None:
    box = canvas.box((-40, 0, -110), (40, chest.depth, 60))
    x, _, z = canvas.at(box)
    wide = 14 + 8 * ramp(z, 10, 40)
    bone = np.maximum(np.maximum(np.abs(cage[box] - 9) - 5, np.abs(x) - wide), np.abs(z + 35) - 80)
    bone = np.where(canvas.y[box] > 0, bone, 9).astype(np.float32)
    _shell(canvas, bone, marrow, cortex, box)


def _shoulder(canvas: Canvas, chest: Chest, cage: Field, side: int, marrow: float, cortex: float) -> None:
    rng = canvas.rng
    out = rng.uniform(0.15, 0.5) if chest.arms_up else 0.0
    low = (55 if side > 0 else -170, -2 * chest.depth, -90)
    box = canvas.box(low, (low[0] + 115, 0, 90))
    x, _, z = canvas.at(box)
    centre = side * (0.75 + out) * chest.half_width
    blade = np.maximum(np.abs(cage[box] - 20) - 2.5, np.abs(x - centre) - 48 + 0.3 * np.abs(z))
    blade = np.where(canvas.y[box] < 0, np.maximum(blade, np.abs(z) - 75), 9).astype(np.float32)
    canvas.paint(blade - 8, 55.0, box, 0.9)
    canvas.paint(blade, cortex, box)
    joint = (side * (1.15 * chest.half_width + 15), -5.0, chest.apex * 0.75 + 20 * chest.arms_up)
    front = float(chest.front(np.float32(chest.apex * 0.5)))
    bone, where = canvas.tube((side * 15, front, 0.55 * chest.apex), joint, 6)
    _shell(canvas, bone, marrow, cortex, where)


def paint_pelvis(canvas: Canvas, chest: Chest, hip_z: float) -> None:
    """Sacrum, iliac wings, hip joints and thigh bones round a height `hip_z`; nothing where the field ends above."""
    rng = canvas.rng
    marrow, cortex = rng.uniform(120, 260), rng.uniform(400, 900)
    for side in (-1, 1):
        wing, box = canvas.ellipsoid((side * 70, -25, hip_z + 55), (62, 60, 60))
        _, y, z = canvas.at(box)
        plate = np.maximum(np.abs(wing) - 4, np.maximum(y - 25, hip_z - z)).astype(np.float32)
        plate = np.maximum(plate, 20 - side * canvas.x[box])
        _shell(canvas, plate, marrow, cortex, box)
        ball, where = canvas.ellipsoid((side * 92, 0, hip_z - 20), (26, 26, 26))
        _shell(canvas, ball, marrow, cortex, where)
        bone, where = canvas.tube((side * 95, 0, hip_z - 25), (side * 115, 0, hip_z - 250), 14)
        _shell(canvas, bone, 60, cortex, where, 5)
        if rng.random() < 0.12:
            metal, where = canvas.ellipsoid((side * 92, 0, hip_z - 20), (22, 22, 22))
            canvas.paint(metal, 3000.0, where)
