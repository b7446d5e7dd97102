"""Superpixels as the unit. Ren, Malik, ICCV 2003, doi:10.1109/ICCV.2003.1238308.

An image is first cut into many small regions that follow its edges, then whole regions are labelled instead of voxels:
there are hundreds of them instead of millions and each has a shape and a mean. Four ways to cut are offered; the
regions are then sorted by K-means of their mean colour, from dark to bright, or numbered each by its own.
Differs from the paper: it cuts by normalised cut and trains a classifier on pairs of regions; here the cut is Felzenszwalb,
quickshift (2D both), compact watershed or SLIC, and regions are grouped without training. In 3D watershed and SLIC only.
Oracle: scikit-image's own call, region by region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean
from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.kmeans import grouped
from medseg.zoo.classical.clustering.regions import numbered, region_features, slic
from medseg.zoo.classical.features import by_brightness, channels, checked_count, cluster_names, unit_range
from medseg.zoo.classical.otsu import intensity

NAME = "superpixel-generic"
CUTS = ("felzenszwalb", "quickshift", "watershed", "slic")


class Superpixels:
    """Regions of an over-segmentation, in `groups` classes."""

    dims = (2, 3)

    def classes_of(self, groups: int = 2, **parameters: Any) -> Mapping[int, str]:
        return region_names(groups)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        cut: str = "watershed",
        segments: int = 500,
        groups: int = 2,
        scale: float = 100.0,
        sigma: float = 0.8,
        compactness: float = 0.001,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        cut: felzenszwalb, quickshift, watershed or slic. segments: regions wanted (watershed, slic). groups: classes
        that regions are sorted into; 0 keeps every region apart (255 at most). scale: larger gives larger regions
        (felzenszwalb). sigma: smoothing before, in voxels. compactness: of watershed basins.
        """
        regions = over_segmentation(image, spacing_mm, cut, segments, (scale, sigma, compactness))
        return sorted_regions(image, regions, spacing_mm, groups, NAME)


def region_names(groups: int) -> dict[int, str]:
    """Names of the label values: groups from dark to bright, or single regions where `groups` is 0."""
    return {n: f"region {n}" for n in range(1, 256)} if groups == 0 else cluster_names(groups)


def over_segmentation(
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    cut: str,
    segments: int = 500,
    shape: tuple[float, float, float] = (100.0, 0.8, 0.001),
) -> npt.NDArray[np.int64]:
    """Regions (*S), numbered from 0. shape: scale, sigma and compactness as `Superpixels.segment` has them."""
    from skimage import filters, segmentation

    scale, sigma, compactness = shape
    if cut not in CUTS:
        raise UserError(
            f"no way to cut named {cut!r}{did_you_mean(cut, CUTS)}",
            f"system {NAME}",
            f"one of {', '.join(CUTS)}",
        )
    if image.ndim == 4 and cut in ("felzenszwalb", "quickshift"):
        raise UserError(
            f"{cut} cuts 2D images only", f"system {NAME}", "take cut: watershed or slic for volumes"
        )
    if cut == "slic":
        return slic(image, spacing_mm, segments)
    if cut == "watershed":
        checked_count(segments, segments, "segments", NAME, most=10**7)
        segments = min(segments, image[0].size)
        edges = filters.sobel(filters.gaussian(unit_range(image), sigma))
        return numbered(segmentation.watershed(edges, markers=segments, compactness=compactness))
    if cut == "felzenszwalb":
        values = np.moveaxis(unit_channels(image), 0, -1)
        return numbered(
            segmentation.felzenszwalb(values, scale=scale, sigma=sigma, min_size=20, channel_axis=-1)
        )
    values = np.moveaxis(unit_channels(image), 0, -1)
    values = 100 * (values if values.shape[-1] == 3 else np.repeat(values[..., :1], 3, axis=-1))
    return numbered(
        segmentation.quickshift(values, kernel_size=3, max_dist=6, sigma=sigma, convert2lab=False, rng=0)
    )


def unit_channels(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Channels (C, *S) on one scale from 0 to 1; zeros for a constant image."""
    values = channels(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def sorted_regions(
    image: npt.NDArray[Any],
    regions: npt.NDArray[np.int64],
    spacing_mm: Sequence[float],
    groups: int,
    name: str,
) -> npt.NDArray[np.uint8]:
    """Regions (*S) -> labels (*S): classes of like regions from dark to bright, or each region by its own number."""
    count = int(regions.max()) + 1
    grey = intensity(image)
    if groups == 0:
        if count > 255:
            raise UserError(
                f"{count} regions, a label image holds 255",
                f"system {name}",
                "ask for fewer segments, or sort the regions into classes with groups: 2",
            )
        return (by_brightness(regions, grey) + 1).astype(np.uint8)
    checked_count(groups, regions.size, "groups", name)
    table = region_features(image, regions, spacing_mm, 0.0).astype(np.float32)
    return by_brightness(grouped(table, groups)[regions], grey).astype(np.uint8)
