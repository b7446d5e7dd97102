"""Augmentation of a cascade: what happens to the masks of the earlier stage in a training patch.

Masks move with the image (the same turns, sizes, mirrors), but keep clear of changes of intensity. Then they are
spoilt, as nnU-Net does it (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), so that the second stage does not
learn to copy them: in 40 % of patches each class, with probability 1/2, is dilated, eroded, opened or closed by a ball of
1 to 8 voxels; in 20 % each class, with probability 1/2, loses one connected part that fills less than 15 % of the patch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.ingest.augment.build import Augmenter

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.uint8]

MORPHOLOGY, REMOVAL, EACH_CLASS = 0.4, 0.2, 0.5
"""Share of patches in which masks grow or shrink, in which a part is lost, and of the classes that it happens to."""

RADIUS = (1, 8)
"""Voxels of the ball."""

LARGEST_PART = 0.15
"""Parts that fill more of the patch than this are never lost."""


class CascadeAugmenter:
    """Changes batches (B, C + K, *S) whose last K channels are masks. Called like an `Augmenter`."""

    def __init__(self, inner: Augmenter, plan: Plan) -> None:
        assert plan.previous is not None, "the plan is of no cascade"
        self.inner, self.channels = inner, plan.image_channels
        self.classes = len(plan.previous.classes)
        self.sides = _sides(plan, [entry.name for entry in inner.entries])

    def __call__(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """images (B, C + K, *S), targets (B, *S) or (B, R, *S) uint8 -> both changed; rng decides everything."""
        import torch

        rng = np.random.default_rng(self.inner.seed) if rng is None else rng
        pictures, masks = images[:, : self.channels], images[:, self.channels :]
        drawn = self.inner.draw(pictures, rng)
        changed, moved_targets = self.inner.apply(pictures, targets, drawn)
        positions = as_positions(masks)
        _, moved = self.inner.apply(positions[:, None], positions, [self._moves(one) for one in drawn])
        spoilt = np.stack([spoil(one, self.classes, rng) for one in moved.cpu().numpy()])
        channels = as_channels(torch.from_numpy(spoilt).to(images.device), self.classes)
        return torch.cat([changed, channels.to(changed.dtype)], dim=1), moved_targets

    def _moves(self, records: tuple[Any, ...]) -> tuple[Any, ...]:
        """What of a sample's records moves its masks; sides are those of the masks' own classes."""
        from medseg.ingest.augment.flip import Flip
        from medseg.ingest.augment.swap_sides import SwapSides
        from medseg.ingest.augment.truncate import Truncate
        from medseg.ingest.augment.warp import SPATIAL

        kept: list[Any] = []
        for record in records:
            if isinstance(record, SwapSides):
                kept.append(replace(record, pairs=self.sides, regions=False))
            elif isinstance(record, Truncate):
                kept.append(replace(record, outside=0))
            elif isinstance(record, (*SPATIAL, Flip)):
                kept.append(record)
        return tuple(kept)


def as_positions(masks: Tensor) -> Tensor:
    """Channels of 0 and 1 (B, K, *S) -> uint8 (B, *S): 0 where there is no class, k + 1 for channel k."""
    import torch

    return ((masks > 0.5).any(dim=1) * (masks.argmax(dim=1) + 1)).to(torch.uint8)


def as_channels(positions: Tensor, classes: int) -> Tensor:
    """uint8 (B, *S) -> float32 (B, K, *S) of 0 and 1."""
    import torch

    return torch.stack([positions == k + 1 for k in range(classes)], dim=1).float()


def spoil(positions: Positions, classes: int, rng: np.random.Generator) -> Positions:
    """A sample's mask (*S) as a worse network might have drawn it; what is handed in is not altered."""
    out = positions.copy()
    if rng.random() < MORPHOLOGY:
        for value in range(1, classes + 1):
            if rng.random() < EACH_CLASS:
                change_shape(out, value, rng)
    if rng.random() < REMOVAL:
        for value in range(1, classes + 1):
            if rng.random() < EACH_CLASS:
                remove_part(out, value, rng)
    return out


def change_shape(positions: Positions, value: int, rng: np.random.Generator) -> None:
    """Dilates, erodes, opens or closes one class in place; what it gains is taken from the others."""
    operation = CHANGES[int(rng.integers(len(CHANGES)))]
    radius = int(rng.integers(RADIUS[0], RADIUS[1] + 1))
    mask = positions == value
    places = np.argwhere(mask)
    if not len(places):
        return
    low, high = places.min(axis=0), places.max(axis=0) + 1
    # Nothing changes beyond a radius around the class's box; as far again must be seen to close gaps rightly.
    reach = 2 * radius + 1
    box = tuple(slice(max(0, a - reach), b + reach) for a, b in zip(low, high))
    before, after = mask[box], operation(mask[box], radius)
    part = positions[box]
    part[before & ~after] = 0
    part[after & ~before] = value


def remove_part(positions: Positions, value: int, rng: np.random.Generator) -> None:
    """Removes one connected part of a class in place, drawn among those that fill less than 15 % of the patch."""
    from scipy.ndimage import label

    parts, count = label(positions == value, structure=np.ones((3,) * positions.ndim))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    small = np.flatnonzero(sizes < LARGEST_PART * positions.size) + 1
    if len(small):
        positions[parts == small[rng.integers(len(small))]] = 0


def dilate(mask: Mask, radius: float) -> Mask:
    """All voxels within `radius` voxels of the mask. By distances: a ball of 17 voxels would cost 5,000 reads a voxel."""
    from scipy.ndimage import distance_transform_edt

    found: Mask = distance_transform_edt(~mask) <= radius if mask.any() else mask
    return found


def erode(mask: Mask, radius: float) -> Mask:
    """All voxels of the mask farther than `radius` from everything else; the patch's border does not count."""
    return ~dilate(~mask, radius)


def open_(mask: Mask, radius: float) -> Mask:
    """Eroded, then dilated: thin parts are lost."""
    return dilate(erode(mask, radius), radius)


def close(mask: Mask, radius: float) -> Mask:
    """Dilated, then eroded: gaps are filled."""
    return erode(dilate(mask, radius), radius)


CHANGES: tuple[Callable[[Mask, float], Mask], ...] = (dilate, erode, open_, close)


def _sides(plan: Plan, names: list[str]) -> tuple[tuple[int, int], ...]:
    """Positions of an organ's left and right mask. Raises UserError where sides are swapped and one has no partner."""
    from medseg.core.segmentation import side_pairs

    assert plan.previous is not None
    classes = [ClassInfo.from_json(facts) for facts in plan.previous.classes]
    pairs = side_pairs(classes)
    alone = [info.name for info in classes if info.laterality and not any(info in pair for pair in pairs)]
    if alone and "swap_sides" in names:
        raise UserError(
            f"swap_sides exchanges left and right, but {alone[0]} of the earlier stage has no partner",
            "train.augment.swap_sides",
            "leave swap_sides out",
        )
    return tuple((classes.index(left) + 1, classes.index(right) + 1) for left, right in pairs)
