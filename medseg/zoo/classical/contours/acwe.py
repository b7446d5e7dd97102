"""Active contours without edges. Chan, Vese 2001, IEEE Trans. Image Processing 10(2), doi:10.1109/83.902291.

The contour parts the image into two regions that are each close to their own mean, with a short outline:
F = mu Length + l1 int_in (I - c1)^2 + l2 int_out (I - c2)^2. It needs no edges, so that blurred and noisy objects are found, and
the level-set function phi descends F by dphi/dt = delta(phi) (mu curvature - l1 (I - c1)^2 + l2 (I - c2)^2).
Differs from the paper: starts from Otsu's threshold, or from the region of a prompt, instead of a circle; the brighter region is
named foreground unless a prompt says where it lies; grey values run from 0 to 1, lengths in mean spacings.
Oracle: scikit-image `chan_vese` (2D only; ours is n-D and holds more noise), and the energy, which falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import unit_range
from medseg.zoo.classical.otsu import otsu_threshold
from medseg.zoo.classical.seeds import start_of

NAME = "acwe"
Array = npt.NDArray[np.float32]
FLAT = np.float32(1e-2)
"""Added to |grad phi|^2, so that flat ground does not hold phi fast."""

SLAB_VOXELS = 1 << 16
"""Voxels worked on at once: all arrays of a slab stay in the processor's cache."""


class ChanVese:
    """The brighter of two regions of nearly constant grey value, or the one a prompt starts in."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        mu: float = 0.25,
        lambda_in: float = 1.0,
        lambda_out: float = 1.0,
        step: float = 0.5,
        iterations: int = 200,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        mu: weight of the outline's length. lambda_in, lambda_out: l1, l2. step: of the descent. iterations: at most; it
        stops when phi moves by less than 0.001 in the mean. A constant image is all background without a prompt.
        """
        grey = unit_range(image).astype(np.float32)
        start = start_region(grey, prompt, spacing_mm, NAME)
        steps = np.asarray(spacing_mm, dtype=np.float32) / float(np.prod(spacing_mm)) ** (1 / grey.ndim)
        if not start.any():
            return start.astype(np.uint8)
        return descended(grey, start, steps, (mu, lambda_in, lambda_out, step), iterations)[0].astype(
            np.uint8
        )


def start_region(
    grey: npt.NDArray[Any], prompt: Prompt | None, spacing_mm: Sequence[float], name: str
) -> npt.NDArray[np.bool_]:
    """The region of a prompt, or what is above Otsu's threshold; empty for a constant image."""
    if prompt is not None:
        return start_of(prompt, grey.shape, spacing_mm, name)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, dtype=bool)
    return np.asarray(grey > otsu_threshold(grey.astype(np.float64)))


def descended(
    grey: Array,
    start: npt.NDArray[np.bool_],
    steps: npt.NDArray[np.float32],
    weights: tuple[float, float, float, float],
    iterations: int,
) -> tuple[npt.NDArray[np.bool_], list[float]]:
    """(region, energies every ten iterations) of the descent from a region. weights: mu, l1, l2, step."""
    mu, inner, outer, step = weights
    phi = np.where(start, np.float32(1), np.float32(-1))
    energies = []
    for n in range(iterations):
        inside = phi > 0
        if not inside.any() or inside.all():
            break
        means = side_means(grey, inside)
        if n % 10 == 0:
            fit = inner * np.square(grey[inside] - means[0]).sum(dtype=np.float64)
            fit += outer * np.square(grey[~inside] - means[1]).sum(dtype=np.float64)
            energies.append(float(fit) + mu * length(inside, steps))
        moved = one_step(phi, grey, steps, (mu, inner, outer, step), means)
        change = moved.ravel() - phi.ravel()
        phi = moved
        if np.sqrt(float(np.vdot(change, change)) / change.size) < 1e-3:
            break
    return phi > 0, energies


