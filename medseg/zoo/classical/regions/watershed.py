"""Watershed by immersion. Vincent, Soille 1991, IEEE TPAMI 13(6), doi:10.1109/34.87344.

The length of the gradient is a landscape: even areas are basins, edges are ridges. Water rises from the
lowest point of every basin, or from markers alone (Beucher, Meyer 1993), and where two waters meet stands the
border of two regions. Basins shallower than a level are filled first, since noise alone makes thousands of
them.
Differs from the paper: no voxel is left as a line, every one belongs to a region; a basin is seeded where its
depth exceeds `level`, a share of the range of the gradient.
Oracle: SimpleITK `MorphologicalWatershed` (without markers) and scikit-image `watershed` (with them), both
called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.edges.detector import smoothed
from medseg.zoo.classical.edges.gradient import gradient_mm
from medseg.zoo.classical.grey import Grey, checked, from_itk, is_flat, to_itk
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.regions.partition import PartitionMethod, Regions, numbered
from medseg.zoo.classical.regions.seeds import BACKGROUND, classes_within, seeds_of


@dataclass(frozen=True)
class WatershedArguments:
    """Arguments of the watershed.

    sigma_mm: of the Gaussian before the gradient, in mm (px for photographs). level: depth of the shallowest
    basin, as a share of the range of the gradient, without markers. compactness: with markers, evens out the
    sizes of basins, 0 to 0.01 as a rule. levels: classes with background; markers name classes below it.
    """

    sigma_mm: float = 1.0
    level: float = 0.1
    compactness: float = 0.0
    levels: int = 2


class Watershed(PartitionMethod):
    """Basins of the gradient, from markers or from its own minima."""

    name = "watershed"
    Arguments = WatershedArguments

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        **parameters: Any,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). Seeds of the prompt are the markers, the background's among them."""
        options = WatershedArguments(**parameters)
        checked("sigma_mm", options.sigma_mm, self.where)
        if prompt is None:
            return super().segment(image, spacing_mm, None, **parameters)
        checked("compactness", options.compactness, self.where)
        checked("levels", options.levels, self.where, least=2, most=254)
        grey = intensity(image)
        markers = seeds_of(prompt, grey.shape, spacing_mm, self.where)
        classes_within(markers, options.levels, self.where)
        if len(np.unique(markers[markers > 0])) < 2:
            raise UserError(
                "all markers are of one class, which would flood the whole image",
                self.where,
                "mark the background as well (class 0, or 255 in a mask)",
            )
        if is_flat(grey):
            raise UserError("a constant image has no ridges to stop the water", self.where)
        return flooded(grey, markers, options, spacing_mm)

    def partition(self, grey: Grey, spacing_mm: Sequence[float], options: WatershedArguments) -> Regions:
        import SimpleITK as sitk

        checked("level", options.level, self.where, most=1.0)
        height = gradient_mm(smoothed(grey, options.sigma_mm, spacing_mm), spacing_mm)
        depth = options.level * float(height.max() - height.min())
        basins = sitk.MorphologicalWatershed(to_itk(height, spacing_mm), depth, False, False)
        return numbered(from_itk(basins))


def flooded(
    grey: Grey, markers: npt.NDArray[np.int64], options: WatershedArguments, spacing_mm: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """Classes (*S) of the basins that markers seed."""
    from skimage.segmentation import watershed

    height = gradient_mm(smoothed(grey, options.sigma_mm, spacing_mm), spacing_mm)
    basins = watershed(height, markers.astype(np.int32), compactness=options.compactness)
    return np.where(basins == BACKGROUND, 0, basins).astype(np.uint8)
