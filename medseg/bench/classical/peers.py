"""The library's own call on the same image, for methods that wrap one: what the wrapping costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Peer:
    """library: what is called. call: does it on image (C, *S) and spacing."""

    library: str
    call: Callable[[Array, Sequence[float]], Any]
    dims: tuple[int, ...] = (2, 3)


def grey(image: Array) -> npt.NDArray[np.float64]:
    """(*S) intensity as a person would compute it beforehand."""
    if image.shape[0] == 3:
        from skimage.color import rgb2gray

        return np.asarray(rgb2gray(np.moveaxis(image, 0, -1)))
    return np.asarray(image[0], dtype=np.float64)


def skimage_threshold(function: str) -> Peer:
    """scikit-image's threshold and the comparison with it."""

    def call(image: Array, spacing_mm: Sequence[float]) -> Any:
        from skimage import filters

        values = grey(image)
        return values > getattr(filters, function)(values)

    return Peer(f"skimage.filters.{function}", call)


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


def gradient_filter(function: str) -> Peer:
    """scikit-image's edge filter after the same Gaussian, thresholded by Otsu; no closing step."""

    def call(image: Array, spacing_mm: Sequence[float]) -> Any:
        from scipy.ndimage import gaussian_filter
        from skimage import filters

        strength = getattr(filters, function)(gaussian_filter(grey(image), [1 / s for s in spacing_mm]))
        return strength > filters.threshold_otsu(strength)

    return Peer(f"skimage.filters.{function}, edges alone", call)


def slic(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-image's superpixels, 500 of them: image (C, *S) -> labels (*S)."""
    from skimage.segmentation import slic as library

    values = np.moveaxis(image.astype(np.float32), 0, -1)
    values = (values - values.mean()) / values.std()
    return library(
        values, n_segments=500, compactness=0.3 / np.ptp(values), convert2lab=False, channel_axis=-1
    )


def kmeans(image: Array, spacing_mm: Sequence[float]) -> Any:
    """scikit-learn's three clusters of voxel values, found on 20,000 of them: image (C, *S) -> labels (voxels,)."""
    from sklearn.cluster import KMeans

    rows = image.reshape(image.shape[0], -1).T.astype(np.float32)
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
    "threshold-otsu": skimage_threshold("threshold_otsu"),
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
    "edge-roberts": Peer("skimage.filters.roberts, edges alone", gradient_filter("roberts").call, (2,)),
    "superpixel-slic": Peer("skimage.segmentation.slic", slic),
    "cluster-kmeans": Peer("sklearn.cluster.KMeans", kmeans),
    "acwe": Peer("skimage.segmentation.chan_vese", chan_vese, (2,)),
    "morph-acwe": Peer("skimage.segmentation.morphological_chan_vese", morphological),
}
"""Method -> the call; what is not here wraps no single call (it combines several, or is written here)."""
