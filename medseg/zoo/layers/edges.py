"""Edges of images and of labels, in planes and volumes."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_DIAGONAL = 0.4142
"""tan(22.5 degrees): a component of the gradient below this share of the largest does not count as a direction."""


def shifted(x: Tensor, offset: tuple[int, ...]) -> Tensor:
    """x at the position plus `offset` voxels; beyond the border the nearest voxel's value."""
    for axis, step in enumerate(offset, start=2):
        if step:
            length = x.shape[axis]
            index = (torch.arange(length, device=x.device) + step).clamp_(0, length - 1)
            x = x.index_select(axis, index)
    return x


def differences(x: Tensor) -> Tensor:
    """Central differences along each axis: (B, C, *S) -> (B, C, D, *S)."""
    dims = x.ndim - 2
    axes = [tuple(int(i == axis) for i in range(dims)) for axis in range(dims)]
    steps = [(shifted(x, axis) - shifted(x, tuple(-s for s in axis))) / 2 for axis in axes]
    return torch.stack(steps, dim=2)


def smoothed(x: Tensor) -> Tensor:
    """A binomial filter 1/4, 1/2, 1/4 along each axis."""
    for axis in range(x.ndim - 2):
        step = tuple(int(i == axis) for i in range(x.ndim - 2))
        x = x / 2 + (shifted(x, step) + shifted(x, tuple(-s for s in step))) / 4
    return x


@torch.no_grad()
def canny(image: Tensor, low: float = 10.0, high: float = 100.0) -> Tensor:
    """Edges of each image, 0 or 1: (B, C, *S) -> (B, 1, *S). Canny 1986, doi:10.1109/TPAMI.1986.4767851.

    Each channel is brought to 0..255 first; the channel with the steepest slope counts. low, high: thresholds on the
    sum of the gradient's components in Sobel's scale; edges above `low` stay where they touch one above `high`.
    """
    x = image.float()
    flat = x.flatten(2)
    lowest = flat.amin(dim=2)[(...,) + (None,) * (x.ndim - 2)]
    spread = flat.amax(dim=2)[(...,) + (None,) * (x.ndim - 2)] - lowest
    slopes = 8 * differences(smoothed((x - lowest) * (255 / spread.clamp_min(1e-6))))
    steepest = slopes.abs().sum(dim=2).argmax(dim=1)[:, None, None]
    slope = slopes.gather(1, steepest.expand(-1, 1, *slopes.shape[2:]))[:, 0]
    return _connected(_thinned(slope, low), high)


def _thinned(slope: Tensor, low: float) -> Tensor:
    """Steepness (B, 1, *S) where it is above `low` and not less than on either side along the gradient, else 0."""
    steepness = slope.abs().sum(dim=1, keepdim=True)
    heading = slope.sign() * (slope.abs() > HALF_DIAGONAL * slope.abs().amax(dim=1, keepdim=True))
    kept = torch.zeros_like(steepness, dtype=torch.bool)
    for way in product((-1, 0, 1), repeat=slope.shape[1]):
        if way <= (0,) * len(way):  # the opposite way is the same line
            continue
        line = torch.tensor(way, device=slope.device).reshape(1, -1, *(1,) * (slope.ndim - 2))
        along = (heading == line).all(dim=1, keepdim=True) | (heading == -line).all(dim=1, keepdim=True)
        before, after = shifted(steepness, tuple(-w for w in way)), shifted(steepness, way)
        kept |= along & (steepness > before) & (steepness >= after)
    return steepness * (kept & (steepness > low))


def _connected(steepness: Tensor, high: float) -> Tensor:
    """1 where steepness is above `high`, or above 0 and joined to such a voxel."""
    pool = F.max_pool2d if steepness.ndim == 4 else F.max_pool3d
    weak, edges = (steepness > 0).float(), (steepness > high).float()
    while True:
        grown = pool(edges, 3, 1, 1) * weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


def label_edges(masks: Tensor, counts: Tensor, radius: int = 2) -> Tensor:
    """Voxels within `radius` of one that carries other labels: (B, 1, *S) bool.

    masks: (B, K, *S). counts: (B, 1, *S) bool; voxels that do not count make no edges.
    """
    edges = torch.zeros_like(counts)
    for offset in product(range(-radius, radius + 1), repeat=masks.ndim - 2):
        if 0 < sum(step * step for step in offset) <= radius * radius:
            other = (shifted(masks, offset) != masks).any(dim=1, keepdim=True)
            edges |= other & shifted(counts, offset)
    return edges & counts
