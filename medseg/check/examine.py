"""Everything that is looked at in one case, each file read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from medseg.check.grids import place_review
from medseg.check.labels import LabelFacts, check_label
from medseg.check.voxels import check_voxels, looks_like_mask
from medseg.config import Data
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.data.reading import read_image
from medseg.data.rows import CaseRow


@dataclass(frozen=True)
class Examined:
    """A case that can be used.

    row: as it goes on (without its label when that could not be used and is not needed). facts: columns of
    cases.parquet. label: None without a usable one. file_hashes: sha256 of each file. mask_like: the image's numbers are
    those of a label map.
    """

    row: CaseRow
    facts: dict[str, Any]
    label: LabelFacts | None = None
    review: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    file_hashes: tuple[str, ...] = ()
    mask_like: bool = False

    def with_classes(self, sources: Mapping[str, tuple[str, tuple[int, ...]]]) -> Examined:
        """The same case once its classes are known: class -> (label column, values)."""
        row = replace(self.row, values=sources)
        if self.label is None:
            return replace(self, row=row)
        counts = self.label.counts
        voxels = {
            name: sum(counts[column].get(value, 0) for value in values)
            for name, (column, values) in sources.items()
            if column in counts
        }
        facts = {**self.facts, **voxel_facts(voxels, self.facts["voxel_ml"])}
        return replace(
            self, row=row, facts=facts, label=replace(self.label, voxels=voxels, known=tuple(voxels))
        )


def voxel_facts(voxels: Mapping[str, int], voxel_ml: float | None) -> dict[str, str]:
    """Voxels and millilitres of each drawn class, as JSON texts."""
    volumes = {} if voxel_ml is None else {name: count * voxel_ml for name, count in voxels.items()}
    return {"voxels": json.dumps(dict(voxels)), "volumes_ml": json.dumps(volumes)}


def examine(row: CaseRow, data: Data, classes: Sequence[ClassInfo], needs_label: bool) -> Examined:
    """Reads and checks a case.

    needs_label: a label that cannot be used fails the case; otherwise the case goes on without it, for review.
    Raises UserError with the reason when the case cannot be used.
    """
    from medseg.io.doors import content_hash
    from medseg.io.layout import DOUBTS

    if row.trouble:
        raise UserError(row.trouble, f"case {row.case}")
    image = read_image(row, data)
    facts, review = check_voxels(image, data)
    review += place_review(image.geometry)
    label, row, more = _label(row, image.geometry, data, classes, needs_label)
    # Hashed after reading: a file that is absent or unreadable has been named by its reader by now.
    hashes = tuple(content_hash([Path(name)]) for name in row.files)
    n_images = sum(len(channel) for channel in row.images)
    facts |= {
        "content": sha256("\n".join(hashes).encode()).hexdigest(),
        "image_content": sha256("\n".join(hashes[:n_images]).encode()).hexdigest(),
        "shape": list(image.geometry.shape),
        "spacing": list(image.geometry.spacing),
        "unit": image.geometry.unit,
        "axis_codes": image.geometry.axis_codes,
        "channels": int(image.array.shape[0]),
        "modality": image.modality,
        "voxel_ml": image.geometry.voxel_volume_ml,
        **voxel_facts(label.voxels if label else {}, image.geometry.voxel_volume_ml),
    }
    doubts = [note for note in image.notes if any(words in note for words in DOUBTS)]
    review += more + doubts
    notes = (*(n for n in image.notes if n not in doubts), *(label.notes if label else ()))
    return Examined(row, facts, label, tuple(review), notes, hashes, looks_like_mask(image.array))


def _label(
    row: CaseRow, grid: Any, data: Data, classes: Sequence[ClassInfo], needed: bool
) -> tuple[LabelFacts | None, CaseRow, list[str]]:
    if not row.labels:
        return None, row, []
    try:
        label = check_label(row, grid, data, classes)
    except UserError as err:
        if needed:
            raise
        return None, replace(row, labels={}), [f"label not used: {reason_of(err)}"]
    return label, row, list(label.review)


def reason_of(error: UserError) -> str:
    """The sentence with its details and the remedy, on one line."""
    return "; ".join((error.what, *error.faults)) + (f" -> {error.hint}" if error.hint else "")


def without_paths(text: str, row: CaseRow) -> str:
    """A reason that names none of the case's files or folders: what goes to tables and pages must not hold paths."""
    parts = {part for name in row.files for part in (name, str(Path(name).parent), Path(name).name)}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) > 2:
            text = text.replace(part, "(file)")
    return text
