"""Gradient magnitude. Gonzalez, Woods 2018, Digital Image Processing, ISBN:9780133356724.

At an edge the grey value climbs fast, and the length of the gradient, sqrt(sum (dI/dx)^2), says how fast.
Central differences measure it, after a Gaussian that sets the size of the edges that count. Being a length in
grey values a mm, it means the same in volumes of any voxel size.
Differs from the paper: none; `sigma_mm: 0` leaves the Gaussian out.
Oracle: `numpy.gradient` (called); SimpleITK `GradientMagnitude`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector


class Gradient(EdgeDetector):
    """Edges where the gradient is long."""

    name = "edge-gradient"

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        return gradient_mm(grey, spacing_mm)


def gradient_mm(grey: Strength, spacing_mm: Sequence[float]) -> Strength:
    """Length of the gradient (*S) in grey values a mm; an axis of one voxel adds nothing."""
    total = np.zeros(grey.shape)
    for axis, s in enumerate(spacing_mm):
        if grey.shape[axis] > 1:
            total += np.square(np.gradient(grey, s, axis=axis))
    return np.sqrt(total)
