"""What several methods do with grey values: sides of a threshold, bounds of arguments, the step into ITK and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean

Grey = npt.NDArray[np.float64]


def is_flat(grey: Grey) -> bool:
    """Whether all voxels are equal, so that nothing can be told apart."""
    # A few voxels mostly show that they are not; only an image that may be flat is looked at whole.
    few = grey[tuple(slice(None, None, max(1, n // 8)) for n in grey.shape)]
    return bool(few.min() == few.max() and grey.min() == grey.max())


def side(grey: Grey, threshold: Any, dark: bool = False) -> npt.NDArray[np.uint8]:
    """1 where the image is above the threshold (with `dark`: at or below it). A flat image is background."""
    if is_flat(grey):
        return np.zeros(grey.shape, dtype=np.uint8)
    above = np.asarray(grey > threshold)
    return (np.logical_not(above, out=above) if dark else above).view(np.uint8)


def histogram(grey: Grey, bins: int, where: str) -> tuple[Grey, Grey]:
    """(counts, centres) of `bins` bins from the smallest to the largest value."""
    checked("bins", bins, where, least=2)
    counts, edges = np.histogram(grey, bins=int(bins))
    return counts.astype(np.float64), (edges[:-1] + edges[1:]) / 2


def checked(name: str, value: float, where: str, least: float = 0.0, most: float = np.inf) -> float:
    """The value of an argument; UserError where it is no number between `least` and `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        bounds = f"at least {least:g}" if most == np.inf else f"between {least:g} and {most:g}"
        raise UserError(f"{name} is {value!r}", where, f"give a number {bounds}")
    return value


def chosen(name: str, value: str, known: Iterable[str], where: str) -> str:
    """The value of an argument that has a few; UserError names them."""
    names = list(known)
    if value not in names:
        raise UserError(
            f"{name} is {value!r}{did_you_mean(str(value), names)}", where, f"one of {', '.join(names)}"
        )
    return value


def to_itk(array: npt.NDArray[Any], spacing_mm: Sequence[float]) -> Any:
    """A SimpleITK image of an array (*S); ITK counts axes from the last."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing([float(s) for s in reversed(list(spacing_mm))])
    return image


def from_itk(image: Any) -> npt.NDArray[Any]:
    """The array (*S) of a SimpleITK image."""
    import SimpleITK as sitk

    return np.asarray(sitk.GetArrayFromImage(image))


def itk_threshold(name: str, grey: Grey, bins: int, where: str) -> float:
    """The threshold that one of ITK's histogram filters finds; UserError where it finds none."""
    import SimpleITK as sitk

    checked("bins", bins, where, least=2)
    tool = getattr(sitk, f"{name}ThresholdImageFilter")()
    tool.SetNumberOfHistogramBins(int(bins))
    try:
        tool.Execute(to_itk(grey, [1.0] * grey.ndim))
    except RuntimeError as err:
        raise UserError(
            f"the histogram of {bins} bins gives no threshold",
            where,
            "try other bins, or a method that does not ask for two peaks, such as threshold-otsu",
        ) from err
    return float(tool.GetThreshold())
