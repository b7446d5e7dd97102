"""Distances between the surfaces of two masks, in mm (px for photographs).

Definition used throughout: the surface of a mask is its voxels with a face neighbour outside the mask (voxels at the
edge of the image are surface, as if nothing lay beyond); a distance runs from the centre of a surface voxel to the
nearest centre of a surface voxel of the other mask, along the grid's true axes (anisotropic and sheared grids
included). Sub-voxel definitions, which weigh surface elements by their area, give other values.

Distances come from a k-d tree on the surface voxels: exact, and its cost follows the surfaces, not the volume. Only
masks that are mostly surface (noise) are measured by a distance transform, which gives the same distances in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.metrics.pair import Floats, Mask, Pair, when_empty

MANY = 2_000_000
"""Surface voxels above which a distance transform is quicker than a tree."""


def _diagonal(pair: Pair) -> float:
    return pair.diagonal


@when_empty(one=_diagonal)
def hd(pair: Pair) -> float | None:
    """The largest distance of any surface voxel to the other surface (Hausdorff). Huttenlocher et al. 1993,
    doi:10.1109/34.232073.

    >>> hd(Pair.of([1, 1, 0, 0, 0], [1, 1, 1, 1, 0], spacing=[2.0]))
    4.0
    """
    return float(max(distances.max() for distances in pair.surface_distances))


@when_empty(one=_diagonal)
def hd95(pair: Pair) -> float | None:
    """The larger of the two directed 95th percentiles (linear interpolation). Maier-Hein et al. 2024,
    doi:10.1038/s41592-023-02151-z (Metrics Reloaded).

    >>> hd95(Pair.of([1, 1, 0], [1, 1, 0]))
    0.0
    >>> hd95(Pair.of([[0, 0, 0, 0]] * 3, [[0, 1, 0, 0]] * 3))    # one is empty: the diagonal of 3 x 4 pixels
    5.0
    """
    return float(max(np.percentile(distances, 95) for distances in pair.surface_distances))


@when_empty(one=_diagonal)
def assd(pair: Pair) -> float | None:
    """Mean of all distances of both surfaces (average symmetric surface distance). Heimann et al. 2009,
    doi:10.1109/TMI.2009.2013851.

    >>> assd(Pair.of([1, 0, 0], [0, 0, 1], spacing=[1.5]))
    3.0
    """
    return float(np.concatenate(pair.surface_distances).mean())


@when_empty(one=0.0)
def nsd(pair: Pair, tolerance: float = 2.0) -> float | None:
    """Share of both surfaces that lies within `tolerance` mm (px) of the other (normalised surface Dice), counted in
    voxels. Nikolov et al. 2018, arXiv:1809.04430, eq. 2, with voxels for surface elements.

    >>> nsd(Pair.of([1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]), tolerance=1.0)
    0.75
    """
    distances = np.concatenate(pair.surface_distances)
    # a rounding error of the affine must not decide about a distance that equals the tolerance
    return float(np.count_nonzero(distances <= tolerance * (1 + 1e-9)) / len(distances))


def distances_between(pred: Mask, true: Mask, steps: Floats) -> tuple[Floats, Floats]:
    """Distances in mm from each surface voxel of `pred` to the surface of `true`, and back; both hold voxels."""
    ours, theirs = surface(pred), surface(true)
    if np.count_nonzero(ours) + np.count_nonzero(theirs) > MANY and _right_angled(steps):
        return distances_by_transform(ours, theirs, steps)
    return distances_by_tree(ours, theirs, steps)


def distances_by_tree(ours: Mask, theirs: Mask, steps: Floats) -> tuple[Floats, Floats]:
    """Distances between two surfaces from a k-d tree of each."""
    from scipy.spatial import cKDTree

    points = [np.argwhere(mask) @ steps for mask in (ours, theirs)]
    trees = [cKDTree(p, compact_nodes=False, balanced_tree=False) for p in points]
    there = np.asarray(trees[1].query(points[0])[0], dtype=np.float64)
    back = np.asarray(trees[0].query(points[1])[0], dtype=np.float64)
    return there, back


def distances_by_transform(ours: Mask, theirs: Mask, steps: Floats) -> tuple[Floats, Floats]:
    """Distances between two surfaces from a map of distances to each; axes at right angles only."""
    spacing = tuple(float(length) for length in np.linalg.norm(steps, axis=1))
    there = _distance_map(theirs, spacing)[ours].astype(np.float64)
    return there, _distance_map(ours, spacing)[theirs].astype(np.float64)


def _distance_map(mask: Mask, spacing: tuple[float, ...]) -> npt.NDArray[np.floating]:
    """Distance of every voxel to the nearest voxel of a mask; by edt where it is installed, else by scipy."""
    try:
        from edt import edt
    except ImportError:
        from scipy.ndimage import distance_transform_edt

        return np.asarray(distance_transform_edt(~mask, sampling=spacing))
    # the border of the array is not a surface: without this flag voxels at the edge would be at distance 0
    return np.asarray(edt(~mask, anisotropy=spacing, black_border=False))


def _right_angled(steps: Floats) -> bool:
    """Whether the grid's axes stand at right angles."""
    products = steps @ steps.T
    return bool(np.abs(products - np.diag(np.diag(products))).max() <= 1e-6 * products.max())


def surface(mask: Mask) -> Mask:
    """The voxels of a mask with a face neighbour outside it; beyond the array everything is outside.

    >>> surface(np.ones((3, 4), dtype=bool)).astype(int).tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    """
    inner = mask.copy()
    for axis in range(mask.ndim):
        rows = np.moveaxis(mask, axis, 0)
        left = np.moveaxis(inner, axis, 0)
        left[1:] &= rows[:-1]
        left[:-1] &= rows[1:]
        left[0] = False
        left[-1] = False
    return mask & ~inner
