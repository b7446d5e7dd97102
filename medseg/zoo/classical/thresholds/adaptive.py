"""Local thresholds. Sauvola, Pietikaeinen 2000, Pattern Recognition 33(2), doi:10.1016/S0031-3203(99)00055-2.

Uneven light moves the whole histogram from place to place, so each voxel is compared with its own
surroundings: with their mean m, with a Gaussian mean, with m + k s (Niblack 1986, ISBN:0134806743) or with m
(1 + k (s / R - 1)) (the paper), where s is their standard deviation and R its largest value. Where the
surroundings are flat, Sauvola's threshold falls below the mean, so that paper without print stays empty.
Differs from the paper: none of its mixture of text and picture modes; R is half of the image's range; windows
are given in mm and are odd numbers of voxels.
Oracle: scikit-image `threshold_local`, `threshold_niblack`, `threshold_sauvola` (all called).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, chosen, is_flat, side
from medseg.zoo.classical.otsu import intensity

K = {"mean": 0.0, "gaussian": 0.0, "niblack": -0.2, "sauvola": 0.2}
"""The rules, and the weight of the standard deviation in each."""


@dataclass(frozen=True)
class AdaptiveArguments:
    """Arguments of the local thresholds.

    rule: mean, gaussian, niblack or sauvola. window_mm: width of the window (px for photographs). k: weight
    of the standard deviation, Niblack -0.2 and Sauvola 0.2 where None. offset: taken off the threshold, in
    grey values. dark: the object is darker than its surroundings.
    """

    rule: str = "gaussian"
    window_mm: float = 51.0
    k: float | None = None
    offset: float = 0.0
    dark: bool = False


class AdaptiveThreshold:
    """A threshold for every voxel, from a window around it."""

    dims = (2, 3)
    Arguments = AdaptiveArguments

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        **parameters: Any,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). Arguments: `AdaptiveArguments`."""
        where = "system threshold-adaptive"
        options = AdaptiveArguments(**parameters)
        chosen("rule", options.rule, K, where)
        checked("window_mm", options.window_mm, where)
        grey = intensity(image)
        if is_flat(grey):
            return side(grey, 0.0)
        window = tuple(max(2 * round((options.window_mm / s - 1) / 2) + 1, 3) for s in spacing_mm)
        k = K[options.rule] if options.k is None else options.k
        threshold = local_threshold(grey, options.rule, window, k)
        if options.offset:
            threshold -= options.offset
        return side(grey, threshold, options.dark)


def local_threshold(grey: Grey, rule: str, window: tuple[int, ...], k: float) -> Grey:
    """The threshold of every voxel (*S); window in voxels, odd, at least 3."""
    from skimage.filters import threshold_local, threshold_niblack, threshold_sauvola

    if rule == "niblack":
        return np.asarray(threshold_niblack(grey, window, k=-k))
    if rule == "sauvola":
        # The rule needs positive grey values: it compares with a share of the mean.
        low, high = float(grey.min()), float(grey.max())
        return np.asarray(threshold_sauvola(grey - low, window, k=k, r=(high - low) / 2)) + low
    return np.asarray(threshold_local(grey, window, method=rule))
