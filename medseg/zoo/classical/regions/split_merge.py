"""Split and merge. Horowitz, Pavlidis 1976, Journal of the ACM 23(2), doi:10.1145/321941.321956.

A block whose grey values differ too much is cut into four (eight in 3D), and so on, until every block is even
or as small as blocks may be. Blocks that touch and are alike are then merged, across the borders that cutting
made. Large even areas cost a handful of blocks, and no seeds are needed.
Differs from the paper: two regions merge if their means are alike, not if their union is even; each region
joins its most similar partner in a round, all at once; sides of blocks are about equal in mm, so an axis of
thick slices is cut less.
Oracle: a recursive quadtree of few lines; the stop rules themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.zoo.classical.grey import Grey, checked
from medseg.zoo.classical.regions.adjacency import merged
from medseg.zoo.classical.regions.partition import PartitionMethod, Regions, numbered


@dataclass(frozen=True)
class SplitMergeArguments:
    """Arguments of split and merge.

    split: a block is even if its grey values differ by at most this share of the image's range, 0.1 to 0.15
    as a rule. merge: regions are alike if their means differ by at most this share. least: edge of the
    smallest block, in voxels of the finest axis. levels: classes, with background, into which regions are
    parted.
    """

    split: float = 0.12
    merge: float = 0.08
    least: int = 2
    levels: int = 2


class SplitMerge(PartitionMethod):
    """Regions from blocks that are even, merged where alike."""

    name = "split-merge"
    Arguments = SplitMergeArguments

    def partition(self, grey: Grey, spacing_mm: Sequence[float], options: SplitMergeArguments) -> Regions:
        return self.merged_blocks(grey, spacing_mm, options)[1]

    def merged_blocks(
        self, grey: Grey, spacing_mm: Sequence[float], options: SplitMergeArguments
    ) -> tuple[Regions, Regions]:
        """The blocks (*S), and the regions (*S) that they were merged into."""
        checked("split", options.split, self.where, most=1.0)
        checked("merge", options.merge, self.where, most=1.0)
        checked("least", options.least, self.where, least=1)
        extent = float(grey.max() - grey.min())
        blocks = even_blocks(grey, options.split * extent, int(options.least), spacing_mm)
        return blocks, merged(blocks, grey, options.merge * extent)


def even_blocks(grey: Grey, tolerance: float, least: int, spacing_mm: Sequence[float]) -> Regions:
    """Blocks (*S), numbered from 0: the largest in which max - min <= tolerance, else the smallest there are."""
    finest = min(spacing_mm)
    smallest = [max(1, round(least * finest / s)) for s in spacing_mm]
    low, high = _extremes(grey, smallest)
    levels, steps = [(low, high)], []
    size = [float(n * s) for n, s in zip(smallest, spacing_mm, strict=True)]
    while max(low.shape) > 1:
        shortest = min(length for length, n in zip(size, low.shape, strict=True) if n > 1)
        step = [
            2 if n > 1 and length < 1.42 * shortest else 1 for n, length in zip(low.shape, size, strict=True)
        ]
        low, high = _halved(low, step, np.minimum), _halved(high, step, np.maximum)
        size = [length * k for length, k in zip(size, step, strict=True)]
        levels.append((low, high))
        steps.append(step)
    blocks, count = np.zeros(low.shape, dtype=np.int64), 0
    for depth, (low, high) in enumerate(reversed(levels)):
        if depth:
            blocks = _repeated(blocks, steps[-depth])
        even = (high - low <= tolerance) | (depth == len(levels) - 1)
        fresh = (blocks == 0) & even
        blocks[fresh] = count + 1 + np.arange(np.count_nonzero(fresh))
        count += int(np.count_nonzero(fresh))
    return numbered(_repeated(blocks, smallest)[tuple(slice(n) for n in grey.shape)])


def _extremes(grey: Grey, block: Sequence[int]) -> tuple[Grey, Grey]:
    """Smallest and largest value of the smallest blocks, in arrays whose sides are powers of two."""
    low, high = grey, grey
    for axis, n in enumerate(block):
        starts = np.arange(0, grey.shape[axis], n)
        low, high = np.minimum.reduceat(low, starts, axis), np.maximum.reduceat(high, starts, axis)
    # What lies beyond the image is even with anything.
    margin = [(0, (1 << (n - 1).bit_length()) - n) for n in low.shape]
    return np.pad(low, margin, constant_values=np.inf), np.pad(high, margin, constant_values=-np.inf)


def _halved(values: Grey, step: Sequence[int], pick: np.ufunc) -> Grey:
    for axis, k in enumerate(step):
        if k == 2:
            pairs = np.moveaxis(values, axis, 0)
            values = np.moveaxis(pick(pairs[::2], pairs[1::2]), 0, axis)
    return values


def _repeated(blocks: np.ndarray, step: Sequence[int]) -> np.ndarray:
    for axis, k in enumerate(step):
        blocks = np.repeat(blocks, k, axis=axis) if k > 1 else blocks
    return blocks
