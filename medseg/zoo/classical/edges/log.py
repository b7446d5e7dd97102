"""Laplacian of Gaussian. Marr, Hildreth 1980, Proc. R. Soc. B 207, doi:10.1098/rspb.1980.0020.

A Gaussian first takes away all that is finer than the edges wanted, then the Laplacian's changes of sign mark
where the smoothed image climbs fastest. Both together are one operator, the Mexican hat. Its crossings are
closed lines or surfaces, and a step is found where it is whatever the width of the Gaussian.
Differs from the paper: one width instead of agreement over several; in mm.
Oracle: `scipy.ndimage.gaussian_laplace`, which it equals for cubic voxels of 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, ZeroCrossings
from medseg.zoo.classical.grey import checked


@dataclass(frozen=True)
class LoGArguments(EdgeArguments):
    """hat_mm: width of the Gaussian of the operator itself, in mm (px for photographs), above 0; no other goes before."""

    sigma_mm: float = 0.0
    hat_mm: float = 2.0


class LaplacianOfGaussian(ZeroCrossings):
    """Edges where the Laplacian of the smoothed image changes its sign."""

    name = "edge-log"
    Arguments = LoGArguments

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        assert isinstance(options, LoGArguments)
        checked("hat_mm", options.hat_mm, self.where, least=1e-6)
        return mexican_hat(grey, options.hat_mm, spacing_mm)


def mexican_hat(grey: Strength, sigma_mm: float, spacing_mm: Sequence[float]) -> Strength:
    """Sum of the second Gaussian derivatives (*S) in grey values a mm^2."""
    from scipy.ndimage import gaussian_filter

    sigma = [sigma_mm / s for s in spacing_mm]
    total = np.zeros(grey.shape)
    for axis, s in enumerate(spacing_mm):
        order = [2 if a == axis else 0 for a in range(grey.ndim)]
        total += gaussian_filter(grey, sigma, order=order) / s**2
    return total
