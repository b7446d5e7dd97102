"""The frames of a fractional segmentation: probabilities as whole numbers of 8 bits, compressed one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.io.dicom.compare import CENTROID_ALLOWED_MM
from medseg.io.dicom.headers import Slice
from medseg.io.dicom.read_seg import read_pictures
from medseg.io.dicom.seg_frames import describe_frames, encoded, put_encoded
from medseg.io.dicom.stacks import Stack

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass
class Fractions:
    """Compressed frames by (segment, place), and of every segment the sum of its values and their centroid.

    centroids: segment -> LPS mm, weighted by the values.
    """

    frames: dict[tuple[int, int], bytes] = field(default_factory=dict)
    sums: dict[int, int] = field(default_factory=dict)
    centroids: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)

    def add(self, segment: int, pictures: npt.NDArray[np.uint8], stack: Stack) -> None:
        """Takes a segment: (slices, rows, columns) of 0..255 in the order of the stack."""
        first, total, moment = stack.first, 0, np.zeros(3)
        for place, picture in enumerate(pictures):
            if not picture.any():
                continue
            self.frames[segment, place] = encoded(picture)
            weight, column, row = _weights(picture)
            total += weight
            moment += weight * stack.slices[place].position
            moment += column * (first.along_columns * first.column_spacing)
            moment += row * (first.along_rows * first.row_spacing)
        self.sums[segment], self.centroids[segment] = total, moment / max(total, 1)


def fill_fractions(made: Dataset, fractions: Fractions, slices: Sequence[Slice]) -> None:
    """Replaces the frames of `made` by those of `fractions`."""
    frames = sorted(fractions.frames)
    describe_frames(made, frames, slices)
    put_encoded(made, [fractions.frames[frame] for frame in frames])


def require_same_fractions(path: Path, meant: Fractions, infos: Sequence[ClassInfo], where: str) -> None:
    """Reads the file and compares sums and weighted centroids. Raises UserError."""
    geometry, pictures = read_pictures(path)
    sums = dict.fromkeys(meant.sums, 0)
    moments = {segment: np.zeros(3) for segment in meant.sums}
    for segment, place, picture in pictures:
        weight, column, row = _weights(picture)
        sums[segment] += weight
        moments[segment] += (column, row, weight * place)
    for segment, total in meant.sums.items():
        middle = geometry.to_world(moments[segment] / max(sums[segment], 1)) * (-1.0, -1.0, 1.0)
        apart = float(np.linalg.norm(middle - meant.centroids[segment]))
        if sums[segment] != total or apart > CENTROID_ALLOWED_MM:
            raise UserError(
                f"class {infos[segment - 1].name} came back {apart:.2f} mm from its place, its sum as "
                f"{sums[segment]} instead of {total}; the file was not kept",
                where,
                "write nifti probabilities instead and report this",
            )


def _weights(picture: npt.NDArray[Any]) -> tuple[int, float, float]:
    """The sum of a picture, and the sums of its values times their column and row."""
    down, across = picture.sum(axis=1, dtype=np.int64), picture.sum(axis=0, dtype=np.int64)
    return int(down.sum()), float(across @ np.arange(len(across))), float(down @ np.arange(len(down)))
