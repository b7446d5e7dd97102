"""Fully connected conditional random field. Kraehenbuehl, Koltun, NIPS 2011, arXiv:1210.5644.

Every voxel is tied to every other, by a kernel of place and grey value that follows edges over long ranges and a kernel of
place alone that removes specks: w1 exp(-|dp|^2 / 2 sa^2 - |dI|^2 / 2 sb^2) + w2 exp(-|dp|^2 / 2 sg^2). Mean field over all
pairs is a high-dimensional Gaussian filter, computed on a permutohedral lattice in time linear in the voxels.
Differs from the paper: class probabilities come from clusters, or from the histograms of seeds where a prompt gives them,
instead of TextonBoost; both kernels are normalised to sum 1 a voxel; volumes are filtered in 3D, in mm.
Oracle: the exact sum over all pairs on small grids, where the mean field's free energy falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import cluster_names
from medseg.zoo.classical.probabilistic.costs import class_costs
from medseg.zoo.classical.probabilistic.solvers import softmax

NAME = "crf-dense"


class DenseField:
    """Classes from dark to bright (or those of the seeds), sharpened by all pairs of voxels."""

    dims = (2, 3)

    def classes_of(self, classes: int = 2, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(classes)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        classes: int = 2,
        weights: Sequence[float] = (4.0, 3.0),
        theta: Sequence[float] = (60.0, 13.0, 3.0),
        iterations: int = 5,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        weights: w1, w2. theta: sa in mm (px for photographs), sb in grey levels of 256 with 58 a standard deviation,
        sg in mm. iterations: of mean field.
        """
        if len(weights) != 2 or len(theta) != 3 or not all(t > 0 for t in theta):
            raise UserError(
                f"weights {list(weights)} and theta {list(theta)}",
                f"system {NAME}",
                "two weights, and three widths above 0",
            )
        values, costs = class_costs(image, spacing_mm, prompt, classes, NAME)
        return (
            marginals(values, costs, spacing_mm, (weights, theta, iterations)).argmax(axis=0).astype(np.uint8)
        )


def marginals(
    values: npt.NDArray[np.float32],
    costs: npt.NDArray[np.float64],
    spacing_mm: Sequence[float],
    settings: tuple[Sequence[float], Sequence[float], int],
) -> npt.NDArray[np.float32]:
    """Mean field's probabilities (K, *S) for values (C, *S) and costs (K, *S). settings: weights, theta, iterations."""
    import torch

    from medseg.zoo.layers.dense_crf import Kernels, Potts, potts_mean_field

    weights, theta, iterations = settings
    field = Potts(float(weights[0]), float(weights[1]), Kernels.of(theta), iterations)
    unary = np.log(np.maximum(softmax(-costs), 1e-8)).astype(np.float32)
    with torch.no_grad():
        scores = potts_mean_field(
            torch.from_numpy(unary)[None], torch.from_numpy(values)[None], field, spacing_mm
        )
        return torch.softmax(scores[0], dim=0).numpy()
