"""What every metric reads: two masks of one class on one grid, cut to the box that holds both.

Empty masks are decided here, once, for all metrics (`when_empty`):
    both masks empty   undefined: None, reason "absent in both"; never in a mean
    one mask empty     the metric's worst value: a missed or an invented structure never looks better than a bad one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Measure = Callable[..., float | None]
Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """A predicted and a true mask of one class.

    pred, true: (*S) booleans on one grid, cut to their common box (voxels outside it are False in both).
    steps: (ndim, 2 or 3) float; row a is the way in mm (px for photographs) from a voxel to its neighbour along axis
        a, so sheared grids are measured right too.
    shape: voxels of the whole grid along each axis, before the cut.
    """

    pred: Mask
    true: Mask
    steps: Floats
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        pred: npt.ArrayLike,
        true: npt.ArrayLike,
        spacing: Sequence[float] | Floats | None = None,
        valid: npt.ArrayLike | None = None,
    ) -> Pair:
        """A pair from two whole masks; non-zero counts as inside.

        spacing: in mm along each axis (or the `steps` matrix); None: pixels. valid: (*S), False where nothing counts.
        Raises UserError where shapes differ.
        """
        p, t = np.asarray(pred) != 0, np.asarray(true) != 0
        if p.shape != t.shape:
            raise UserError(
                f"masks of shape {p.shape} and {t.shape}",
                "score",
                "bring both onto one grid before comparing",
            )
        if valid is not None:
            keep = np.asarray(valid, dtype=bool)
            p, t = p & keep, t & keep
        box = bounding_box(p | t)
        return cls(p[box], t[box], step_matrix(spacing, p.ndim), p.shape)

    @cached_property
    def true_positives(self) -> int:
        """Voxels in both masks."""
        return int(np.count_nonzero(self.pred & self.true))

    @cached_property
    def pred_voxels(self) -> int:
        """Voxels of the prediction."""
        return int(np.count_nonzero(self.pred))

    @cached_property
    def true_voxels(self) -> int:
        """Voxels of the reference."""
        return int(np.count_nonzero(self.true))

    @property
    def false_positives(self) -> int:
        """Voxels of the prediction outside the reference."""
        return self.pred_voxels - self.true_positives

    @property
    def false_negatives(self) -> int:
        """Voxels of the reference that the prediction lacks."""
        return self.true_voxels - self.true_positives

    @cached_property
    def voxel_size(self) -> float:
        """mm^3 of a voxel, mm^2 of a pixel with a spacing, 1 for a photograph's pixel."""
        return float(np.sqrt(np.linalg.det(self.steps @ self.steps.T)))

    @cached_property
    def diagonal(self) -> float:
        """The longest diagonal of the whole grid in mm (px): no two surfaces are further apart."""
        edges = self.steps * np.asarray(self.shape, dtype=np.float64)[:, None]
        ways = [np.asarray(signs) @ edges for signs in product((-1.0, 1.0), repeat=len(edges))]
        return float(max(np.linalg.norm(way) for way in ways))

    @cached_property
    def surface_distances(self) -> tuple[Floats, Floats]:
        """Distances in mm (px) from each surface voxel of the prediction to the reference's surface, and back."""
        from medseg.metrics.surface import distances_between

        return distances_between(self.pred, self.true, self.steps)


def when_empty(one: float | Callable[[Pair], float]) -> Callable[[Measure], Measure]:
    """Gives a metric the house's answer to empty masks: None for two, `one` (a number or a function) for one."""

    def decorate(measure: Measure) -> Measure:
        @wraps(measure)
        def measured(pair: Pair, **settings: Any) -> float | None:
            if not (pair.pred_voxels or pair.true_voxels):
                return None
            if pair.pred_voxels and pair.true_voxels:
                return measure(pair, **settings)
            return one(pair) if callable(one) else one

        return measured

    return decorate


def bounding_box(mask: Mask) -> Box:
    """The smallest box that holds all True voxels; an empty box for an empty mask.

    >>> bounding_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
    (slice(1, 2, None), slice(1, 3, None))
    """
    box: list[slice] = []
    for axis in range(mask.ndim):
        seen = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0))
    return tuple(box)


def step_matrix(spacing: Sequence[float] | Floats | None, ndim: int) -> Floats:
    """(ndim, 2 or 3) ways between neighbouring voxels from a spacing, a matrix, or nothing (1 px).

    >>> step_matrix([0.5, 2.0], 2).tolist()
    [[0.5, 0.0], [0.0, 2.0]]
    """
    if spacing is None:
        return np.eye(ndim)
    steps = np.asarray(spacing, dtype=np.float64)
    steps = np.diag(steps) if steps.ndim == 1 else steps
    if (
        steps.shape[0] != ndim
        or not np.isfinite(steps).all()
        or not (np.linalg.norm(steps, axis=1) > 0).all()
    ):
        raise UserError(
            f"spacing {np.asarray(spacing).tolist()} for masks of {ndim} axes",
            "score",
            "give one finite spacing above 0 an axis",
        )
    return steps
