"""The images of the benchmark: each set's folder read into samples that all methods are measured on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.bench.classical.recipe import ImageSet
from medseg.core.errors import UserError

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
ENDINGS = (".jpg", ".png", ".nii.gz")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is known of it.

    image: (C, *S). spacing_mm: one value an axis (px for photographs: 1). truth: (*S) the object, None where there
    is none. valid: (*S) where the truth counts. people: one array of region numbers (H, W) a person. strokes: (*S) 0
    none, 1 object, 255 background, as people drew them. box: slices into the grid, as people drew it.
    """

    name: str
    image: Array
    spacing_mm: tuple[float, ...]
    truth: Mask | None = None
    valid: Mask | None = None
    people: tuple[npt.NDArray[np.int64], ...] = ()
    strokes: npt.NDArray[np.uint8] | None = None
    box: tuple[slice, ...] | None = None


def samples(images: ImageSet, root: Path | None) -> Iterator[Sample]:
    """The samples of a set, read one by one. root: its folder. UserError where an image or its truth is missing."""
    reader = READERS[images.reader]
    for sample in reader(images, root or Path()):
        yield prepared(sample, images)


def prepared(sample: Sample, images: ImageSet) -> Sample:
    """The sample with intensities cut, shrunk and scaled as the recipe says."""
    image = sample.image
    if images.clip is not None:
        image = np.clip(image, *images.clip)
    if images.shrink is not None:
        factors = tuple(images.shrink)
        image = np.stack([block_means(channel, factors) for channel in image])
        truth = sample.truth
        sample = replace(
            sample,
            truth=None if truth is None else block_means(truth, factors) >= 0.5,
            spacing_mm=tuple(s * f for s, f in zip(sample.spacing_mm, factors, strict=True)),
        )
    if images.zscore:
        image = (image - image.mean()) / max(float(image.std()), 1e-9)
    return replace(sample, image=image)


