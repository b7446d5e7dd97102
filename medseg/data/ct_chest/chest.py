"""The chest's frame: the cage as superellipses along z, the two domes of the diaphragm, the outline of the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.data.ct_chest.canvas import Canvas, Field


@dataclass(frozen=True)
class Chest:
    """Measures of one person in mm, z from the carina; drawn by `draw_chest`."""

    half_width: float
    depth: float
    apex: float
    widest: float
    squareness: float
    kyphosis: float
    slope: float
    dome_right: float
    dome_left: float
    dome_fall: float
    gutter_fall: float
    side_fall: float
    lateral_fat: float
    front_fat: float
    back_fat: float
    belly: float
    muscle: float
    arms_up: bool
    shoulder: float

    def profile(self, z: Field) -> Field:
        """Width of the cage at a height as a share of its largest: 0 above the apex."""
        up = np.clip((z - self.widest) / (self.apex - self.widest), 0, 1)
        down = np.clip((self.widest - z) / 150.0, 0, 1.2)
        return np.sqrt(np.clip(1 - up**2.6, 0, 1)) * (1 - 0.10 * down**2)

    def back(self, z: Field) -> Field:
        """y of the cage's rear wall."""
        curve = ((z + 50.0) / 150.0) ** 2
        return -0.5 * self.depth + self.kyphosis * np.clip(curve, 0, 2.5)

    def front(self, z: Field) -> Field:
        """y of the cage's front wall: the breastbone slopes forward on its way down."""
        return 0.5 * self.depth - self.slope * np.clip(z - self.widest, -60, 250)

    def cage(self, canvas: Canvas) -> Field:
        """Signed distance in mm to the inner wall of the cage (negative inside), going on below as the belly's wall."""
        return self.ring(canvas, 0.0, 0.0, 0.0)

    def ring(self, canvas: Canvas, side: float, front: float, back: float) -> Field:
        """Distance to the cage widened by `side`, `front` and `back` mm."""
        x, y, z = canvas.x, canvas.y, canvas.z
        share = self.profile(z)
        low, high = self.back(z), self.front(z)
        middle = 0.5 * (low + high) + 0.5 * (front - back)
        half_depth = np.maximum(0.5 * (high - low) * np.sqrt(share) + 0.5 * (front + back), 1.0)
        half_width = np.maximum(self.half_width * share + side, 1.0)
        return superellipse(x, y - middle, half_width, half_depth, self.squareness)

    def diaphragm(self, canvas: Canvas, side: int) -> Field:
        """Distance in mm to a dome (positive below it); side +1 is the patient's right."""
        x, y = canvas.x[:, :, canvas.shape[2] // 2], canvas.y[:, :, canvas.shape[2] // 2]
        centre = 0.5 * self.half_width
        across = (side * x - centre) / (0.52 * self.half_width)
        across = np.where(across < 0, 0.45 * across, across)
        along = (y - 0.06 * self.depth) / (0.5 * self.depth)
        fall = self.dome_fall * np.clip(across**2 + 0.8 * along**2, 0, 2.2)
        fall += (
            self.gutter_fall * np.clip(-along, 0, 1.3) ** 2 + self.side_fall * np.clip(across, 0, 1.3) ** 3
        )
        top = (self.dome_right if side > 0 else self.dome_left) - fall
        slope_x, slope_y = np.gradient(top, canvas.step_mm) if min(top.shape) > 1 else (0 * top, 0 * top)
        return (top[:, :, None] - canvas.z) / np.sqrt(1 + slope_x**2 + slope_y**2)[:, :, None]


def superellipse(x: Field, y: Field, half_x: Field, half_y: Field, power: float) -> Field:
    """Distance along the ray from the centre to |x/a|^p + |y/b|^p = 1."""
    inside = _power(x / half_x, power)
    inside += _power(y / half_y, power)
    inside **= 1 / power
    np.maximum(inside, 1e-2, out=inside)
    radius = x * x
    radius += y * y
    np.sqrt(radius, out=radius)
    np.divide(radius, inside, out=inside)
    radius -= inside
    return radius


def _power(field: Field, power: float) -> Field:
    np.abs(field, out=field)
    field **= power
    return field


def draw_chest(rng: np.random.Generator) -> Chest:
    """One person: from slight to stout, deep or flat chest, breathed in or out."""
    size = rng.uniform(0.82, 1.12)
    stout = rng.beta(1.3, 2.0)
    breath = rng.uniform(0, 1)
    dome = -(65 + 80 * breath) * size
    gutter = rng.uniform(25, 70)
    return Chest(
        half_width=size * rng.uniform(112, 136),
        depth=size * rng.uniform(140, 195),
        apex=size * rng.uniform(82, 118),
        widest=-size * rng.uniform(70, 130),
        squareness=rng.uniform(2.1, 2.7),
        kyphosis=rng.uniform(2, 20),
        slope=rng.uniform(0.12, 0.34),
        dome_right=dome,
        dome_left=dome - rng.uniform(-8, 28),
        dome_fall=rng.uniform(18, 48),
        gutter_fall=gutter,
        side_fall=gutter * rng.uniform(0.3, 1.3),
        lateral_fat=rng.uniform(4, 14) + 42 * stout,
        front_fat=rng.uniform(3, 10) + 30 * stout,
        back_fat=rng.uniform(4, 12) + 28 * stout,
        belly=stout * rng.uniform(0, 50),
        muscle=rng.uniform(10, 24),
        arms_up=bool(rng.random() < 0.65),
        shoulder=rng.uniform(30, 75),
    )
