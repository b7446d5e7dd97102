"""What a label holds: its grid, its values, its classes; and which classes were drawn in how many cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medseg.config import Data
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.label_values import value_counts
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.data.classes import sources_of
from medseg.data.reading import known_classes, read_columns, refuse_strange
from medseg.data.rows import CaseRow, counted


@dataclass(frozen=True)
class LabelFacts:
    """voxels: class -> count. counts: label column -> value -> voxels. known: classes drawn in this case.

    names: label column -> value -> what a DICOM segmentation or structure set calls it; other formats have none.
    """

    voxels: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    review: tuple[str, ...] = ()
    names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


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
        {} if classes else {column: names for column, seg in columns.items() if (names := drawn_names(seg))},
    )


def drawn_names(label: Segmentation) -> dict[int, str]:
    """Value -> name as a DICOM label file says it; empty for formats that name nothing."""
    return {info.index: info.name for info in label.classes} if "name" in label.provenance else {}


def require_equal_numbers(cases: Sequence[LabelFacts]) -> None:
    """Raises UserError where a number means one structure in one DICOM label file and another in the next.

    Numbers follow the order of drawing: taken for classes, they would teach liver as spleen.
    """
    called: dict[tuple[str, int], dict[str, str]] = {}
    for column, value, name in (
        (column, value, name)
        for case in cases
        for column, names in case.names.items()
        for value, name in names.items()
        if case.counts.get(column, {}).get(value)
    ):
        called.setdefault((column, value), {}).setdefault(name.casefold(), name)
    faults = [
        f"number {value} is {counted(names.values())}"
        for (_, value), names in sorted(called.items())
        if len(names) > 1
    ]
    if faults:
        raise UserError(
            "the label files number their structures in different orders, so numbers cannot be the classes",
            "data.classes",
            "name the classes as the files name them, for instance data.classes: {liver: 1, spleen: 2}; they are then"
            " matched by name (`medseg init FOLDER` writes them down)",
            faults[:10],
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
