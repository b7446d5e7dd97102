"""Serial boundary following. Martelli 1976, Communications of the ACM 19(2), doi:10.1145/359997.360004.

Each next boundary point is searched given those before it. As a search through a graph this has a best
answer: the path along which the sum of costs is smallest, where a step costs little on a strong edge and much
off it. It starts at the strongest edge, goes round the object back to its start, and is taken when edges
carry it all the way.
Differs from the paper: Dijkstra's search finds the cheapest path without a heuristic; the cost is one over
the strength of the edge; a wall across the start makes the path go round. Points of a prompt are corners that
the path must visit, as in live wire (Mortensen, Barrett 1995, doi:10.1145/218380.218442). A closed line
bounds a region in 2D only.
Oracle: scikit-image `MCP_Geometric` (called); the circle's own outline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import smoothed
from medseg.zoo.classical.edges.gradient import gradient_mm
from medseg.zoo.classical.grey import checked, is_flat
from medseg.zoo.classical.otsu import intensity

WHERE = "system edge-serial"
FLAT = 0.05
"""Share of the strongest edge that ground without edges counts for; a step there costs 20 times one on the edge."""
Path = npt.NDArray[np.int64]


class SerialEdges:
    """Objects inside closed paths of least cost along edges."""

    dims = (2,)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "object"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        sigma_mm: float = 1.0,
        objects: int = 3,
        accept: float = 0.3,
        stub_mm: float = 8.0,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        sigma_mm: of the Gaussian before the gradient (mm or px). objects: at most so many are looked for.
        accept: a path is taken if edges along it are at least this share of the one it starts from. stub_mm:
        how far the wall at the start reaches into the object, less than the object's width; twice and four
        times as far are tried too. With points in the prompt the path visits them in their order.
        """
        for name, value in (("sigma_mm", sigma_mm), ("objects", objects), ("stub_mm", stub_mm)):
            checked(name, value, WHERE)
        checked("accept", accept, WHERE, most=1.0)
        grey = intensity(image)
        found = np.zeros(grey.shape, dtype=np.uint8)
        if is_flat(grey) or min(grey.shape) < 8:
            return found
        strength = gradient_mm(smoothed(grey, sigma_mm, spacing_mm), spacing_mm)
        if prompt is not None:
            return _filled(through(strength, corners_of(prompt, grey.shape), spacing_mm), grey.shape).astype(
                np.uint8
            )
        for _ in range(int(objects)):
            path = closed_path(strength, stub_mm, spacing_mm, accept)
            if path is None:
                break
            inside = _filled(path, grey.shape)
            found[inside] = 1
            strength[_near(inside)] = 0
        return found


def corners_of(prompt: Prompt, shape: tuple[int, ...]) -> Path:
    """The prompt's points as pixels, in their order; UserError for fewer than two, or one outside."""
    corners = np.rint(prompt.points).astype(np.int64)
    if len(corners) < 2:
        raise UserError(
            f"{len(corners)} points on the outline", WHERE, "give two or more, in order along the outline"
        )
    if corners.shape[1] != 2 or (corners < 0).any() or (corners >= np.array(shape)).any():
        raise UserError(f"a point lies outside the image of {shape}", WHERE, "points are (row, column) in px")
    return corners


def through(strength: Strength, corners: Path, spacing_mm: Sequence[float]) -> Path:
    """The cheapest closed path (N, 2) from corner to corner."""
    cost = 1 / (FLAT + strength / max(float(strength.max()), 1e-12))
    return np.concatenate(
        [_cheapest(cost, a, b, spacing_mm) for a, b in zip(corners, np.roll(corners, -1, axis=0))]
    )


def closed_path(
    strength: Strength, stub_mm: float, spacing_mm: Sequence[float], accept: float
) -> Path | None:
    """The cheapest path (N, 2) from the strongest edge round an object on either of its sides; None if edges fail it."""
    start = np.array(np.unravel_index(int(np.argmax(strength)), strength.shape))
    peak = float(strength[tuple(start)])
    if peak <= 0:
        return None
    share = np.minimum(strength / peak, 1.0)
    best, best_share = None, accept
    # Where the wall ends inside the object a path could slip round its end, so longer walls are tried as well.
    for outwards, reach in product(_across(strength, start), (1, 2, 4)):
        path = _round(1 / (FLAT + share), start, outwards, reach * stub_mm, spacing_mm)
        if path is not None and share[tuple(path.T)].mean() >= best_share:
            best, best_share = path, float(share[tuple(path.T)].mean())
    return best


def _across(strength: Strength, start: Path) -> list[npt.NDArray[np.float64]]:
    """The two directions across the ridge of strength at a pixel, as unit vectors."""
    reach = tuple(slice(max(s - 3, 0), s + 4) for s in start)
    places = np.stack(
        np.meshgrid(
            *(np.arange(r.start, min(r.stop, n)) for r, n in zip(reach, strength.shape)), indexing="ij"
        )
    )
    offsets = (places - start[:, None, None]).reshape(2, -1)
    spread = (offsets * strength[reach].ravel()) @ offsets.T
    across = np.linalg.eigh(spread)[1][:, 0]
    return [across, -across]


def _round(
    cost: Strength,
    start: Path,
    outwards: npt.NDArray[np.float64],
    stub_mm: float,
    spacing_mm: Sequence[float],
) -> Path | None:
    """The cheapest path from one side of a wall to the other; the wall goes from the start to the image's border."""
    rows, columns = np.indices(cost.shape)
    offset = np.stack([rows - start[0], columns - start[1]])
    along = np.tensordot(outwards, offset, axes=1)
    beside = np.tensordot([-outwards[1], outwards[0]], offset, axes=1)
    stub = stub_mm / min(spacing_mm)
    # A band of 1.5 px has no gap through which a diagonal step could slip.
    walled = np.where((np.abs(beside) <= 0.75) & (along >= -stub), -1.0, cost)
    ends = []
    for sign in (1, -1):
        gate = (beside * sign > 0.75) & (beside * sign <= 2.5) & (np.abs(along) <= 2.5)
        if not gate.any():
            return None
        ends.append(np.array(np.unravel_index(int(np.argmin(np.where(gate, cost, np.inf))), cost.shape)))
    return _cheapest(walled, ends[0], ends[1], spacing_mm)


def _cheapest(cost: Strength, start: Path, end: Path, spacing_mm: Sequence[float]) -> Path | None:
    """The path (N, 2) of least cost; None where a wall parts the two."""
    from skimage.graph import MCP_Geometric

    search = MCP_Geometric(cost, sampling=tuple(spacing_mm))
    total, _ = search.find_costs([tuple(start)], [tuple(end)])
    return np.array(search.traceback(tuple(end))) if np.isfinite(total[tuple(end)]) else None


def _filled(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """What a closed path encloses, with the path."""
    from scipy.ndimage import binary_fill_holes
    from skimage.draw import line, polygon

    mask = np.zeros(shape, dtype=bool)
    mask[polygon(path[:, 0], path[:, 1], shape)] = True
    mask[tuple(path.T)] = True
    mask[line(*path[-1], *path[0])] = True
    return np.asarray(binary_fill_holes(mask))


def _near(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """An object and the width of its edge around it."""
    from scipy.ndimage import binary_dilation

    return np.asarray(binary_dilation(inside, iterations=4))
