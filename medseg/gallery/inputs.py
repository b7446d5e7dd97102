"""What the gallery's methods are shown on: pictures that scikit-image brings, drawn ones, or a person's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.bench.classical.images import Sample, drawn_chest, ellipsoid
from medseg.core.errors import UserError

LARGEST = 160
"""Voxels along the longest axis of a person's own volume; larger ones are thinned out."""


@dataclass(frozen=True)
class Shown:
    """What a method is shown on: name of an input, and arguments over the method's defaults."""

    on: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def picture(name: str) -> npt.NDArray[Any]:
    """(C, H, W) of a picture that scikit-image brings."""
    from skimage import data

    array = np.asarray(getattr(data, name)())
    return array[None] if array.ndim == 2 else np.moveaxis(array[..., :3], -1, 0)


def flat(name: str, image: npt.NDArray[Any], truth: npt.NDArray[np.bool_] | None = None) -> Sample:
    """A sample of a photograph."""
    return Sample(name, np.ascontiguousarray(image), (1.0, 1.0), truth=truth)


def coins() -> Sample:
    """Coins under uneven light."""
    return flat("coins", picture("coins")[:, 16:288, 10:374])


def page_of_text() -> Sample:
    """A printed page under uneven light."""
    return flat("page", picture("page"))


def one_coin() -> Sample:
    """One coin, with its disc for a simulated prompt."""
    image = picture("coins")[:, 160:234, 8:84]
    return flat("one coin", image, ellipsoid(image.shape[1:], (0.64, 0.56), (0.5, 0.53)))


def cup() -> Sample:
    """A cup on a table, in colour, with an ellipse in it for simulated prompts."""
    image = picture("coffee")[:, ::2, ::2]
    return flat("cup", image, ellipsoid(image.shape[1:], (0.9, 0.72), (0.52, 0.47)))


def tissue() -> Sample:
    """Stained tissue in colour."""
    return flat("tissue", picture("immunohistochemistry")[:, 128:384:1, 100:420:1])


def noisy_chest() -> Sample:
    """A slice of the drawn chest under strong noise."""
    image, _ = drawn_chest(160)
    section = image[:, :, 80].T[::-1, ::-1]
    noise = np.random.default_rng(1).normal(0, 260, section.shape)
    return flat("noisy slice", (section + noise)[None].astype(np.float32))


def chest() -> Sample:
    """A drawn chest CT, with the right lung for simulated prompts."""
    image, lungs = drawn_chest(72)
    right = lungs.copy()
    right[:36] = False
    return Sample("drawn chest", image[None], (4.4, 4.4, 4.4), truth=right)


def moving_square() -> Sample:
    """A film of eight frames: a piece of one texture moves over another."""
    ground, thing = picture("grass")[0, :120, :160], picture("gravel")[0, :36, :36]
    frames = []
    for number in range(8):
        frame = ground.copy()
        frame[40:76, 30 + 8 * number : 66 + 8 * number] = thing
        frames.append(frame)
    return Sample("film", np.stack(frames, axis=-1)[None], (1.0, 1.0, 1.0))


INPUTS: Mapping[str, Callable[[], Sample]] = {
    "coins": coins,
    "page": page_of_text,
    "one coin": one_coin,
    "cup": cup,
    "tissue": tissue,
    "noisy slice": noisy_chest,
    "drawn chest": chest,
    "film": moving_square,
}

DEFAULT = Shown("coins")

SHOWN: Mapping[str, Shown] = {
    "lung-threshold": Shown("drawn chest"),
    "threshold-fixed": Shown("drawn chest", {"high": -400}),
    "threshold-adaptive": Shown("page", {"window_mm": 35.0, "offset": 10.0, "dark": True}),
    "threshold-submean": Shown("page", {"dark": True}),
    "threshold-multi-otsu": Shown("drawn chest"),
    "histogram-bundling": Shown("drawn chest"),
    "edge-fourier-highpass": Shown("coins", {"closing_mm": 3.0}),
    "edge-serial": Shown("one coin", {"objects": 1}),
    "region-growing": Shown("drawn chest"),
    "split-merge": Shown("coins", {"split": 0.2, "merge": 0.1}),
    "split-merge-grow": Shown("coins", {"split": 0.2, "merge": 0.1}),
    "watershed": Shown("coins"),
    "cluster-kmeans": Shown("tissue"),
    "cluster-spectral": Shown("tissue"),
    "cluster-meanshift": Shown("tissue"),
    "superpixel-slic": Shown("cup", {"groups": 0, "segments": 120}),
    "superpixel-generic": Shown("cup", {"groups": 0, "segments": 120}),
    "graph-normalized-cut": Shown("cup"),
    "graph-cuts": Shown("cup"),
    "grabcut": Shown("cup"),
    "random-walker": Shown("cup"),
    "interactive-seeds": Shown("cup"),
    "pgm-generative": Shown("noisy slice"),
    "pgm-discriminative": Shown("cup"),
    "pgm-bayesian-network": Shown("cup"),
    "mrf-potts": Shown("noisy slice"),
    "crf-grid": Shown("noisy slice"),
    "crf-dense": Shown("noisy slice"),
    "snake": Shown("one coin"),
    "level-set": Shown("drawn chest", {"iterations": 100}),
    "acm-localized": Shown("coins"),
    "sparsity-based": Shown("page"),
    "saliency-geodesic-video": Shown("film"),
}
"""Method -> what it is shown on; `DEFAULT` for the others."""


def own_input(path: Path) -> Sample:
    """A person's photograph, slice or volume, with an ellipse in the middle for simulated prompts.

    Volumes are turned to RAS+ and thinned to at most `LARGEST` voxels an axis.
    """
    from medseg.core.geometry import reorient_array
    from medseg.io.doors import read_image

    image = read_image(path)
    turned, order, flips = image.geometry.reoriented()
    array = np.asarray(reorient_array(image.array, order, flips))
    if array.ndim not in (3, 4):
        raise UserError(f"has {array.ndim - 1} axes", str(path), "give a picture or one volume")
    steps = [max(1, -(-n // LARGEST)) for n in array.shape[1:]] if array.ndim == 4 else [1, 1]
    array = array[:, *(slice(None, None, s) for s in steps)]
    spacing = tuple(float(s) * k for s, k in zip(turned.spacing, steps, strict=True))
    truth = ellipsoid(array.shape[1:], (0.5,) * len(steps))
    return Sample("your image", np.ascontiguousarray(array), spacing, truth=truth)


def middle_slice(sample: Sample) -> Sample:
    """The middle slice across the last axis, as a 2D sample; 2D samples as they are."""
    if sample.image.ndim == 3:
        return sample
    at = sample.image.shape[-1] // 2
    truth = None if sample.truth is None else sample.truth[..., at]
    return Sample(sample.name, sample.image[..., at], sample.spacing_mm[:2], truth=truth)
