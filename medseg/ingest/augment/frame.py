"""What a draw may know about the patch it will change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medseg.config import Plan
from medseg.core.segmentation import side_pairs
from medseg.ingest.targets import IGNORED, classes_of

ANISOTROPY = 3.0
"""From this ratio of patch edges on, rotations stay in the plane of the fine axes (nnU-Net's rule)."""


@dataclass(frozen=True)
class Frame:
    """shape: voxels (*S). spacing: per axis. channels: C. mirror_axes: axes along which mirroring keeps the meaning.

    coarse: the axis that takes no part in rotations, or None. outside: target value where there is no image; air: where
    a scanner filled in what it did not see.
    across: the left-right axis. side_pairs: target positions of an organ's left and right class; none where a class
    has a side and no partner. regions: targets are (R, *S).
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    mirror_axes: tuple[int, ...]
    coarse: int | None = None
    outside: int = 0
    air: int = 0
    across: int = 0
    side_pairs: tuple[tuple[int, int], ...] = ()
    regions: bool = False

    @property
    def ndim(self) -> int:
        """Spatial axes: 2 or 3."""
        return len(self.shape)

    @property
    def planes(self) -> tuple[tuple[int, int], ...]:
        """The planes (pairs of axes) in which a patch may be turned."""
        free = [axis for axis in range(self.ndim) if axis != self.coarse]
        return tuple((a, b) for k, a in enumerate(free) for b in free[k + 1 :])

    def turns_freely(self, plane: tuple[int, int]) -> bool:
        """Whether any angle in this plane gives a believable image: no other plane to turn in, no up and down."""
        return len(self.planes) == 1 and set(plane) <= set(self.mirror_axes)


def frame_of(plan: Plan, shape: Sequence[int], channels: int, beyond_image: str = "background") -> Frame:
    """The frame of a patch of `shape` voxels under a plan; beyond_image: as `train.beyond_image`."""
    spacing = tuple(float(s) for s in plan.spacing or [1.0] * len(shape))
    coarse = None
    if len(shape) == 3 and max(shape) / min(shape) > ANISOTROPY:
        coarse = list(shape).index(min(shape))
    has_background = plan.background or plan.overlapping
    outside = 0 if has_background and beyond_image == "background" else IGNORED
    return Frame(
        tuple(int(n) for n in shape),
        spacing,
        channels,
        tuple(plan.mirror_axes),
        coarse,
        outside,
        air=0 if has_background else IGNORED,
        across=1 if len(shape) == 2 else 0,
        side_pairs=side_positions(plan),
        regions=plan.overlapping,
    )


def side_positions(plan: Plan) -> tuple[tuple[int, int], ...]:
    """Channels of an organ's left and right class, for every class that has a side; none where one has no partner."""
    classes = classes_of(plan)
    found = side_pairs(classes)
    if 2 * len(found) != sum(info.laterality is not None for info in classes):
        return ()
    first = int(plan.background and not plan.overlapping)
    return tuple((classes.index(left) + first, classes.index(right) + first) for left, right in found)
