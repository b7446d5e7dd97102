"""Minimum error. Kittler, Illingworth 1986, Pattern Recognition 19(1), doi:10.1016/0031-3203(86)90030-0.

Either side of a threshold is described by a Gaussian of its own size P, mean and width s. The best threshold
lets the two overlap least: J(T) = 1 + 2 (P0 ln s0 + P1 ln s1) - 2 (P0 ln P0 + P1 ln P1) is smallest. Unlike
Otsu's criterion, this finds the border between a wide and a narrow class, or a large and a small one.
Differs from the paper: all thresholds are tried instead of iterating, which ends in local minima. Training on
labelled cases sets a threshold tuned for the best Dice over them, which is then used for every image.
Oracle: the exhaustive minimum over grey levels; SimpleITK `KittlerIllingworthThreshold` (iterative) on well
parted modes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, chosen, histogram, is_flat, side
from medseg.zoo.classical.otsu import intensity

WHERE = "system threshold-optimal"


class OptimalThreshold:
    """One global threshold: of least error in each image, or tuned on labelled cases."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        criterion: str = "tuned",
        threshold: float | None = None,
        bins: int = 256,
        dark: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        criterion: "tuned" (uses `threshold` where there is one, else minimum error) or "minimum-error"
        (always). threshold: in the image's own unit; training sets it. bins: of the histogram. dark: the
        object is darker.
        """
        chosen("criterion", criterion, ("tuned", "minimum-error"), WHERE)
        grey = intensity(image)
        if criterion == "tuned" and threshold is not None:
            above = grey > threshold
            return (~above if dark else above).astype(np.uint8)
        return side(grey, 0.0 if is_flat(grey) else minimum_error_threshold(grey, bins), dark)

    def fit(self, cases: Iterable[Any], **arguments: Any) -> dict[str, Any]:
        """The threshold and side of the best mean Dice over labelled cases; nothing without cases.

        cases: `medseg.core.case.Case`; each is read twice and only one is held at a time. All classes count
        as object.
        """
        return best_dice_threshold([case for case in cases if case.has_label])


def minimum_error_threshold(grey: Grey, bins: int = 256) -> float:
    """The threshold of the smallest J(T); class 1 is `grey > T`."""
    counts, centres = histogram(grey, bins, WHERE)
    total, width = counts.sum(), centres[1] - centres[0]
    below, moment, square = (np.cumsum(counts * centres**power)[:-1] for power in (0, 1, 2))
    above = total - below
    sides = [(below, moment, square)]
    sides.append((above, (counts * centres).sum() - moment, (counts * centres**2).sum() - square))
    cost = np.ones(len(below))
    with np.errstate(divide="ignore", invalid="ignore"):
        for size, first, second in sides:
            # A class of one bin has a width as well: that of the bin.
            variance = np.maximum(second / size - (first / size) ** 2, 0) + width**2 / 12
            share = size / total
            cost += share * np.log(variance) - 2 * share * np.log(share)
    cost = np.where((below > 0) & (above > 0), cost, np.inf)
    best = np.flatnonzero(cost <= cost.min() + 1e-12)
    return float(centres[best[len(best) // 2]] + width / 2)


def best_dice_threshold(cases: Sequence[Any], bins: int = 512) -> dict[str, Any]:
    """{"threshold", "dark"} of the largest mean Dice over labelled cases, over all edges of common bins."""
    extremes = [(float(g.min()), float(g.max())) for g in (intensity(case.image().array) for case in cases)]
    if not extremes:
        return {}
    edges = np.linspace(min(low for low, _ in extremes), max(high for _, high in extremes), bins + 1)
    scores = np.zeros((2, bins - 1))
    for case in cases:
        grey, truth = intensity(case.image().array), case.label().labels > 0
        if truth.shape != grey.shape:
            raise UserError(
                f"the label has shape {truth.shape}, the image {grey.shape}",
                f"case {case.id}",
                "resample the label to its image's grid",
            )
        every = np.cumsum(np.histogram(grey, edges)[0])[:-1]
        below = np.cumsum(np.histogram(grey[truth], edges)[0])[:-1]
        size = np.count_nonzero(truth)
        scores[0] += 2 * (size - below) / np.maximum(grey.size - every + size, 1)
        scores[1] += 2 * below / np.maximum(every + size, 1)
    dark, at = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return {"threshold": float(edges[1:-1][at]), "dark": bool(dark)}
