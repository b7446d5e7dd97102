"""The library's own call on the same image, for methods that wrap one: what the wrapping costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Peer:
    """library: what is called. call: does it on image (C, *S) and spacing.

    arguments: with these over its defaults our method does the same work. own: our method does not call the library, so
    that the comparison is of two implementations.
    """

    library: str
    call: Callable[[Array, Sequence[float]], Any]
    dims: tuple[int, ...] = (2, 3)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False


def grey(image: Array) -> npt.NDArray[np.float64]:
    """(*S) intensity as a person would compute it beforehand."""
    if image.shape[0] == 3:
        from skimage.color import rgb2gray

        return np.asarray(rgb2gray(np.moveaxis(image, 0, -1)))
    return np.asarray(image[0], dtype=np.float64)


def skimage_threshold(function: str, own: bool = False) -> Peer:
    """scikit-image's threshold and the comparison with it."""

    def call(image: Array, spacing_mm: Sequence[float]) -> Any:
        from skimage import filters

        values = grey(image)
        return values > getattr(filters, function)(values)

    return Peer(f"skimage.filters.{function}", call, own=own)


def sitk_threshold(name: str) -> Peer:
    """One of ITK's histogram thresholds."""

    def call(image: Array, spacing_mm: Sequence[float]) -> Any:
        import SimpleITK as sitk

        tool = getattr(sitk, f"{name}ThresholdImageFilter")()
        tool.SetNumberOfHistogramBins(256)
        return sitk.GetArrayFromImage(tool.Execute(sitk.GetImageFromArray(grey(image))))

    return Peer(f"SimpleITK.{name}ThresholdImageFilter", call)


def multi_otsu(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-image's three classes by Otsu: image (C, *S) -> labels (*S) 0 to 2."""
    from skimage.filters import threshold_multiotsu

    values = grey(image)
    return np.digitize(values, threshold_multiotsu(values, classes=3))


def adaptive(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-image's local Gaussian threshold over 51 mm (px): image (C, *S) -> booleans (*S)."""
    from skimage.filters import threshold_local

    values = grey(image)
    sizes = [max(3, 2 * round(51.0 / s / 2) + 1) for s in spacing_mm]
    return values > threshold_local(values, sizes, method="gaussian")


EDGES_ALONE = {"output": "edges", "low": 1.0}
"""One threshold, and no step from edges to regions: what the libraries' edge filters do."""


def gradient_filter(function: str, dims: tuple[int, ...] = (2, 3)) -> Peer:
    """scikit-image's edge filter after the same Gaussian, thresholded by Otsu; no closing step."""

    def call(image: Array, spacing_mm: Sequence[float]) -> Any:
        from scipy.ndimage import gaussian_filter
        from skimage import filters

        strength = getattr(filters, function)(gaussian_filter(grey(image), [1 / s for s in spacing_mm]))
        return strength > filters.threshold_otsu(strength)

    return Peer(f"skimage.filters.{function}, edges alone", call, dims, EDGES_ALONE, function == "roberts")


def canny(image: Array, spacing_mm: Sequence[float]) -> Any:
    """ITK's edges after a Gaussian of 1.5 mm (px), thresholds 15 and 30: image (C, *S) -> labels (*S) 0 and 1."""
    import SimpleITK as sitk
    from scipy.ndimage import gaussian_filter

    given = sitk.GetImageFromArray(gaussian_filter(grey(image), [1.5 / s for s in spacing_mm]))
    given.SetSpacing([float(s) for s in reversed(spacing_mm)])
    still = [0.0] * len(spacing_mm)
    found = sitk.CannyEdgeDetection(given, lowerThreshold=15.0, upperThreshold=30.0, variance=still)
    return sitk.GetArrayFromImage(found)


SUPERPIXELS = 200
"""So few that each can keep a number of its own in a label image."""


def slic(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-image's superpixels on standardised colour (Lab): image (C, *S) -> labels (*S)."""
    from skimage.segmentation import slic as library

    values = colours(image)
    values = values - values.mean(axis=tuple(range(values.ndim - 1)))
    values /= np.sqrt(np.square(values).mean())
    compact, step = 0.3 / np.ptp(values), float(np.prod(spacing_mm)) ** (1 / len(spacing_mm))
    spacing = [s / step for s in spacing_mm]
    return library(
        values, SUPERPIXELS, compact, spacing=spacing, convert2lab=False, channel_axis=-1, start_label=0
    )


def colours(image: Array) -> npt.NDArray[np.float32]:
    """(*S, C): Lab of a photograph in colour, else the channels."""
    from skimage.color import rgb2lab

    values = np.moveaxis(image, 0, -1)
    return (rgb2lab(values) if values.shape[-1] == 3 else values).astype(np.float32)


def kmeans(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-learn's three clusters of voxel values, found on 20,000 of them: image (C, *S) -> labels (voxels,)."""
    from sklearn.cluster import KMeans

    rows = np.ascontiguousarray(colours(image).reshape(-1, image.shape[0]))
    sample = np.random.default_rng(0).choice(len(rows), min(20000, len(rows)), replace=False)
    return KMeans(3, n_init=10, random_state=0).fit(rows[sample]).predict(rows)


def chan_vese(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-image's level set, 200 steps at most: image (C, *S) -> booleans (*S)."""
    from skimage.segmentation import chan_vese as library

    values = grey(image)
    return library((values - values.min()) / np.ptp(values), mu=0.25, max_num_iter=200)


def morphological(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-image's morphological Chan-Vese, 35 steps: image (C, *S) -> labels (*S) 0 and 1."""
    from skimage.segmentation import morphological_chan_vese

    values = grey(image)
    return morphological_chan_vese((values - values.min()) / np.ptp(values), num_iter=35)


PEERS: Mapping[str, Peer] = {
    "threshold-otsu": skimage_threshold("threshold_otsu", own=True),
    "threshold-bimodal": skimage_threshold("threshold_minimum"),
    "threshold-iterative": skimage_threshold("threshold_isodata"),
    "threshold-multi-otsu": Peer("skimage.filters.threshold_multiotsu", multi_otsu),
    "threshold-adaptive": Peer("skimage.filters.threshold_local", adaptive),
    "threshold-li": skimage_threshold("threshold_li"),
    "threshold-triangle": skimage_threshold("threshold_triangle"),
    "threshold-yen": skimage_threshold("threshold_yen"),
    "threshold-max-entropy": sitk_threshold("MaximumEntropy"),
    "threshold-fuzzy": sitk_threshold("Huang"),
    "threshold-moments": sitk_threshold("Moments"),
    "threshold-shanbhag": sitk_threshold("Shanbhag"),
    "edge-sobel": gradient_filter("sobel"),
    "edge-prewitt": gradient_filter("prewitt"),
    "edge-roberts": gradient_filter("roberts", (2,)),
    "edge-canny": Peer(
        "SimpleITK.CannyEdgeDetection, edges alone", canny, (2, 3), {"output": "edges", "threshold": 30.0}
    ),
    "superpixel-slic": Peer(
        "skimage.segmentation.slic", slic, (2, 3), {"groups": 0, "segments": SUPERPIXELS}
    ),
    "cluster-kmeans": Peer("sklearn.cluster.KMeans", kmeans),
    "acwe": Peer("skimage.segmentation.chan_vese", chan_vese, (2,), own=True),
    "morph-acwe": Peer("skimage.segmentation.morphological_chan_vese", morphological, own=True),
}
"""Method -> the call; what is not here wraps no single call (it combines several, or is written here)."""
