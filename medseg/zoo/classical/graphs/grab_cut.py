"""GrabCut. Rother, Kolmogorov, Blake 2004, ACM Trans. Graphics 23(3), doi:10.1145/1015706.1015720.

A box is all a person draws: outside lies background, inside is unknown. Two mixtures of K Gaussians describe object and
background, a minimum cut assigns every unknown voxel by them and by contrast, the mixtures are fitted anew to what
the cut says, and so on until the energy stops falling. Strokes, where given, are kept.
Differs from the paper: mixtures are fitted by EM on at most `sample` voxels and a voxel counts under the whole mixture, not
under its one component; the best labelling seen is returned; no border matting. In 3D the same with 6 or 26 neighbours.
Oracle: none kept that is n-D; the energy falls in every round, and a ball in noise comes back whole from its box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import channels, standardised
from medseg.zoo.classical.graphs.grid import Links, contrast_links, energy, minimum_cut, scaled
from medseg.zoo.classical.seeds import BACKGROUND, box_of, drawn

NAME = "grabcut"
Mask = npt.NDArray[np.bool_]


class GrabCut:
    """The object in a box. Needs a box (strokes of class 1 and 0 beside it are kept)."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        components: int = 5,
        gamma: float = 50.0,
        rounds: int = 5,
        diagonals: bool | None = None,
        sample: int = 2000,
        seed: int = 0,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        components: K of each mixture. gamma: weight of the links. rounds: of fitting and cutting, at most. sample:
        voxels a mixture is fitted to. UserError without a box, or with one that leaves no background.
        """
        shape = image.shape[1:]
        box = box_of(prompt, shape, spacing_mm, NAME)
        if box is None:
            raise UserError(
                "no box: this method needs a prompt", f"system {NAME}", "draw a box around the object"
            )
        seeds = drawn(prompt, shape, spacing_mm, f"system {NAME}")
        inside = np.zeros(shape, dtype=bool)
        inside[box] = True
        if inside.all():
            raise UserError(
                "the box covers the whole image, so nothing shows the background",
                f"system {NAME}",
                "leave a rim of background around the box",
            )
        sure = np.where(seeds == BACKGROUND, np.inf, np.where(seeds > 0, -np.inf, 0.0))
        sure[~inside] = np.inf
        values = standardised(channels(image))
        with_diagonals = image.ndim == 3 if diagonals is None else diagonals
        graph = scaled(contrast_links(values, spacing_mm, 1.0, with_diagonals), gamma)
        return rounds_of(values, sure, graph, (components, rounds, sample, seed))[0].astype(np.uint8)


def rounds_of(
    values: npt.NDArray[np.float32],
    sure: npt.NDArray[np.float64],
    graph: Sequence[Links],
    settings: tuple[int, int, int, int],
) -> tuple[Mask, list[float]]:
    """(labels, energies): fits and cuts until the energy rises. sure: inf background, -inf object, 0 open.

    settings: components, rounds, sample, seed.
    """
    components, rounds, sample, seed = settings
    best, falling = sure < np.inf, []
    open_ = sure == 0
    labels = best
    for _ in range(rounds):
        if not labels.any() or labels.all():
            break
        fitted = [mixture_cost(values, part, open_, (components, sample, seed)) for part in (~labels, labels)]
        costs = np.stack(fitted)
        labels = minimum_cut(np.where(open_, costs[1] - costs[0], sure), graph)
        value = energy(labels, costs, graph)
        if falling and value >= falling[-1] - 1e-4 * abs(falling[-1]):
            break
        falling.append(value)
        best = labels
    return best, falling


def mixture_cost(
    values: npt.NDArray[np.float32], part: Mask, wanted: Mask, settings: tuple[int, int, int]
) -> npt.NDArray[np.float64]:
    """-ln p(I) (*S) under a mixture of Gaussians fitted to the voxels of `part`; 0 where not `wanted`."""
    import warnings

    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    components, sample, seed = settings
    table = values.reshape(len(values), -1).T.astype(np.float64)
    rows = np.flatnonzero(part)
    if len(rows) > sample:
        rows = np.random.default_rng(seed).choice(rows, sample, replace=False)
    chosen = table[rows] if len(rows) > 1 else np.repeat(table[rows], 2, axis=0)
    count = min(components, len(np.unique(chosen, axis=0)))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EM goes on in the next round
        model = GaussianMixture(count, reg_covar=1e-3, max_iter=15, random_state=seed).fit(chosen)
        cost = np.zeros(wanted.shape)
        cost[wanted] = -model.score_samples(table[wanted.ravel()])
    return cost