def side_means(grey: Array, inside: npt.NDArray[np.bool_]) -> tuple[np.float32, np.float32]:
    """Means of the grey values inside and outside."""
    count, total = int(np.count_nonzero(inside)), float(grey.sum(dtype=np.float64))
    within = float(np.multiply(grey, inside).sum(dtype=np.float64))
    return np.float32(within / count), np.float32((total - within) / (grey.size - count))


def one_step(
    phi: Array,
    grey: Array,
    steps: npt.NDArray[np.float32],
    weights: tuple[float, float, float, float],
    means: tuple[np.float32, np.float32],
) -> Array:
    """phi after one step of the descent; slabs of the first axis are done one after another, to stay in the cache."""
    mu, inner, outer, step = weights
    around = np.pad(phi, 1, mode="edge")
    moved = np.empty_like(phi)
    thick = max(1, SLAB_VOXELS // max(1, phi[0].size))
    for start in range(0, len(phi), thick):
        part = slice(start, min(start + thick, len(phi)))
        pulled, weight = neighbour_pull(around[start : part.stop + 2], steps)
        rate = step / (1 + np.square(phi[part]))
        pulled *= mu
        pulled -= inner * np.square(grey[part] - means[0])
        pulled += outer * np.square(grey[part] - means[1])
        pulled *= rate
        pulled += phi[part]
        weight *= rate
        weight *= mu
        weight += 1
        np.divide(pulled, weight, out=moved[part])
    return moved


def neighbour_pull(around: Array, steps: npt.NDArray[np.float32]) -> tuple[Array, Array]:
    """(sum of weight x neighbour, sum of weights) of the curvature term; their difference to phi is the curvature.

    around: phi, one voxel wider on every side. A neighbour's weight is 1 / (spacing^2 |grad phi|) between the two, as in
    the paper's implicit scheme.
    """
    phi = around[(slice(1, -1),) * around.ndim]
    middle = [slice(1, -1)] * phi.ndim

    def along(axis: int, start: int, stop: int | None) -> Array:
        place = list(middle)
        place[axis] = slice(start, stop)
        return around[tuple(place)]

    central = []
    for axis, s in enumerate(steps):
        slope = along(axis, 2, None) - along(axis, 0, -2)
        slope *= 0.5 / s
        central.append(np.square(slope, out=slope))
    every = sum(central[1:], central[0] + FLAT)
    pulled, weight = np.zeros_like(phi), np.zeros_like(phi)
    for axis, s in enumerate(steps):
        # spacing^2 |grad phi| = spacing sqrt(step^2 + spacing^2 rest), and both ends of a step share its square.
        rest = np.subtract(every, central[axis], out=central[axis])
        rest *= s * s
        square = along(axis, 1, None) - along(axis, 0, -1)
        np.square(square, out=square)
        for ends, other in ((slice(1, None), along(axis, 2, None)), (slice(None, -1), along(axis, 0, -2))):
            share = square[(*(slice(None),) * axis, ends)] + rest
            np.sqrt(share, out=share)
            np.divide(1 / s, share, out=share)
            weight += share
            share *= other
            pulled += share
    return pulled, weight


def curvature(phi: Array, steps: npt.NDArray[np.float32]) -> Array:
    """div(grad phi / |grad phi|) by differences between neighbours, with nothing flowing over the image's border."""
    total = np.zeros_like(phi)
    slopes = [np.gradient(phi, s, axis=a) if phi.shape[a] > 1 else total for a, s in enumerate(steps)]
    size = np.sqrt(sum(np.square(s) for s in slopes) + np.float32(1e-4))
    for axis, (slope, s) in enumerate(zip(slopes, steps, strict=True)):
        if phi.shape[axis] > 1:
            total = total + np.gradient(slope / size, s, axis=axis)
    return total


def length(inside: npt.NDArray[np.bool_], steps: npt.NDArray[np.float32]) -> float:
    """Area of the faces between inside and outside, in mean spacings."""
    whole = float(np.prod(steps))
    return sum(
        float(np.count_nonzero(np.diff(inside, axis=a))) * whole / float(s) for a, s in enumerate(steps)
    )
