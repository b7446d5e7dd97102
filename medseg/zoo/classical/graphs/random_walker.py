"""Random walker. Grady 2006, IEEE TPAMI 28(11), doi:10.1109/TPAMI.2006.233.

From every voxel a walker sets out who prefers to step where grey values stay alike; the voxel gets the class whose seed
he most probably meets first. These probabilities need no walks: they solve a Dirichlet problem L_U x = -B^T m with the
graph's Laplacian, weights exp(-beta |I_p - I_q|^2), and are smooth even where edges have gaps.
Differs from the paper: none in the mathematics; the system is solved by conjugate gradients to `tolerance`, on spacing in mm.
Oracle: scikit-image `random_walker`, which solves the same system slower, and the dense solution on a small grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import channels, checked_count, standardised
from medseg.zoo.classical.graphs.dirichlet import SINGLE, probabilities, walker_weights
from medseg.zoo.classical.seeds import BACKGROUND, seeds_of

NAME = "random-walker"


class RandomWalker:
    """Every voxel to the class whose seeds a walker reaches first. Needs seeds of each class and the background."""

    dims = (2, 3)

    def classes_of(self, objects: int = 1, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"} if objects == 1 else {n: f"object {n}" for n in range(1, objects + 1)}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        beta: float = 130.0,
        objects: int = 1,
        tolerance: float = 1e-3,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        beta: how strongly a walker avoids contrast. objects: classes of seeds beside the background. tolerance: of
        the solver. UserError without seeds of both kinds.
        """
        checked_count(objects, objects, "objects", NAME, most=250)
        seeds = seeds_of(prompt, image.shape[1:], spacing_mm, NAME, objects)
        return walked(standardised(channels(image)), seeds, spacing_mm, beta, tolerance)


def walked(
    values: npt.NDArray[np.float32],
    seeds: npt.NDArray[np.uint8],
    spacing_mm: Sequence[float],
    beta: float,
    tolerance: float,
) -> npt.NDArray[np.uint8]:
    """Labels (*S) from seeds (0 none, 255 background) on values (C, *S)."""
    classes = sorted({int(v) for v in np.unique(seeds)} - {0})
    marks = np.zeros(seeds.shape, dtype=np.int32)
    for number, value in enumerate(classes, start=1):
        marks[seeds == value] = number
    unit = float(np.prod(spacing_mm)) ** (1 / len(spacing_mm))
    exact = np.float32 if tolerance >= SINGLE else np.float64
    weights = walker_weights(values.astype(exact), [s / unit for s in spacing_mm], beta)
    found = probabilities(weights, marks, tolerance).argmax(axis=0)
    found[marks > 0] = marks[marks > 0] - 1
    names = np.array([0 if c == BACKGROUND else c for c in classes], dtype=np.uint8)
    return names[found]
