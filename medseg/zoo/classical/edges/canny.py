"""Canny's detector. Canny 1986, IEEE TPAMI 8(6), doi:10.1109/TPAMI.1986.4767851.

After a Gaussian, an edge voxel is where the gradient is longest along its own direction, so that edges are
one voxel wide. Of those, the ones above a high threshold are kept, and the ones above a low threshold that
hang on to them. The Gaussian's derivative is nearly the best filter for finding steps in noise, exactly where
they are, and once.
Differs from the paper: ITK finds the maximum along the gradient by the sign change of the second derivative
along it; thresholds are shares of the longest gradient, not of an estimate of noise.
Oracle: SimpleITK `CannyEdgeDetection` (called); in 2D scikit-image `canny`, to within a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector
from medseg.zoo.classical.edges.gradient import gradient_mm
from medseg.zoo.classical.grey import from_itk, to_itk
from medseg.zoo.classical.morphology import Mask


@dataclass(frozen=True)
class CannyArguments(EdgeArguments):
    """threshold: of the gradient in grey values a mm; "otsu" stands for a fifth of the longest gradient."""

    sigma_mm: float = 1.5


class Canny(EdgeDetector):
    """Edges one voxel wide, by non-maximum suppression and hysteresis."""

    name = "edge-canny"
    Arguments = CannyArguments

    def edges(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Mask:
        import SimpleITK as sitk

        if options.threshold == "otsu":
            high = 0.2 * float(gradient_mm(grey, spacing_mm).max())
        else:
            high = self.threshold(grey, options)
        found = sitk.CannyEdgeDetection(
            to_itk(grey, spacing_mm),
            lowerThreshold=options.low * high,
            upperThreshold=high,
            variance=[0.0] * grey.ndim,
        )
        return from_itk(found) > 0
