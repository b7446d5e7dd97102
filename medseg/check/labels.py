"""What a label holds: its grid, its values, its classes; and which classes were drawn in how many cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medseg.config import Data
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.data.classes import sources_of
from medseg.data.reading import known_classes, read_columns, refuse_strange, value_counts
from medseg.data.rows import CaseRow, counted


@dataclass(frozen=True)
class LabelFacts:
    """voxels: class -> count. counts: label column -> value -> voxels. known: classes drawn in this case."""

    voxels: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    review: tuple[str, ...] = ()


def check_label(row: CaseRow, grid: Geometry, data: Data, classes: Sequence[ClassInfo]) -> LabelFacts:
    """Reads each label map once.

    Raises UserError when a map lies on another grid than the image (both grids and the distance in mm are given) or
    holds values that belong to no class (values and voxel counts are given).
    """
    columns = read_columns(row, data, classes, grid)
    counts = {column: value_counts(seg.labels) for column, seg in columns.items()}
    sources = sources_of(row, data, classes)
    if classes:
        refuse_strange(counts, sources, data, row)
    known = known_classes(row, classes, columns, sources)
    voxels = {
        name: sum(counts[sources[name][0]].get(value, 0) for value in sources[name][1]) for name in known
    }
    return LabelFacts(
        voxels,
        counts,
        known,
        tuple(str(n) for seg in columns.values() for n in seg.provenance.get("notes", ())),
        _empty(counts, voxels, data, bool(classes)),
    )


def _empty(
    counts: Mapping[str, Mapping[int, int]], voxels: Mapping[str, int], data: Data, named: bool
) -> tuple[str, ...]:
    outside = {0 if data.background is None else data.background, data.ignore}
    if named:
        empty = not any(voxels.values())
    else:
        empty = all(set(found) <= outside for found in counts.values())
    return ("the label is empty: no voxel of any class",) if empty else ()


def drawn_in(voxels: Sequence[Mapping[str, int]], classes: Sequence[ClassInfo]) -> dict[str, int]:
    """Class -> number of labelled cases that have at least one voxel of it."""
    return {info.name: sum(case.get(info.name, 0) > 0 for case in voxels) for info in classes}


def uneven_classes(voxels: Sequence[Mapping[str, int]], classes: Sequence[ClassInfo]) -> list[str]:
    """Sentences on classes that some labelled cases lack: a structure that was not drawn is learnt as background."""
    counts = drawn_in(voxels, classes)
    asked = {info.name: sum(info.name in case for case in voxels) for info in classes}
    none = [name for name, count in counts.items() if count == 0]
    some = [f"{name} ({count} of {asked[name]})" for name, count in counts.items() if 0 < count < asked[name]]
    notes = []
    if none and voxels:
        notes.append(f"classes in none of {len(voxels)} labelled cases: {counted(none)}")
    if some:
        notes.append(
            f"classes that some labelled cases lack: {counted(some)}; where a class was not drawn (rather than not"
            " there), name the drawn ones in a column `known`, or it is learnt as background"
        )
    return notes
