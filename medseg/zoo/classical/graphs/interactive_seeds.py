"""Seeds and geodesic distance. Bai, Sapiro, ICCV 2007, doi:10.1109/ICCV.2007.4408931.

A person's points or scribbles are hard constraints; every other voxel joins the seeds that are nearest by the cheapest
way, where a step is dear if it changes how much the voxel looks like object or background. Fast marching finds these
distances in one pass; the minimum cut and the random walker can be asked instead for the same seeds.
Differs from the paper: likelihoods come from blurred histograms of the seeds, a step of length zero contrast still costs
`floor`, so that nearness counts on flat ground; no second pass, no matting; several objects at once; distances in mm.
Oracle: SimpleITK's fast marching gives Euclidean distance on a constant cost; seeds are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import channels, checked_count, standardised
from medseg.zoo.classical.graphs.graph_cuts import GraphCuts
from medseg.zoo.classical.graphs.random_walker import RandomWalker
from medseg.zoo.classical.graphs.seed_models import log_likelihood
from medseg.zoo.classical.seeds import BACKGROUND, seeds_of

NAME = "interactive-seeds"
WAYS = ("geodesic", "cut", "walker")
Array = npt.NDArray[np.float64]


class InteractiveSeeds:
    """Objects from seeds. Needs seeds of each object (class 1 ...) and of the background (class 0)."""

    dims = (2, 3)

    def classes_of(self, objects: int = 1, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"} if objects == 1 else {n: f"object {n}" for n in range(1, objects + 1)}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        way: str = "geodesic",
        objects: int = 1,
        floor: float = 0.01,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        way: geodesic, cut (one object) or walker. objects: classes of seeds beside the background. floor: cost of a
        step of one mean spacing without contrast, where a step across the strongest contrast costs up to 1.
        """
        if way not in WAYS:
            raise UserError(
                f"no way named {way!r}{did_you_mean(way, WAYS)}",
                f"system {NAME}",
                f"one of {', '.join(WAYS)}",
            )
        checked_count(objects, objects, "objects", NAME, most=250)
        seeds = seeds_of(prompt, image.shape[1:], spacing_mm, NAME, objects if way != "cut" else 1)
        if way == "cut":
            return GraphCuts().segment(image, spacing_mm, Prompt(mask=seeds))
        if way == "walker":
            return RandomWalker().segment(image, spacing_mm, Prompt(mask=seeds), objects=objects)
        values = standardised(channels(image))
        kinds = [int(k) for k in np.unique(seeds) if k]
        likelihood = np.stack([log_likelihood(values, seeds == k) for k in kinds])
        likelihood = np.exp(likelihood - likelihood.max(axis=0))
        likelihood /= likelihood.sum(axis=0)
        far = [
            geodesic_distance(seeds == k, cost_of(p, floor), spacing_mm)
            for k, p in zip(kinds, likelihood, strict=True)
        ]
        names = np.array([0 if k == BACKGROUND else k for k in kinds], dtype=np.uint8)
        return np.where(seeds == 0, names[np.argmin(far, axis=0)], np.where(seeds == BACKGROUND, 0, seeds))


def cost_of(likelihood: Array, floor: float) -> Array:
    """Cost of a step at each voxel: how fast the likelihood changes there, and `floor`."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(likelihood, 0.5)
    slopes = [np.gradient(smooth, axis=a) for a in range(smooth.ndim) if smooth.shape[a] > 1]
    return np.sqrt(np.sum(np.square(slopes), axis=0) if slopes else np.zeros(smooth.shape)) + floor


def geodesic_distance(start: npt.NDArray[np.bool_], cost: Array, spacing_mm: Sequence[float]) -> Array:
    """Distance (*S) to the nearest voxel of `start`, by the cheapest way: |grad T| = cost, in mm x cost."""
    import SimpleITK as sitk

    speed = sitk.GetImageFromArray((1 / cost).astype(np.float64))
    speed.SetSpacing([float(s) for s in reversed(spacing_mm)])
    march = sitk.FastMarchingImageFilter()
    march.SetTrialPoints([[int(i) for i in reversed(p)] for p in np.argwhere(start)])
    march.SetNumberOfThreads(1)
    return sitk.GetArrayFromImage(march.Execute(speed)).astype(np.float64)
