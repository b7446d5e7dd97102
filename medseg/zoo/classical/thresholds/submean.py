"""Means of blocks as thresholds. After Chow, Kaneko 1972, Comput. Biomed. Res. 5(4), doi:10.1016/0010-4809(72)90070-5.

The image is cut into blocks, and the mean of a block is its threshold. Between the centres of blocks the
thresholds are interpolated, so that no seam shows. Slow changes of light or coil sensitivity fall out,
because a block and its threshold change together.
Differs from the paper: the mean replaces the fit of two Gaussians, and no block is left out, so a block that
holds one kind of matter alone is parted by its noise.
Oracle: with one block, scikit-image `threshold_mean`; block means against a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, side
from medseg.zoo.classical.otsu import intensity


class SubmeanThreshold:
    """A threshold that changes from place to place, from the means of blocks."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        blocks: int = 8,
        interpolate: bool = True,
        dark: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        blocks: along each axis, 4 to 16 as a rule; an axis of n voxels has n / 2 at most. interpolate:
        linearly between the centres of blocks; without, every block has one threshold. dark: the object is
        the darker part.
        """
        checked("blocks", blocks, "system threshold-submean", least=1)
        grey = intensity(image)
        return side(grey, block_thresholds(grey, int(blocks), interpolate), dark)


def block_thresholds(grey: Grey, blocks: int, interpolate: bool) -> Grey:
    """The threshold of every voxel (*S)."""
    edges = [np.linspace(0, n, min(blocks, max(n // 2, 1)) + 1).round().astype(int) for n in grey.shape]
    means = grey
    for axis, edge in enumerate(edges):
        sizes = np.diff(edge).reshape([-1 if a == axis else 1 for a in range(grey.ndim)])
        means = np.add.reduceat(means, edge[:-1], axis=axis) / sizes
    for axis, edge in enumerate(edges):
        spread = (
            _between_centres(edge) if interpolate else np.repeat(np.eye(len(edge) - 1), np.diff(edge), axis=0)
        )
        means = np.moveaxis(np.tensordot(spread, means, axes=(1, axis)), 0, axis)
    return means


def _between_centres(edge: npt.NDArray[Any]) -> Grey:
    """Weights (voxels, blocks) of linear interpolation between block centres, constant beyond the outer ones."""
    centres = (edge[:-1] + edge[1:] - 1) / 2
    voxels = np.arange(edge[-1])
    return np.stack([np.interp(voxels, centres, row) for row in np.eye(len(centres))], axis=1)
