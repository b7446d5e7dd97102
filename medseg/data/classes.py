"""From the pipeline's class table to the classes of a cohort: indices, colours, codes, sides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from medseg.config import ClassSpec, Data
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Code, default_colour
from medseg.data.rows import CaseRow, column_name

MOST_CLASSES = 250
"""Label maps are stored with one byte a voxel; more values than this look like instances or an image."""

TERMS: dict[str, tuple[str, str]] = {
    "lung": ("39607008", "Lung"),
    "right lung": ("3341006", "Right lung"),
    "left lung": ("44029006", "Left lung"),
    "heart": ("80891009", "Heart"),
    "aorta": ("15825003", "Aorta"),
    "trachea": ("44567001", "Trachea"),
    "liver": ("10200004", "Liver"),
    "spleen": ("78961009", "Spleen"),
    "kidney": ("64033007", "Kidney"),
    "right kidney": ("9846003", "Right kidney"),
    "left kidney": ("18639004", "Left kidney"),
    "stomach": ("69695003", "Stomach"),
    "pancreas": ("15776009", "Pancreas"),
    "gallbladder": ("28231008", "Gallbladder"),
    "urinary bladder": ("89837001", "Urinary bladder"),
    "esophagus": ("32849002", "Esophagus"),
    "mediastinum": ("72410000", "Mediastinum"),
    "brain": ("12738006", "Brain"),
    "hippocampus": ("5366008", "Hippocampus"),
}
"""SNOMED CT codes (as in DICOM PS3.16, CID 7140 and its neighbours) for names that leave no doubt."""


def class_infos(
    specs: Mapping[str, ClassSpec], background: int | None = 0, ignore: int | None = None
) -> tuple[ClassInfo, ...]:
    """The classes of a table, in its order.

    A class is written with its value; where classes share values or have several, or one has the 0 that stands for
    background in what is written, all are numbered from 1, and the number of `ignore` is left out.
    Raises UserError when a class has the value of the background or of what is ignored, or two names differ in case
    only.
    """
    _refuse_contradictions(specs, background, ignore)
    first = [spec.values[0] for spec in specs.values()]
    single = all(len(spec.values) == 1 for spec in specs.values())
    lowest = 0 if background is None else 1
    distinct = single and len(set(first)) == len(first) and min(first, default=lowest) >= lowest
    running = [number for number in range(1, len(specs) + 2) if number != ignore]
    return tuple(
        ClassInfo(
            name,
            first[position] if distinct else running[position],
            spec.colour or default_colour(position),
            _code(name, spec),
            spec.laterality or side_of(name),
        )
        for position, (name, spec) in enumerate(specs.items())
    )


def _refuse_contradictions(
    specs: Mapping[str, ClassSpec], background: int | None, ignore: int | None
) -> None:
    if ignore is not None and ignore == background:
        raise UserError(
            f"the value {ignore} is both the background and ignored",
            "data.ignore",
            "give one of data.background and data.ignore another value, or leave data.ignore out",
        )
    lowered: dict[str, str] = {}
    for name, spec in specs.items():
        if background is not None and background in spec.values:
            raise UserError(
                f"class '{name}' has the value {background}, which is the background's",
                "data.classes",
                "give the class another value, or set data.background: null when every pixel has a class",
            )
        if ignore is not None and ignore in spec.values:
            raise UserError(
                f"class '{name}' has the value {ignore}, which data.ignore leaves out",
                "data.classes",
                "no voxel would be left of it: give the class or data.ignore another value",
            )
        if name.lower() in lowered:
            raise UserError(
                f"classes '{lowered[name.lower()]}' and '{name}' differ only in capitals", "data.classes"
            )
        lowered[name.lower()] = name
    if len(specs) > MOST_CLASSES:
        raise UserError(f"{len(specs)} classes, more than {MOST_CLASSES}", "data.classes")


def side_of(name: str) -> Literal["left", "right"] | None:
    """The patient's side that a class name speaks of: left, right or None."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    if ("left" in words) == ("right" in words):
        return None
    return "left" if "left" in words else "right"


def _code(name: str, spec: ClassSpec) -> Code | None:
    if spec.code is not None:
        return Code(*spec.code)
    words = re.split(r"[^a-z]+", name.lower())
    side = [word for word in words if word in ("left", "right")]
    plain = " ".join([*side, *(word for word in words if word not in ("left", "right"))]).strip()
    if plain not in TERMS:
        return None
    value, meaning = TERMS[plain]
    return Code(value, "SCT", meaning)


def sources_of(
    row: CaseRow, data: Data, classes: Sequence[ClassInfo]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Class name -> (label column, values) for one case: its own way of writing, else the cohort's.

    Classes that the case's files have no values for are absent.
    """
    if row.values is not None:
        return {c.name: row.values[c.name] for c in classes if c.name in row.values}
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for info in classes:
        spec = data.classes.get(info.name)
        if spec is None:
            found[info.name] = ("label", (info.index,))
        else:
            found[info.name] = (column_name(spec.column), tuple(spec.values))
    return found


def overlap(sources: Mapping[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Whether two classes may cover one voxel: they share a value or lie in different label maps."""
    if len({column for column, _ in sources.values()}) > 1:
        return True
    every = [value for _, values in sources.values() for value in values]
    return len(set(every)) < len(every)


def specs_from_values(values: Mapping[str, Sequence[int]], data: Data) -> dict[str, ClassSpec]:
    """A class a value for labels that nobody named: column -> values found -> `class 1`, `class 2` ...

    Raises UserError when there are so many values that the label looks like an image or a map of instances.
    """
    specs: dict[str, ClassSpec] = {}
    outside = {data.background, data.ignore}
    for column in sorted(values):
        prefix = "class" if column == "label" else column.removeprefix("label_")
        for value in sorted(set(values[column]) - outside):
            specs[f"{prefix} {value}"] = ClassSpec(values=[value], column=column)
    if len(specs) > MOST_CLASSES:
        raise UserError(
            f"the labels hold {len(specs)} different values, more than {MOST_CLASSES} classes",
            "labels",
            "is this an image or a map of instances? name the classes under data.classes",
        )
    return specs
