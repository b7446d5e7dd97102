"""From a row's files to voxels: channels stacked, labels mapped to classes. Nothing here knows a case's neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Data
from medseg.core.case import Case, Image, count_not_finite
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.label_values import value_counts
from medseg.core.segmentation import ClassInfo, Segmentation, paint
from medseg.data.classes import overlap, sources_of
from medseg.data.label_grid import match_grid
from medseg.data.rows import CaseRow

Sources = Mapping[str, tuple[str, tuple[int, ...]]]
"""Class name -> (label column, values that mean it in this case's files)."""


def open_case(row: CaseRow, data: Data, classes: Sequence[ClassInfo]) -> Case:
    """A case that reads its voxels when asked.

    The label carries `ClassInfo.index` (regions as well when classes overlap), keeps the ignore value, and has the
    known classes' names in provenance["known"]. It lies on the image's own grid, or reading it raises UserError with both
    grids and the distance in mm.
    """
    reader = partial(read_image, row, data)
    label_reader = partial(read_label, row, data, tuple(classes)) if row.labels else None
    return Case(row.case, row.patient, reader, label_reader, {"files": row.files})


def read_image(row: CaseRow, data: Data) -> Image:
    """The channels of a case, (C, *S), on one grid; not-finite voxels replaced where data.not_finite says so."""
    from medseg.io import doors

    if row.trouble:
        raise UserError(row.trouble, f"case {row.case}")
    select = data.select
    parts = [
        doors.read_image(_paths(channel), select.irregular, data.spacing_tolerance) for channel in row.images
    ]
    first = parts[0]
    for number, part in enumerate(parts[1:], 2):
        part.geometry.require_same_grid(first.geometry, f"channel {number}", "channel 1", f"case {row.case}")
    array = first.array if len(parts) == 1 else np.concatenate([part.array for part in parts])
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    if data.not_finite == "replace":
        array, more = replace_not_finite(array)
        notes += more
    return first._replace(array=array, notes=notes)


def _paths(channel: Sequence[str]) -> Any:
    return Path(channel[0]) if len(channel) == 1 else [Path(name) for name in channel]


def replace_not_finite(array: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Each channel's smallest finite value where it holds NaN or infinity, and a note with the count."""
    count = count_not_finite(array)
    if count == 0:
        return array, ()
    array = np.array(array)
    for channel in array:
        bad = ~np.isfinite(channel)
        channel[bad] = channel[~bad].min() if not bad.all() else 0
    return array, (f"{count} voxels that were NaN or infinite got the smallest value of their channel",)


def read_label(
    row: CaseRow, data: Data, classes: tuple[ClassInfo, ...], grid: Geometry | None = None
) -> Segmentation:
    """The label of a case in the cohort's classes, on the image's `grid` (None: read from the image's header).

    Raises UserError with the values that belong to no class.
    """
    columns = read_columns(row, data, classes, grid)
    return as_classes(columns, row, data, classes)


def read_columns(
    row: CaseRow, data: Data, classes: Sequence[ClassInfo], grid: Geometry | None = None
) -> dict[str, Segmentation]:
    """Label column -> values as in the file, on the image's grid, for the columns that the classes are drawn in.

    grid: the image's; None: it is read from the image's header.
    """
    from medseg.io import doors

    wanted = {column for column, _ in sources_of(row, data, classes).values()} if classes else set(row.labels)
    files = {column: Path(name) for column, name in row.labels.items() if column in wanted}
    if not files:
        raise UserError(
            f"no label in the column{'s' if len(wanted) > 1 else ''} {', '.join(sorted(wanted))};"
            f" there is {', '.join(row.labels) or 'none'}",
            f"case {row.case}",
            "correct `column` under data.classes",
        )
    grid = grid or image_grid(row, data)
    columns = {}
    for column, file in files.items():
        # A DICOM-SEG stores only frames that are not empty: the reader places it on the image's grid by position.
        label = doors.read_segmentation(file, onto=grid)
        if classes and "name" in label.provenance:
            label = by_names(label, classes, sources_of(row, data, classes), f"case {row.case}")
        name = "label" if column == "label" else f"label '{column.removeprefix('label_')}'"
        columns[column] = match_grid(
            label,
            grid,
            resample=data.grid == "resample",
            outside=data.background or 0,
            name=name,
            where=f"case {row.case}",
        )
    return columns


def by_names(
    label: Segmentation,
    classes: Sequence[ClassInfo],
    sources: Sources,
    where: str,
) -> Segmentation:
    """A DICOM segmentation or structure set with the values that its classes have in the cohort.

    Numbers of segments and structures follow the order in which they were drawn, so they are matched by name, else by
    code; those of other names are left out, counted in a note. Where no name fits, a segmentation keeps its numbers
    and a structure set is refused.
    """
    from medseg.io.dicom.read_seg import match

    wanted = [info for info in classes if info.name in sources]
    places = {info.index: match(info, wanted) for info in label.classes}
    known = {index: place for index, place in places.items() if place is not None}
    if not known:
        if label.provenance.get("kind") == "RTSTRUCT":
            raise UserError(
                f"none of its {len(places)} structures is called like a class",
                where,
                f"the classes are {', '.join(info.name for info in wanted)}; name them as the structures are named",
            )
        return label
    table = np.zeros(max([int(label.labels.max(initial=0)), *places]) + 1, dtype=np.int32)
    for index, place in known.items():
        table[index] = sources[wanted[place].name][1][0]
    notes = tuple(label.provenance.get("notes", ()))
    if left := len(places) - len(known):
        notes += (f"{left} drawn structures that are none of the classes were left out",)
    return replace(label, labels=table[label.labels], provenance={**label.provenance, "notes": notes})


def image_grid(row: CaseRow, data: Data) -> Geometry:
    """The grid of a case's image, from headers where the format has them."""
    from medseg.io import doors

    return doors.read_geometry(_paths(row.images[0]), data.select.irregular, data.spacing_tolerance)


def as_classes(
    columns: Mapping[str, Segmentation], row: CaseRow, data: Data, classes: tuple[ClassInfo, ...]
) -> Segmentation:
    """Label maps as they stand in files -> one Segmentation in the cohort's classes.

    Overlapping classes become regions; voxels with the ignore value keep it in `labels` (as they do without regions).
    """
    sources = sources_of(row, data, classes)
    counts = {column: value_counts(seg.labels) for column, seg in columns.items()}
    refuse_strange(counts, sources, data, row)
    first = next(iter(columns.values()))
    known = known_classes(row, classes, columns, sources)
    notes = tuple(str(n) for seg in columns.values() for n in seg.provenance.get("notes", ()))
    provenance = {"known": known, "notes": notes}
    if data.overlapping or overlap(sources):
        return _regions(columns, sources, classes, data, first.geometry, provenance)
    labels = _lookup(first.labels, counts[next(iter(columns))], sources, classes, data)
    return Segmentation(labels, first.geometry, classes, provenance=provenance)


def known_classes(
    row: CaseRow,
    classes: Sequence[ClassInfo],
    columns: Mapping[str, Any],
    sources: Sources,
) -> tuple[str, ...]:
    """Names of the classes that were drawn in this case: said so by the row, and their label map is there."""
    return tuple(
        info.name
        for info in classes
        if info.name in sources
        and sources[info.name][0] in columns
        and (row.known is None or info.name in row.known)
    )


def refuse_strange(
    counts: Mapping[str, Mapping[int, int]], sources: Sources, data: Data, row: CaseRow
) -> None:
    """Raises UserError with the values that belong to no class and their voxels, unless they count as background."""
    if row.rest_is_background or data.unnamed == "background":
        return
    for column, found in counts.items():
        named: set[int | None] = {
            value for other, values in sources.values() if other == column for value in values
        }
        # Another label map than the main one always has 0 where its classes are not.
        named |= {data.background, data.ignore} if column == "label" else {0, data.background, data.ignore}
        rest = {value: count for value, count in found.items() if value not in named}
        if rest:
            raise UserError(
                _strange_sentence(column, rest, sources),
                f"case {row.case}",
                "name every value under data.classes (a class may have several), give data.ignore, or set"
                " data.unnamed: background",
            )


def _strange_sentence(column: str, rest: Mapping[int, int], sources: Sources) -> str:
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(rest.items())[:10])
    more = f" and {len(rest) - 10} more" if len(rest) > 10 else ""
    have = ", ".join(
        f"{name} {'/'.join(map(str, values))}"
        for name, (other, values) in list(sources.items())[:10]
        if other == column
    )
    return f"label values that belong to no class: {listed}{more}; the classes are {have or 'none'}"


def _lookup(
    raw: npt.NDArray[Any],
    counts: Mapping[int, int],
    sources: Sources,
    classes: Sequence[ClassInfo],
    data: Data,
) -> npt.NDArray[Any]:
    """File values -> class indices in one pass."""
    target = {
        value: info.index for info in classes if info.name in sources for value in sources[info.name][1]
    }
    if data.ignore is not None:
        target[data.ignore] = data.ignore
    # Without a background every voxel has a class, so a value of none must not look like the class 0.
    rest = 0 if data.background is not None or data.ignore is None else data.ignore
    largest = max([rest, *target.values()])
    kind = np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.int32
    if all(target.get(value, rest) == value for value in counts):
        return raw.astype(kind, copy=False)
    if min(counts) >= 0 and max(counts) < 65536:
        table = np.full(max(counts) + 1, rest, dtype=kind)
        for value, index in target.items():
            if 0 <= value < len(table):
                table[value] = index
        return table[raw]
    out = np.full(raw.shape, rest, dtype=kind)
    for value, index in target.items():
        out[raw == value] = index
    return out


def _regions(
    columns: Mapping[str, Segmentation],
    sources: Sources,
    classes: tuple[ClassInfo, ...],
    data: Data,
    geometry: Geometry,
    provenance: Mapping[str, Any],
) -> Segmentation:
    regions = np.zeros((len(classes), *geometry.shape), dtype=bool)
    for position, info in enumerate(classes):
        column, values = sources.get(info.name, ("", ()))
        if column in columns:
            regions[position] = np.isin(columns[column].labels, values)
    labels = paint(regions, classes)
    if data.ignore is not None:
        for seg in columns.values():
            labels[seg.labels == data.ignore] = data.ignore
    return Segmentation(labels, geometry, classes, regions, provenance=provenance)
