"""A case: one image (with its channels), whose it is, and perhaps its label. Voxels are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import Segmentation


class Image(NamedTuple):
    """What a reader returns.

    array: (C, *S) in the stored axis order and number type, rescaled to physical values (HU for CT).
    geometry: its grid in RAS+ mm (or px).
    modality: "CT", "MR", "photo", ... or "" where the file does not say.
    origin: files and DICOM identifiers; may hold private facts, so it never goes to logs, tables or pages.
    notes: sentences on what the reader assumed or repaired; free of private facts.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    modality: str = ""
    origin: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """One case of a cohort.

    id: the name its results carry. patient: the key that splits keep together.
    reader: a function without arguments; label_reader: one that takes the image's grid as `grid` where it is known
    (picklable both: a `functools.partial` of a module's function).
    """

    id: str
    patient: str
    reader: Callable[[], Image]
    label_reader: Callable[..., Segmentation] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def image(self) -> Image:
        """Reads the image: array (C, *S) and its grid."""
        return self.reader()

    def label(self, grid: Geometry | None = None) -> Segmentation:
        """Reads the label on the image's grid. grid: that grid, which spares reading the image's headers once more."""
        if self.label_reader is None:
            raise UserError(
                "this case has no label", f"case {self.id}", "add it to the manifest's label column"
            )
        return self.label_reader() if grid is None else self.label_reader(grid=grid)

    @property
    def has_label(self) -> bool:
        return self.label_reader is not None


def count_not_finite(array: npt.NDArray[Any]) -> int:
    """How many voxels are NaN or infinite."""
    if np.issubdtype(array.dtype, np.floating):
        return int(array.size - np.count_nonzero(np.isfinite(array)))
    return 0
