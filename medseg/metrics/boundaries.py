"""Precision and recall of boundaries against those that several people drew, as the Berkeley benchmark counts them.

Two boundary pixels correspond if they lie within a tolerance of each other; each pixel corresponds to one at most, so a
thick or doubled line pays in precision. The largest number of such pairs is found exactly, by an assignment.
Martin, Fowlkes, Malik 2004, doi:10.1109/TPAMI.2004.1273918; Arbelaez et al. 2011, doi:10.1109/TPAMI.2010.161.
The benchmark's own program solves the same assignment on a graph that it thins at random, so that single pixels differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.metrics.pair import Mask

TOLERANCE = 0.0075
"""The benchmark's tolerance, as a share of the image's diagonal."""


@dataclass(frozen=True)
class BoundaryCounts:
    """Counted boundary pixels, which add up over images.

    found_right of found: pixels of the result that somebody drew. drawn_found of drawn: pixels that people drew, over
    all of them, which the result has.
    """

    found_right: int = 0
    found: int = 0
    drawn_found: int = 0
    drawn: int = 0

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            self.found_right + other.found_right,
            self.found + other.found,
            self.drawn_found + other.drawn_found,
            self.drawn + other.drawn,
        )

    @property
    def precision(self) -> float:
        """Share of the result that is right; 0 for an empty result, as in the benchmark."""
        return self.found_right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of what was drawn that was found."""
        return self.drawn_found / self.drawn if self.drawn else 0.0

    @property
    def f(self) -> float:
        """F = 2 P R / (P + R).

        >>> BoundaryCounts(3, 4, 6, 12).f
        0.6
        """
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def boundary_of(regions: npt.ArrayLike) -> Mask:
    """Regions (H, W) -> their boundary, one pixel wide.

    A pixel is marked if its region differs from that of its right, lower or lower-right neighbour, then the lines are
    thinned. On the human segmentations of BSDS500 this gives the boundary maps of the published ground truth.

    >>> boundary_of([[0, 0, 1], [0, 0, 1], [0, 0, 1]]).astype(int).tolist()
    [[0, 1, 0], [0, 1, 0], [0, 1, 0]]
    """
    from skimage.morphology import thin

    labels = np.asarray(regions)
    marked = np.zeros(labels.shape, dtype=bool)
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
    ):
        marked[here] |= labels[here] != labels[there]
    thinned: Mask = thin(marked).astype(np.bool_)  # type: ignore[no-untyped-call]
    return thinned


def tolerance_px(shape: Sequence[int], share: float = TOLERANCE) -> float:
    """The tolerance in px on an image of this shape."""
    return share * float(np.linalg.norm(shape))


def corresponding(found: Mask, drawn: Mask, tolerance: float) -> tuple[Mask, Mask]:
    """(found, drawn) reduced to pixels that have a partner in the other within `tolerance` px, one to one.

    >>> both = np.array([[1, 1, 0, 0, 0, 0]], bool), np.array([[0, 1, 0, 0, 0, 1]], bool)
    >>> [m.astype(int).tolist() for m in corresponding(*both, tolerance=1)]
    [[[0, 1, 0, 0, 0, 0]], [[0, 1, 0, 0, 0, 0]]]
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching
    from scipy.spatial import cKDTree

    ours, theirs = np.zeros_like(found), np.zeros_like(drawn)
    places = [np.argwhere(found), np.argwhere(drawn)]
    rows, columns = len(places[0]), len(places[1])
    if not rows or not columns:
        return ours, theirs
    near = cKDTree(places[0]).sparse_distance_matrix(
        cKDTree(places[1]), tolerance * (1 + 1e-9), output_type="coo_matrix"
    )
    # Each pixel may stay alone, which costs more than all distances together: the most pairs, then the closest ones.
    alone = np.arange(rows)
    cost = np.concatenate([near.data + 1, np.full(rows, (tolerance + 1) * rows + 1)])
    place = (np.concatenate([near.row, alone]), np.concatenate([near.col, columns + alone]))
    one, other = min_weight_full_bipartite_matching(csr_matrix((cost, place), shape=(rows, columns + rows)))
    paired = other < columns
    ours[tuple(places[0][one[paired]].T)] = True
    theirs[tuple(places[1][other[paired]].T)] = True
    return ours, theirs


def boundary_counts(found: Mask, drawn: Iterable[Mask], tolerance: float) -> BoundaryCounts:
    """A boundary (H, W) against those of several people. A pixel is right if any of them drew it."""
    right = np.zeros_like(found)
    got = total = 0
    for one in drawn:
        ours, theirs = corresponding(found, one, tolerance)
        right |= ours
        got += int(theirs.sum())
        total += int(one.sum())
    return BoundaryCounts(int(right.sum()), int(found.sum()), got, total)
