"""From regions to classes, and what region methods share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, is_flat
from medseg.zoo.classical.otsu import intensity, otsu_threshold
from medseg.zoo.classical.regions.seeds import BACKGROUND, classes_within, seeds_of

Regions = npt.NDArray[np.int32]


class PartitionMethod:
    """Parts an image into connected regions; `segment` then gives each region a class.

    With a prompt a region takes the class of the seeds in it (regions without any are background), without
    one the regions are ordered by their means and parted into `levels` by Otsu's criterion.
    """

    name = "partition"
    dims = (2, 3)
    Arguments: Any = None

    @property
    def where(self) -> str:
        """How errors name this method."""
        return f"system {self.name}"

    def classes_of(self, levels: int = 2, **parameters: Any) -> Mapping[int, str]:
        return level_names(levels)

    def partition(self, grey: Grey, spacing_mm: Sequence[float], options: Any) -> Regions:
        """Regions (*S) of a grey image, numbered from 0 without gaps."""
        raise UserError(f"{self.name} has no regions", self.where)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        **parameters: Any,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). Arguments: `Arguments`. A constant image is background."""
        options = self.Arguments(**parameters)
        checked("levels", options.levels, self.where, least=2, most=5 if prompt is None else 254)
        grey = intensity(image)
        seeds = None if prompt is None else seeds_of(prompt, grey.shape, spacing_mm, self.where)
        if seeds is not None:
            classes_within(seeds, options.levels, self.where)
        if is_flat(grey):
            return np.zeros(grey.shape, dtype=np.uint8)
        regions = self.partition(grey, spacing_mm, options)
        return levels_of(regions, grey, options.levels) if seeds is None else seeded(regions, seeds)


def level_names(levels: int) -> dict[int, str]:
    """Names of the classes above the background."""
    return {1: "foreground"} if int(levels) == 2 else {n: f"level {n}" for n in range(1, int(levels))}


def numbered(regions: npt.NDArray[Any]) -> Regions:
    """The same regions, numbered from 0 without gaps."""
    _, numbers = np.unique(regions, return_inverse=True)
    return numbers.reshape(regions.shape).astype(np.int32)


def means_of(regions: Regions, grey: Grey) -> Grey:
    """The mean of each region."""
    flat = regions.ravel()
    return np.bincount(flat, weights=grey.ravel()) / np.maximum(np.bincount(flat), 1)


def levels_of(regions: Regions, grey: Grey, levels: int) -> npt.NDArray[np.uint8]:
    """Classes (*S) of regions by their means, 0 the darkest; fewer levels where there are fewer means."""
    from medseg.zoo.classical.thresholds.multi_otsu import level_thresholds

    means = means_of(regions, grey)
    painted = means[regions]
    if is_flat(means):
        return np.zeros(grey.shape, dtype=np.uint8)
    if levels == 2:
        return (painted > otsu_threshold(painted)).astype(np.uint8)
    filled = int(np.count_nonzero(np.histogram(means, 256)[0]))
    thresholds = level_thresholds(painted, min(levels, filled))
    return np.digitize(painted, thresholds, right=True).astype(np.uint8)


def seeded(regions: Regions, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Classes (*S) of regions by the seeds in them: the most frequent class, 0 where there is no seed."""
    named = seeds > 0
    votes = np.zeros((int(regions.max()) + 1, BACKGROUND + 1), dtype=np.int32)
    np.add.at(votes, (regions[named], seeds[named]), 1)
    classes = votes.argmax(axis=1)
    classes[classes == BACKGROUND] = 0
    return classes[regions].astype(np.uint8)
