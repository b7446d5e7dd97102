"""Superpixels (supervoxels) of an image, their neighbours, and means of features over them.

SLIC: Achanta, Shaji, Smith, Lucchi, Fua, Suesstrunk 2012, doi:10.1109/TPAMI.2012.120.
"""

from __future__ import annotations

from itertools import product
from math import ceil, prod

import torch
from torch import Tensor


@torch.no_grad()
def slic(image: Tensor, count: int, compactness: float = 0.5, iterations: int = 5) -> tuple[Tensor, int]:
    """Labels (B, *S) of about `count` superpixels an image, and how many labels there are at most.

    image: (B, C, *S), standardised. Centres start on a regular grid; a voxel chooses among the centres of its own and
    the adjacent grid cells by |I - I_c|^2 / C + compactness^2 |p - p_c|^2 / step^2, centres move to the mean, and so on.
    Superpixels may be in parts, and some may be empty.
    """
    size = image.shape[2:]
    step = max((prod(size) / count) ** (1 / len(size)), 1.0)
    cells = [max(ceil(n / step - 0.5), 1) for n in size]
    lines = [torch.arange(n, device=image.device, dtype=torch.float32) for n in size]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij")).flatten(1)
    homes = [(line * n / side).floor().long() for line, n, side in zip(lines, cells, size, strict=True)]
    home = torch.stack(torch.meshgrid(*homes, indexing="ij")).flatten(1)
    labels = [
        _slic_one(sample.float().flatten(1), place * compactness / step, home, cells, iterations)
        for sample in image
    ]
    return torch.stack(labels).reshape(len(image), *size), prod(cells)


def _slic_one(grey: Tensor, place: Tensor, home: Tensor, cells: list[int], iterations: int) -> Tensor:
    """Labels (N,) of one image: grey (C, N), place (D, N) in units of the step, home (D, N) the grid cell of a voxel."""
    radix = [prod(cells[axis + 1 :]) for axis in range(len(cells))]
    features = torch.cat([grey / len(grey) ** 0.5, place]).T.contiguous()
    label = sum(h * r for h, r in zip(home, radix, strict=True))
    assert isinstance(label, Tensor)
    offsets = list(product((-1, 0, 1), repeat=len(cells)))
    for _ in range(iterations):
        centres = mean_over(features, label, prod(cells))
        best = torch.full_like(features[:, 0], float("inf"))
        chosen = label
        for offset in offsets:
            near = [
                (h + o).clamp(0, n - 1) * r for h, o, n, r in zip(home, offset, cells, radix, strict=True)
            ]
            candidate = torch.stack(near).sum(dim=0)
            distance = (features - centres[candidate]).square().sum(dim=1)
            closer = distance < best
            best, chosen = torch.where(closer, distance, best), torch.where(closer, candidate, chosen)
        label = chosen
    return label


def sum_over(values: Tensor, label: Tensor, count: int) -> Tensor:
    """Sums of rows (N, C) by label (N,): (count, C)."""
    return values.new_zeros(count, values.shape[1]).index_add_(0, label, values)


def sizes_of(label: Tensor, count: int, like: Tensor) -> Tensor:
    """Number of voxels of each superpixel, (count, 1), in the type of `like`."""
    return torch.bincount(label, minlength=count).to(like.dtype)[:, None]


def mean_over(values: Tensor, label: Tensor, count: int) -> Tensor:
    """Means of rows (N, C) by label (N,): (count, C), 0 for labels without voxels."""
    return sum_over(values, label, count) / sizes_of(label, count, values).clamp_min(1)


def neighbours(labels: Tensor, count: int) -> Tensor:
    """Which superpixels touch, (count, count) of 0 and 1 with 1 on the diagonal. labels: (*S) of one image."""
    touching = torch.eye(count, device=labels.device)
    for axis in range(labels.ndim):
        one, other = (
            labels.narrow(axis, 0, labels.shape[axis] - 1),
            labels.narrow(axis, 1, labels.shape[axis] - 1),
        )
        touching[one.flatten(), other.flatten()] = 1.0
        touching[other.flatten(), one.flatten()] = 1.0
    return touching


def extents(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First and last index of each superpixel on every axis, (count, D) each; inf and -inf where it is empty."""
    lines = [torch.arange(n, device=labels.device, dtype=torch.float32) for n in labels.shape]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij")).flatten(1).T
    index = labels.flatten()[:, None].expand_as(place)
    low = place.new_full((count, labels.ndim), float("inf")).scatter_reduce_(0, index, place, "amin")
    high = place.new_full((count, labels.ndim), float("-inf")).scatter_reduce_(0, index, place, "amax")
    return low, high
