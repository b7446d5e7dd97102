"""What edge methods share: a strength, a threshold with hysteresis, and the closing step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.edges.closing import Strength, enclosed, slopes, strong, zero_crossings
from medseg.zoo.classical.grey import checked, chosen, is_flat
from medseg.zoo.classical.morphology import Mask
from medseg.zoo.classical.otsu import intensity, otsu_threshold


@dataclass(frozen=True)
class EdgeArguments:
    """Arguments of an edge method.

    sigma_mm: width of the Gaussian before the operator, in mm (px for photographs); 0: the operator alone.
    threshold: an edge is at least so strong, "otsu" parts weak from strong in each image. low: an edge of at
    least this share of the threshold counts where it touches a stronger one. closing_mm: gaps up to twice
    this are closed; None: one and a half voxels. output: "regions" that edges enclose, or the "edges".
    """

    sigma_mm: float = 1.0
    threshold: float | str = "otsu"
    low: float = 0.5
    closing_mm: float | None = None
    output: str = "regions"


class EdgeDetector:
    """Where grey values change: subclasses say how strongly (`strength`) or where (`edges`)."""

    name = "edge"
    dims = (2, 3)
    Arguments: type[EdgeArguments] = EdgeArguments

    @property
    def where(self) -> str:
        """How errors name this method."""
        return f"system {self.name}"

    def classes_of(self, output: str = "regions", **parameters: Any) -> Mapping[int, str]:
        return {1: "edge" if output == "edges" else "object"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        **parameters: Any,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S): 1 inside edges, or on them with `output="edges"`. Arguments: `Arguments`."""
        options = self.Arguments(**parameters)
        chosen("output", options.output, ("regions", "edges"), self.where)
        checked("sigma_mm", options.sigma_mm, self.where)
        checked("low", options.low, self.where, most=1.0)
        grey = intensity(image)
        if is_flat(grey):
            return np.zeros(grey.shape, dtype=np.uint8)
        edges = self.edges(smoothed(grey, options.sigma_mm, spacing_mm), spacing_mm, options)
        if options.output == "edges":
            return edges.view(np.uint8)
        closing = 1.5 * max(spacing_mm) if options.closing_mm is None else options.closing_mm
        checked("closing_mm", closing, self.where)
        return enclosed(edges, closing, spacing_mm).view(np.uint8)

    def edges(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Mask:
        """Edge voxels (*S) of a smoothed image."""
        response = self.strength(grey, spacing_mm, options)
        return strong(response, self.threshold(response, options), options.low)

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        """How strong an edge every voxel is (*S), in grey values a mm where the operator knows millimetres."""
        raise UserError(f"{self.name} has no strength of edges", self.where)

    def threshold(self, response: Strength, options: EdgeArguments) -> float:
        """The threshold that was asked for, or Otsu's over the strengths."""
        if options.threshold != "otsu":
            return float(checked("threshold", options.threshold, self.where))  # type: ignore[arg-type]
        return otsu_threshold(response) if response.size and response.max() > response.min() else np.inf


class ZeroCrossings(EdgeDetector):
    """Edges where a second derivative changes its sign; the strength of one is how steep the change is."""

    def edges(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Mask:
        response = self.strength(grey, spacing_mm, options)
        # What rounding leaves on flat ground is no change of sign.
        response[np.abs(response) < 1e-9 * np.abs(response).max()] = 0.0
        least = self.threshold(slopes(response, spacing_mm), options)
        edges = zero_crossings(response, least, spacing_mm)
        if options.low >= 1 or not edges.any():
            return edges
        return touching(zero_crossings(response, options.low * least, spacing_mm), edges)


def touching(weak: Mask, sure: Mask) -> Mask:
    """The connected parts of the weak edges that hold a sure one."""
    from scipy import ndimage

    parts, count = ndimage.label(weak | sure, structure=np.ones((3,) * weak.ndim))
    keep = np.zeros(count + 1, dtype=bool)
    keep[parts[sure]] = True
    keep[0] = False
    return np.asarray(keep[parts])


def smoothed(grey: Strength, sigma_mm: float, spacing_mm: Sequence[float]) -> Strength:
    """The image under a Gaussian that is round in mm."""
    if not sigma_mm:
        return grey
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(grey, [sigma_mm / s for s in spacing_mm]))


def rms_gradient(operator: Callable[..., Strength], grey: Strength, spacing_mm: Sequence[float]) -> Strength:
    """Root of the mean square (*S) of one difference a voxel an axis, each divided by its spacing.

    operator: gives the difference along `axis`, or the root for spacing 1 where it is given no axis.
    """
    total: Strength
    if len(set(spacing_mm)) == 1:
        total = operator(grey)
        total /= spacing_mm[0]
        return total
    total = np.zeros(grey.shape)
    for axis, s in enumerate(spacing_mm):
        step = operator(grey, axis=axis)
        step /= s
        total += np.square(step, out=step)
    total /= grey.ndim
    return np.sqrt(total, out=total)
