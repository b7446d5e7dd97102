"""Mean shift. Comaniciu, Meer 2002, IEEE TPAMI 24(5), doi:10.1109/34.1000236.

Every point moves to the mean of the points within a radius h of it, again and again, and so climbs to a mode of their
density; points that meet at one mode share a label, and nobody has to say how many there are. Looked at are the mean
colour of supervoxels and, where `place_weight` is above 0, their place.
Differs from the paper: points are SLIC supervoxels, not pixels; the kernel is flat; h is the mean distance to the nearest
`quantile` of all points unless given; modes beyond `most` join the nearest of the larger ones.
Oracle: scikit-learn `MeanShift`, whose call it wraps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.regions import at_most, region_features, sizes, slic
from medseg.zoo.classical.features import by_brightness, checked_count, cluster_names
from medseg.zoo.classical.otsu import intensity

NAME = "cluster-meanshift"


class MeanShift:
    """As many groups as the density of the supervoxels' features has modes, `most` at most."""

    dims = (2, 3)

    def classes_of(self, most: int = 8, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(most)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        bandwidth: float = 0.0,
        quantile: float = 0.15,
        nodes: int = 500,
        place_weight: float = 0.0,
        most: int = 8,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest group.

        bandwidth: radius h in standard deviations of the image; 0 finds it by `quantile`. nodes: supervoxels. most:
        groups kept. A constant image is all background.
        """
        checked_count(most, max(most, 1), "most", NAME)
        checked_count(nodes, nodes, "nodes", NAME, most=5000)
        regions = slic(image, spacing_mm, nodes)
        table = region_features(image, regions, spacing_mm, place_weight)
        groups = modes(table, bandwidth, quantile)
        groups = at_most(groups, table, sizes(regions), most)
        return by_brightness(groups[regions], intensity(image)).astype(np.uint8)


def modes(
    table: npt.NDArray[np.float64], bandwidth: float = 0.0, quantile: float = 0.15
) -> npt.NDArray[np.int64]:
    """Mode (R,) that each row of (R, F) climbs to."""
    from sklearn.cluster import MeanShift as Library
    from sklearn.cluster import estimate_bandwidth
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        width = bandwidth or float(estimate_bandwidth(table, quantile=quantile, random_state=0))
        if width <= 1e-6:
            return np.unique(table.round(6), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        return Library(bandwidth=width, bin_seeding=True).fit(table).labels_.astype(np.int64)