def block_means(array: Array, factors: Sequence[int]) -> npt.NDArray[np.float32]:
    """Means over blocks of so many voxels; what does not fill a block at the end of an axis is left out.

    >>> block_means(np.array([[1.0, 3.0, 9.0]]), (1, 2)).tolist()
    [[2.0]]
    """
    cut = array[tuple(slice(0, n - n % f) for n, f in zip(array.shape, factors, strict=True))]
    shape = [part for n, f in zip(cut.shape, factors, strict=True) for part in (n // f, f)]
    return cut.reshape(shape).mean(axis=tuple(range(1, 2 * len(factors), 2)), dtype=np.float32)


def files_of(folder: Path, images: ImageSet) -> list[Path]:
    """The files that a set takes of a folder: those named, else evenly spaced ones in the order of names."""
    from medseg.bench.one import evenly

    found = sorted(p for p in folder.glob("[!.]*") if p.name.endswith(ENDINGS))
    if images.names is not None:
        held = {stem(p): p for p in found}
        missing = [name for name in images.names if name not in held]
        if missing:
            raise UserError(f"there is no image {missing[0]!r}", str(folder))
        return [held[name] for name in images.names]
    if not found:
        raise UserError("holds no images", str(folder), "data_manifests/ says where public sets are found")
    return evenly(found, images.cases)


def stem(path: Path) -> str:
    """The name without its ending, `.nii.gz` included."""
    return next(path.name.removesuffix(e) for e in ENDINGS if path.name.endswith(e))


def picture(path: Path) -> Array:
    """(C, H, W) of a photograph, (1, H, W) where it is grey."""
    from skimage.io import imread

    array = np.asarray(imread(path))
    return array[None] if array.ndim == 2 else np.moveaxis(array[..., :3], -1, 0)


def label_of(path: Path) -> Array:
    """(H, W) of a label picture; UserError where it is absent."""
    from skimage.io import imread

    if not path.is_file():
        raise UserError("is missing", str(path), "every image of a set needs its label")
    return np.asarray(imread(path))


def object_of(labels: Array, images: ImageSet, name: str) -> Mask:
    """The voxels of the object among label values of the image `name`."""
    values = images.label_values.get(name)
    return labels > 0 if values is None else np.isin(labels, values)


# --- one layout a function ----------------------------------------------------------------------------------------


def bsds(images: ImageSet, root: Path) -> Iterator[Sample]:
    """test/images/ID.jpg with test/segmentations/ID_1.png, ID_2.png ..., one a person."""
    for path in files_of(root / "test" / "images", images):
        drawn = sorted((root / "test" / "segmentations").glob(f"{path.stem}_*.png"))
        if not drawn:
            raise UserError("has no segmentation by a person", str(path))
        people = tuple(label_of(one).astype(np.int64) for one in drawn)
        yield Sample(path.stem, picture(path), (1.0, 1.0), people=people)


def strokes(images: ImageSet, root: Path) -> Iterator[Sample]:
    """images/, masks/ (255 object, 128 not counted), scribbles_sparse/ (1 object, 2 background), boxes.json."""
    boxes = json.loads((root / "boxes.json").read_text(encoding="utf-8"))
    for path in files_of(root / "images", images):
        mask = label_of(root / "masks" / f"{path.stem}.png")
        drawn = label_of(root / "scribbles_sparse" / f"{path.stem}.png")
        x0, y0, x1, y1 = boxes[path.stem]["from_mask"]
        yield Sample(
            path.stem,
            picture(path),
            (1.0, 1.0),
            truth=mask == 255,
            valid=mask != 128,
            strokes=np.array([0, 1, 255], np.uint8)[drawn],
            box=(slice(y0, y1), slice(x0, x1)),
        )


def masks(images: ImageSet, root: Path) -> Iterator[Sample]:
    """images/NAME.* with labels/NAME.png."""
    for path in files_of(root / "images", images):
        truth = object_of(label_of(root / "labels" / f"{path.stem}.png"), images, path.stem)
        yield Sample(path.stem, picture(path), (1.0, 1.0), truth=truth)


def volumes(images: ImageSet, root: Path) -> Iterator[Sample]:
    """images/NAME.nii.gz with labels*/NAME.nii.gz; both are turned to RAS+."""
    from medseg.core.geometry import reorient_array
    from medseg.io.doors import read_image, read_segmentation

    for path in files_of(root / "images", images):
        labels = next(iter(sorted(root.glob(f"labels*/{path.name}"))), None)
        if labels is None:
            raise UserError("has no label", str(path))
        image, truth = read_image(path), read_segmentation(labels)
        turned, order, flips = image.geometry.reoriented()
        array = reorient_array(image.array, order, flips)
        mask = reorient_array(object_of(truth.labels, images, stem(path))[None], order, flips)[0]
        yield Sample(stem(path), array.astype(np.float32), tuple(turned.spacing), truth=mask)


def film(images: ImageSet, root: Path) -> Iterator[Sample]:
    """NAME/images/FRAME.jpg with NAME/masks/FRAME.png: `cases` evenly spaced frames of every film."""
    from medseg.bench.one import evenly

    for folder in sorted(p for p in root.iterdir() if (p / "images").is_dir()):
        frames = evenly(sorted((folder / "images").glob("*.jpg")), images.cases)
        array = np.stack([picture(frame) for frame in frames], axis=-1)
        truth = np.stack([label_of(folder / "masks" / f"{frame.stem}.png") > 0 for frame in frames], axis=-1)
        yield Sample(folder.name, array, (1.0, 1.0, 1.0), truth=truth)


def photograph(images: ImageSet, root: Path) -> Iterator[Sample]:
    """A colour photograph of 321 x 481 that scikit-image brings, with an ellipse for simulated prompts."""
    from skimage.data import astronaut

    image = np.moveaxis(astronaut()[:321, 16:497], -1, 0)
    yield Sample(
        "astronaut", np.ascontiguousarray(image), (1.0, 1.0), truth=ellipsoid(image.shape[1:], (0.5, 0.5))
    )


def phantom(images: ImageSet, root: Path) -> Iterator[Sample]:
    """A drawn chest of 128^3 voxels of 2.5 mm in HU: a body, two lungs, a spine, smooth noise."""
    image, lungs = drawn_chest(128)
    yield Sample("drawn chest", image[None], (2.5, 2.5, 2.5), truth=lungs)


def drawn_chest(side: int) -> tuple[npt.NDArray[np.float32], Mask]:
    """(image in HU, lungs) on a cube of `side` voxels."""
    from scipy.ndimage import gaussian_filter

    shape = (side,) * 3
    noise = gaussian_filter(np.random.default_rng(0).normal(0, 1, shape), 1)
    sides = [ellipsoid(shape, (0.32, 0.42, 0.6), (x, 0.5, 0.5)) for x in (0.27, 0.73)]
    lungs = (sides[0] | sides[1]) & ~ellipsoid(shape, (0.25, 0.25, 0.35), (0.44, 0.6, 0.4))
    image = np.where(ellipsoid(shape, (0.95, 0.7, 4.0)), 40.0, -1000.0)
    image[lungs] = -830.0
    image[ellipsoid(shape, (0.12, 0.12, 4.0), (0.5, 0.25, 0.5))] = 420.0
    return (gaussian_filter(image, 0.7) + noise * (25 / noise.std())).astype(np.float32), lungs


def ellipsoid(shape: Sequence[int], shares: Sequence[float], middle: Sequence[float] | None = None) -> Mask:
    """An ellipse (ellipsoid) as wide as these shares of the axes, around a middle given in shares as well."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    centre = middle or [0.5] * len(shape)
    return np.asarray(
        sum(
            ((g / n - m) / (share / 2)) ** 2
            for g, n, m, share in zip(grids, shape, centre, shares, strict=True)
        )
        <= 1
    )


READERS: Mapping[str, Callable[[ImageSet, Path], Iterator[Sample]]] = {
    "bsds": bsds,
    "strokes": strokes,
    "masks": masks,
    "volumes": volumes,
    "film": film,
    "photograph": photograph,
    "phantom": phantom,
}
