"""One image or label -> the arrays a network is trained on and predicts from.

Order of work, as in nnU-Net: orient to RAS+, crop, change intensities, resample. Nothing of it is ever inverted:
whoever has a result on the prepared grid maps it by geometry, grid to grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry, reorient_array
from medseg.core.machine import ram_available_bytes
from medseg.core.segmentation import Segmentation
from medseg.ingest import crop, intensity, resample, straighten, targets
from medseg.io.sizes import in_words, voxel_bytes


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as the network sees it.

    array: (C, *S) float32, axes in RAS+ order. geometry: its grid. source: the grid of the file.
    order, flips: how the file's axes were permuted and turned (`reorient_array`). low, high: the box that was kept, in
    voxels of the RAS-ordered file grid. straight: False when the file's axes were not at right angles, so that
    `geometry` shares no axis with `source` and must be mapped by its affine.
    """

    array: npt.NDArray[np.float32]
    geometry: Geometry
    source: Geometry
    order: tuple[int, ...]
    flips: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    straight: bool = True

    @property
    def box(self) -> tuple[slice, ...]:
        """The box that was kept, in voxels of the RAS-ordered file grid."""
        return tuple(slice(low, high) for low, high in zip(self.low, self.high))

    @property
    def kept(self) -> Geometry:
        """The file's grid, RAS-ordered and cropped: the same voxels as in the file."""
        turned, _, _ = self.source.reoriented()
        return turned.cropped(self.low, [h - lo for lo, h in zip(self.low, self.high)])


def prepare_image(image: Image, plan: Plan) -> PreparedImage:
    """Image (C, *S) as stored -> float32 (C, *S') in RAS+ order on the plan's grid.

    Needs the result and one plane-resampled copy in memory beside the image (tens of MB for a CT going to 3 mm).
    Raises UserError when channels or dimensions do not fit the plan, or voxels are not finite.
    """
    _require_fit(image, plan)
    turned, order, flips = image.geometry.reoriented()
    array = reorient_array(image.array, order, flips)
    box = crop.crop_box(array, turned, plan.crop)
    low, high = tuple(b.start for b in box), tuple(b.stop for b in box)
    kept = turned.cropped(low, [h - lo for lo, h in zip(low, high)])
    array = array[(slice(None), *box)]
    outside = ~crop.nonzero_mask(array) if any(p.scheme == "zscore_mask" for p in plan.intensity) else None
    straight = kept.is_orthogonal
    grid = _target_grid(kept, plan)
    _require_room(image, grid)
    if straight:
        out = _resampled(array, outside, kept, grid, plan)
    else:
        changed = np.stack([intensity.apply(a, p, outside) for a, p in zip(array, plan.intensity)])
        out = straighten.move(changed, kept, grid)
    return PreparedImage(out, grid, image.geometry, order, flips, low, high, straight)


def prepare_target(seg: Segmentation, prepared: PreparedImage, plan: Plan) -> npt.NDArray[np.uint8]:
    """A label on the image's grid -> target uint8 on the prepared grid: (*S'), or (R, *S') where classes overlap.

    Raises UserError with both grids and their distance when the label lies on another grid.
    """
    prepared.source.require_same_grid(seg.geometry, "image", "label", "")
    target = reorient_array(targets.encode(seg, plan), prepared.order, prepared.flips)
    target = target[(Ellipsis, *prepared.box)]
    kept, grid = prepared.kept, prepared.geometry
    if not prepared.straight:
        lead = target if plan.overlapping else target[None]
        moved = straighten.move(lead, kept, grid, nearest=True).astype(np.uint8)
        return moved if plan.overlapping else moved[0]
    sampling = resample.label_sampling(kept.spacing, plan.spacing_mm or grid.spacing, plan.image_order)
    if not plan.overlapping:
        return resample.resample_labels(target, grid.shape, sampling)
    regions = resample.resample_regions(target == 1, grid.shape, sampling).astype(np.uint8)
    ignored = target[:1] == targets.IGNORED
    if ignored.any():
        regions[:, resample.resample_regions(ignored, grid.shape, sampling)[0]] = targets.IGNORED
    return regions


def _target_grid(kept: Geometry, plan: Plan) -> Geometry:
    if not kept.is_orthogonal:
        return straighten.straight_grid(kept, plan.spacing_mm)
    return plan.grid_of(kept)


def _resampled(
    array: npt.NDArray, outside: npt.NDArray | None, kept: Geometry, grid: Geometry, plan: Plan
) -> npt.NDArray[np.float32]:
    sampling = resample.image_sampling(kept.spacing, plan.spacing_mm or grid.spacing, plan.image_order)
    out = np.empty((len(array), *grid.shape), np.float32)
    for channel, into, scheme in zip(array, out, plan.intensity):
        if scheme.scheme == "zscore_mask":
            # The outside has to be 0 after the change and before the resampling, so it is done in one piece.
            into[...] = resample.resample(intensity.apply(channel, scheme, outside), grid.shape, sampling)
        else:
            change = intensity.changer(channel, scheme)
            into[...] = resample.resample(channel, grid.shape, sampling, change)
    return out


def _require_room(image: Image, grid: Geometry) -> None:
    """Refuses a grid so fine that the prepared image would not fit, before anything is taken for it."""
    needed, free = voxel_bytes((len(image.array), *grid.shape), 4), ram_available_bytes()
    if needed > free:
        raise UserError(
            f"takes {in_words(needed)} on a grid of {_spacing(grid)}, {in_words(free)} of memory are free",
            hint=f"give a coarser ingest.spacing_{grid.unit}, or a machine with more memory",
        )


def _spacing(grid: Geometry) -> str:
    return "x".join(f"{s:.3g}" for s in grid.spacing) + f" {grid.unit}"


def _require_fit(image: Image, plan: Plan) -> None:
    if image.geometry.ndim != plan.dims:
        kind = {2: "a flat image", 3: "a volume"}
        raise UserError(
            f"is {kind[image.geometry.ndim]}, but the plan was made for {plan.dims}D images",
            hint="take a model or system of the right dimension",
        )
    if image.array.shape != (plan.image_channels, *image.geometry.shape):
        raise UserError(
            f"has {len(image.array)} channels, but the plan was made for {plan.image_channels}",
            hint="give the same channels in the same order as in training (data.channels)",
        )
