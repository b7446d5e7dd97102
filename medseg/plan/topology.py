"""Which axes a planned network pools when: nnU-Net's rule (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).

Axes of coarse spacing are neither pooled nor convolved across before the finer ones have caught up within a factor
of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MIN_EDGE = 4
"""Voxels that are left of an axis at the bottleneck, at least."""


class Topology(NamedTuple):
    """strides, kernels: one tuple a stage, the first stage at full resolution. pools: poolings of each axis.

    patch: the size that was asked for, padded up to multiples of 2^pools.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    pools: tuple[int, ...]
    patch: tuple[int, ...]

    @property
    def stages(self) -> int:
        """Resolutions of the encoder, the bottleneck included."""
        return len(self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What patch edges must be multiples of."""
        return tuple(2**n for n in self.pools)


def plan_topology(
    spacing: Sequence[float], patch: Sequence[float], most_stages: int | None = None
) -> Topology:
    """Strides and kernels for a patch (voxels) of a spacing (mm, or any unit); both one value an axis."""
    size, gap = [float(n) for n in patch], [float(s) for s in spacing]
    axes = range(len(size))
    kernel, pools = [1] * len(size), [0] * len(size)
    strides, kernels = [(1,) * len(size)], []
    while most_stages is None or len(strides) < most_stages:
        chosen = _axes_to_pool(size, gap)
        if not chosen:
            break
        finest = min(gap)
        for axis in axes:
            if kernel[axis] == 1 and gap[axis] / finest < 2:
                kernel[axis] = 3
        strides.append(tuple(2 if axis in chosen else 1 for axis in axes))
        kernels.append(tuple(kernel))
        for axis in chosen:
            gap[axis] *= 2
            size[axis] = -(-size[axis] // 2)
            pools[axis] += 1
    kernels.append((3,) * len(size))
    padded = tuple(int(-(-n // 2**p) * 2**p) for n, p in zip(patch, pools))
    return Topology(tuple(strides), tuple(kernels), tuple(pools), padded)


def _axes_to_pool(size: Sequence[float], gap: Sequence[float]) -> list[int]:
    large = [axis for axis in range(len(size)) if size[axis] >= 2 * MIN_EDGE]
    if not large:
        return []
    finest = min(gap[axis] for axis in large)
    chosen = [axis for axis in large if gap[axis] / finest < 2]
    if len(chosen) == 1 and size[chosen[0]] < 3 * MIN_EDGE:
        return []
    return chosen
