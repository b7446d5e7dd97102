"""SLIC superpixels. Achanta, Shaji, Smith, Lucchi, Fua, Suesstrunk 2012, doi:10.1109/TPAMI.2012.120.

K-means in colour and place at once, where every centre looks only at the voxels within twice the grid step S: the
distance is D^2 = d_colour^2 + (d_place / S)^2 m^2, so the cost does not grow with the number of superpixels. Centres
start on a regular grid and move to the lowest gradient nearby. Here the superpixels (supervoxels in 3D, distances in mm)
are then sorted into classes by their mean colour, as a label for each voxel is what a segmentation holds.
Differs from the paper: colour and m are in standard deviations of the image, so that one default serves photographs, CT
and MR; the sorting into `groups` is ours (`groups: 0` leaves the superpixels apart); centres stay on their grid point.
Oracle: scikit-image `slic`, whose call it wraps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.regions import slic
from medseg.zoo.classical.clustering.superpixels import region_names, sorted_regions
from medseg.zoo.classical.features import checked_count

NAME = "superpixel-slic"


class SLIC:
    """Compact superpixels, in `groups` classes."""

    dims = (2, 3)

    def classes_of(self, groups: int = 2, **parameters: Any) -> Mapping[int, str]:
        return region_names(groups)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        segments: int = 500,
        compactness: float = 0.3,
        iterations: int = 10,
        groups: int = 2,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest class.

        segments: superpixels wanted, or as many as there are voxels. compactness: m, what the width of a superpixel
        counts, in standard deviations of the image. groups: classes they are sorted into; 0 keeps each apart.
        """
        checked_count(groups or 1, image[0].size, "groups", NAME)
        checked_count(segments, segments, "segments", NAME, most=10**7)
        regions = slic(image, spacing_mm, segments, compactness, iterations)
        return sorted_regions(image, regions, spacing_mm, groups, NAME)
