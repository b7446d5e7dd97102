"""What is in the picture and not the trunk: arms, table, mattress, blankets, leads, a pacemaker."""

from __future__ import annotations

import numpy as np

from medseg.data.ct_chest.canvas import AIR_HU, Canvas, Field
from medseg.data.ct_chest.chest import Chest


def paint_arms(canvas: Canvas, chest: Chest) -> None:
    """Arms beside the trunk, or raised beside the head."""
    rng = canvas.rng
    wide = rng.uniform(34, 52)
    reach = chest.half_width + chest.muscle + chest.lateral_fat
    for side in (-1, 1):
        shoulder = (side * (reach + 0.35 * chest.shoulder), -8.0, chest.apex * 0.7)
        if chest.arms_up:
            hand = (side * (reach + rng.uniform(-50, 20)), rng.uniform(-10, 40), chest.apex + 280)
        elif rng.random() < 0.8:
            hand = (side * (reach + wide + rng.uniform(2, 25)), rng.uniform(-35, 15), -260.0)
        else:
            hand = (side * 0.6 * chest.half_width, 0.62 * chest.depth + wide + chest.front_fat, -240.0)
        arm, box = canvas.tube(shoulder, hand, wide, 0.75 * wide)
        canvas.paint(arm, -95.0, box)
        canvas.paint(arm + rng.uniform(5, 14), 52.0, box)
        canvas.paint(arm + 0.7 * wide, 700.0, box)
        canvas.paint(arm + 0.7 * wide + 4, 60.0, box)


def paint_head(canvas: Canvas, chest: Chest) -> None:
    """Jaw and skull above the neck, where the field of view reaches that far."""
    head, box = canvas.ellipsoid((0, 15, chest.apex + 190), (75, 95, 110))
    if 0 in head.shape:
        return
    canvas.paint(head, 40.0, box)
    canvas.paint(np.abs(head + 6) - 3, 900.0, box)
    mouth, box = canvas.ellipsoid((0, 45, chest.apex + 120), (14, 25, 12))
    canvas.paint(mouth, AIR_HU, box)


def paint_table(canvas: Canvas, skin: Field, lowest_mm: float) -> None:
    """A curved table with a shell and a foam core under the lowest point of the back, a mattress on it."""
    rng = canvas.rng
    straight_x, straight_y = canvas.axes[0][:, None, None], canvas.axes[1][None, :, None]
    bow = rng.uniform(0.0, 0.0012)
    mattress = rng.uniform(0, 30)
    top = lowest_mm - mattress - rng.uniform(0, 6) + bow * straight_x**2
    depth = top - straight_y
    half = rng.uniform(180, 270)
    within = np.abs(straight_x) - half
    if mattress > 4:
        pad = np.maximum(np.maximum(-depth - mattress, depth), np.abs(straight_x) - half + 10)
        pad = np.maximum(pad, 1.0 - skin)
        canvas.paint(pad.astype(np.float32), rng.uniform(-960, -750))
    thick = rng.uniform(8, 60)
    core = np.maximum(np.maximum(-depth, depth - thick), within)
    core = np.broadcast_to(core, canvas.shape).astype(np.float32)
    core = np.maximum(core, -skin)
    canvas.paint(core, rng.uniform(-600, 150))
    canvas.paint(core + rng.uniform(1.5, 4), rng.uniform(-990, -820))


def paint_covers(canvas: Canvas, skin: Field) -> None:
    """A blanket round the body and leads on the skin."""
    rng = canvas.rng
    if rng.random() < 0.4:
        gap = 6 + 8 * np.abs(canvas.noise(60)) + rng.uniform(0, 12)
        sheet = np.abs(skin - gap) - rng.uniform(0.8, 4)
        canvas.paint(sheet.astype(np.float32), rng.uniform(-960, -550), share=0.8)
    for _ in range(int(rng.integers(0, 6)) if rng.random() < 0.4 else 0):
        start = np.array([rng.uniform(-130, 130), 140.0, rng.uniform(-200, 60)])
        end = start + rng.normal(0, 60, 3)
        _, box = canvas.tube(start, end, 60)
        if 0 in canvas.x[box].shape:
            continue
        x, z = canvas.x[box], canvas.z[box]
        slope = (end[2] - start[2]) / (abs(end[0] - start[0]) + 30)
        wire = np.hypot(skin[box] - 3, (z - start[2] - slope * (x - start[0])) * 0.7) - 1.6
        wire = np.where(canvas.y[box] > 0, wire, 9).astype(np.float32)
        canvas.paint(wire, rng.uniform(300, 2500), box)


def paint_devices(canvas: Canvas, chest: Chest) -> None:
    """A pacemaker under the skin, a line in the great veins, wires of an old operation."""
    rng = canvas.rng
    if rng.random() < 0.12:
        place = (rng.choice([-1, 1]) * 0.6 * chest.half_width, float(chest.front(np.float32(20))) + 2, 35.0)
        box_shape, box = canvas.ellipsoid(place, (24, 6, 20))
        canvas.paint(box_shape, 2800.0, box)
    if rng.random() < 0.2:
        y = float(chest.back(np.float32(0))) + 0.62 * chest.depth
        line, box = canvas.tube((22, y, 120), (24, y, -30), 1.6)
        canvas.paint(line, rng.uniform(600, 2500), box)
