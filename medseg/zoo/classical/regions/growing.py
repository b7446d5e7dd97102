"""Seeded region growing. Adams, Bischof 1994, IEEE TPAMI 16(6), doi:10.1109/34.295913.

A region starts at its seeds and takes in neighbours that are like it, until no neighbour is. Like may mean
near to the seeds' mean ("difference"), within k standard deviations of the region so far ("confidence"), or
nearer to this region than to the others that reach the voxel, the most similar voxels first ("competition",
the paper's). "automatic" needs no seeds: it draws one among all voxels without a region, grows it, and goes
on.
Differs from the paper: the competition's order holds to within 1/32 of the range of differences; where
regions that grew alone overlap, the nearer mean wins; what "automatic" leaves after its largest number of
draws joins the nearest regions.
Oracle: SimpleITK `ConnectedThreshold`, `ConfidenceConnected` (both called); scikit-image `flood`; a sorted
list for the competition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, chosen, from_itk, is_flat, to_itk
from medseg.zoo.classical.morphology import Mask
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.regions.compete import compete
from medseg.zoo.classical.regions.partition import Regions, level_names, levels_of, numbered
from medseg.zoo.classical.regions.seeds import BACKGROUND, classes_within, seeds_of

WHERE = "system region-growing"
RULES = ("difference", "confidence", "competition", "automatic")
DRAWS = 200
"""Regions that the automatic rule draws at most."""


@dataclass(frozen=True)
class GrowingArguments:
    """Arguments of region growing.

    rule: difference, confidence, competition or automatic. tolerance: of "difference" and "automatic", as a
    share of the image's range. k, iterations: of "confidence". levels: classes with background; seeds name
    classes below it. draw: seed of the random draws of "automatic".
    """

    rule: str = "difference"
    tolerance: float = 0.1
    k: float = 2.5
    iterations: int = 4
    levels: int = 2
    draw: int = 0


class RegionGrowing:
    """Regions that grow from seeds."""

    dims = (2, 3)
    Arguments = GrowingArguments

    def classes_of(self, levels: int = 2, **parameters: Any) -> Mapping[int, str]:
        return level_names(levels)

    def needs_prompt(self, rule: str = "difference", **parameters: Any) -> bool:
        return rule != "automatic"

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        **parameters: Any,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S), seeds in the prompt -> labels (*S). Arguments: `GrowingArguments`."""
        options = GrowingArguments(**parameters)
        chosen("rule", options.rule, RULES, WHERE)
        checked("tolerance", options.tolerance, WHERE, most=1.0)
        checked("k", options.k, WHERE)
        checked("iterations", options.iterations, WHERE)
        checked("levels", options.levels, WHERE, least=2, most=5 if options.rule == "automatic" else 254)
        grey = intensity(image)
        if options.rule == "automatic":
            if is_flat(grey):
                return np.zeros(grey.shape, dtype=np.uint8)
            extent = float(grey.max() - grey.min())
            return levels_of(
                drawn_regions(grey, options.tolerance * extent, options.draw), grey, options.levels
            )
        seeds = seeds_of(prompt, grey.shape, spacing_mm, WHERE)
        classes_within(seeds, options.levels, WHERE)
        grown = compete(grey, seeds) if options.rule == "competition" else grown_alone(grey, seeds, options)
        return np.where(grown == BACKGROUND, 0, grown).astype(np.uint8)


def grown_alone(grey: Grey, seeds: npt.NDArray[np.int64], options: GrowingArguments) -> npt.NDArray[np.int64]:
    """Every class grown by itself (*S); where several reach a voxel, the one of the nearest mean keeps it."""
    image = to_itk(grey, [1.0] * grey.ndim)
    reach = options.tolerance * float(grey.max() - grey.min())
    labels = np.zeros(grey.shape, dtype=np.int64)
    nearest = np.full(grey.shape, np.inf)
    for value in np.unique(seeds[seeds > 0]):
        places = np.argwhere(seeds == value)
        mean = float(grey[seeds == value].mean())
        region = _region(image, places, mean, reach, options) | (seeds == value)
        apart = np.where(region, np.abs(grey - mean), np.inf)
        apart[seeds == value] = -1.0
        closer = apart < nearest
        labels[closer], nearest[closer] = value, apart[closer]
    return labels


def _region(
    image: Any, places: npt.NDArray[Any], mean: float, reach: float, options: GrowingArguments
) -> Mask:
    import SimpleITK as sitk

    at = places[:, ::-1].tolist()
    if options.rule == "confidence":
        grown = sitk.ConfidenceConnected(image, at, int(options.iterations), float(options.k), 1, 1)
    else:
        grown = sitk.ConnectedThreshold(image, at, mean - reach, mean + reach)
    return from_itk(grown) > 0


def drawn_regions(grey: Grey, reach: float, draw: int) -> Regions:
    """Regions (*S) by seeds drawn one after another among the voxels that have no region yet."""
    import SimpleITK as sitk
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(draw)
    free = np.arange(grey.size)
    # What has a region lies beyond every reach.
    left, beyond = grey.copy(), float(grey.max()) + 2 * reach + 1
    regions = np.zeros(grey.shape, dtype=np.int32)
    for number in range(1, DRAWS + 1):
        free = free[regions.ravel()[free] == 0]
        if not free.size:
            break
        at = np.unravel_index(int(rng.choice(free)), grey.shape)
        value = float(grey[at])
        image = to_itk(left, [1.0] * grey.ndim)
        new = sitk.ConnectedThreshold(image, [[int(i) for i in at[::-1]]], value - reach, value + reach)
        mask = from_itk(new) > 0
        regions[mask], left[mask] = number, beyond
    if (regions == 0).any():
        _, nearest = distance_transform_edt(regions == 0, return_indices=True)
        regions = regions[tuple(nearest)]
    return numbered(regions)
