"""Split and merge, then growth. Haralick, Shapiro 1985, CVGIP 29(1), doi:10.1016/S0734-189X(85)90153-7.

Split and merge finds large even regions but cuts their borders into blocks. The large regions are kept as
seeds; small ones, and blocks at a border that are not even, are given free. What is free then joins, voxel by
voxel and the most similar first, the neighbour whose mean it is nearest to, so that borders follow the image
and not the blocks.
Differs from the paper: it is a survey that describes such combinations; this one takes all regions above a
size as seeds.
Oracle: none kept; `split-merge` and `region-growing`, of which it is made, have theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.grey import Grey, checked
from medseg.zoo.classical.regions.adjacency import touching_pairs
from medseg.zoo.classical.regions.compete import compete
from medseg.zoo.classical.regions.partition import Regions, numbered
from medseg.zoo.classical.regions.split_merge import SplitMerge, SplitMergeArguments


@dataclass(frozen=True)
class SplitMergeGrowArguments(SplitMergeArguments):
    """As for split and merge. smallest: edge of a square (cube) in mm (px) below whose size a region is no seed."""

    smallest: float = 8.0


class SplitMergeGrow(SplitMerge):
    """Large regions of split and merge, grown into what lies between them."""

    name = "split-merge-grow"
    Arguments = SplitMergeGrowArguments

    def partition(self, grey: Grey, spacing_mm: Sequence[float], options: SplitMergeArguments) -> Regions:
        assert isinstance(options, SplitMergeGrowArguments)
        checked("smallest", options.smallest, self.where)
        blocks, regions = self.merged_blocks(grey, spacing_mm, options)
        kept = ~mixed_blocks(blocks, regions, grey, options.split * float(np.ptp(grey)))[blocks]
        if not kept.any():
            kept[:] = True
        sizes = np.bincount(regions[kept], minlength=int(regions.max()) + 1) * float(np.prod(spacing_mm))
        kept &= (sizes >= min(options.smallest**grey.ndim, sizes.max()))[regions]
        return numbered(compete(grey, np.where(kept, regions.astype(np.int64) + 1, 0)))


def mixed_blocks(blocks: Regions, regions: Regions, grey: Grey, tolerance: float) -> npt.NDArray[np.bool_]:
    """For each block, whether its grey values differ by more than the tolerance and it touches another region."""
    from scipy.ndimage import maximum, minimum

    every = np.arange(int(blocks.max()) + 1)
    uneven = np.asarray(maximum(grey, blocks, every)) - np.asarray(minimum(grey, blocks, every)) > tolerance
    region_of = np.zeros(len(every), dtype=np.int64)
    region_of[blocks.ravel()] = regions.ravel()
    pairs = touching_pairs(blocks)
    pairs = pairs[region_of[pairs[:, 0]] != region_of[pairs[:, 1]]]
    at_border = np.zeros(len(every), dtype=bool)
    at_border[pairs.ravel()] = True
    return uneven & at_border
