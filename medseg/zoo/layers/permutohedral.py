"""Gaussian filtering in many dimensions at bounded cost. Adams, Baek, Davis 2010, doi:10.1111/j.1467-8659.2009.01645.x.

Values at N points of a d-dimensional feature space are spread over the corners of the simplices of a permutohedral
lattice, blurred along its d + 1 directions, and read back: O(N d^2) where the exact sum costs O(N^2).
"""

from __future__ import annotations

import warnings
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from medseg.core.errors import UserError

LARGEST_CODE = 2**62


class PermutohedralLattice:
    """The lattice of one set of points: filters values by exp(-|f_i - f_j|^2 / 2) between them, up to a factor.

    features: (N, d), each axis in units of its own standard deviation. No gradient flows to them.
    Raises UserError where the points lie so far apart that their cells cannot be numbered, or are not finite.
    """

    def __init__(self, features: Tensor) -> None:
        if not features.isfinite().all():
            raise UserError(
                "the image holds NaN or infinity", "the random field", "clean it, see `medseg check`"
            )
        with torch.no_grad():
            corners, weights = enclosing_simplices(features.double())
            self._number(corners, weights.to(features.dtype))

    def _number(self, corners: Tensor, weights: Tensor) -> None:
        """Gives every corner in use a row, and finds the rows of its neighbours. corners: (N, d + 1, d)."""
        points, vertices, axes = corners.shape
        flat = corners.reshape(-1, axes)
        flat = flat - flat.amin(dim=0) + vertices
        extent = [int(n) + 1 + vertices for n in flat.amax(dim=0)]
        if prod(extent) > LARGEST_CODE:
            raise UserError(
                f"the image spreads over {prod(extent):.1e} cells of the random field's lattice, more than can be numbered",
                "system.arguments.theta",
                "raise alpha or beta, or scale the image",
            )
        radix = flat.new_tensor([prod(extent[axis + 1 :]) for axis in range(axes)])
        codes, order = torch.sort((flat * radix).sum(dim=1), stable=True)
        rows, place, count = torch.unique_consecutive(codes, return_inverse=True, return_counts=True)
        row_of = torch.empty_like(place).scatter_(0, order, place)
        starts = torch.zeros(len(rows) + 1, dtype=torch.long, device=rows.device)
        starts[1:] = count.cumsum(0)
        each = torch.arange(0, points * vertices + 1, vertices, device=rows.device)
        self.slice = _sparse(each, row_of, weights.reshape(-1), (points, len(rows)))
        self.splat = _sparse(starts, order // vertices, weights.reshape(-1)[order], (len(rows), points))
        # A step along direction j adds (-1, ..., d at j, ..., -1); codes are linear, so a step is one number.
        step = [-int(radix.sum()) + (vertices * int(radix[j]) if j < axes else 0) for j in range(vertices)]
        self.neighbours = [(_find(rows, rows + s), _find(rows, rows - s)) for s in step]

    def filter(self, values: Tensor) -> Tensor:
        """(N, K) -> (N, K); gradients flow to the values."""
        return _Filter.apply(values, self)

    def apply(self, values: Tensor, backward: bool = False) -> Tensor:
        """The filter, or its transpose, without a record for gradients."""
        spread = self.splat @ values
        for plus, minus in reversed(self.neighbours) if backward else self.neighbours:
            padded = torch.cat([spread, spread.new_zeros(1, spread.shape[1])])
            spread = spread + 0.5 * (padded[plus] + padded[minus])
        return self.slice @ spread


class _Filter(torch.autograd.Function):
    """Linear in the values, so that backward is the transposed filter and nothing is kept between."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: PermutohedralLattice) -> Tensor:
        ctx.lattice = lattice
        return lattice.apply(values.contiguous())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice.apply(gradients[0].contiguous(), backward=True), None


def enclosing_simplices(features: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (N, d + 1, d) of the simplex around each point, in the lattice's first d coordinates, and the point's
    barycentric weights (N, d + 1). The lattice lies in the hyperplane of R^(d+1) whose coordinates sum to 0."""
    points, axes = features.shape
    size = axes + 1
    # The blur [1, 2, 1] in each direction has the standard deviation (d + 1) sqrt(2 / 3).
    scale = [size * sqrt(2 / 3) / sqrt((i + 1) * (i + 2)) for i in range(axes)]
    scaled = features * features.new_tensor(scale)
    above = torch.cat([scaled.flip(1).cumsum(1).flip(1), scaled.new_zeros(points, 1)], dim=1)
    factor = torch.arange(size, device=features.device, dtype=features.dtype)
    before = torch.cat([scaled.new_zeros(points, 1), scaled], dim=1)
    elevated = above - factor * before
    nearest = torch.round(elevated / size) * size
    excess = (nearest.sum(dim=1, keepdim=True) / size).round().long()
    rank = torch.argsort(torch.argsort(elevated - nearest, dim=1, descending=True, stable=True), dim=1)
    rank = rank + excess
    low, high = rank < 0, rank > axes
    nearest = nearest + size * (low.long() - high.long())
    rank = rank + size * (low.long() - high.long())
    offset = (elevated - nearest) / size
    weights = features.new_zeros(points, size + 1)
    weights.scatter_add_(1, axes - rank, offset)
    weights.scatter_add_(1, size - rank, -offset)
    weights[:, 0] += 1 + weights[:, size]
    k = torch.arange(size, device=features.device)[:, None]
    shift = torch.where(rank[:, None, :] <= axes - k, k, k - size)
    corners = nearest.round().long()[:, None, :] + shift
    return corners[:, :, :axes], weights[:, :size]


def _find(rows: Tensor, wanted: Tensor) -> Tensor:
    """Where each wanted code stands among the sorted rows; len(rows) where it is none of them."""
    place = torch.searchsorted(rows, wanted).clamp_(max=len(rows) - 1)
    return torch.where(rows[place] == wanted, place, len(rows))


def _sparse(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)
