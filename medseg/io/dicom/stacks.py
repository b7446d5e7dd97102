"""From pictures to stacks: which pictures form one volume, in what order, and on what grid.

Order comes from the position along the pictures' normal alone; instance numbers and file names count for nothing.
Pictures of one place are never stacked on each other: copies are dropped, phases become stacks of their own.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.dicom.headers import Slice
from medseg.io.dicom.tags import DISTINGUISHING, FUNCTIONAL_GROUPS, RESCALE, SHOWN

SAME_PLACE_MM = 0.01
SAME_DIRECTION = 1e-3
TILT_DEGREES = 0.1
"""A stack whose pictures shift sideways by more than this against their normal is called tilted."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class IrregularSeries(UserError):
    """Slices are missing or unevenly spaced: `data.select.irregular` says what becomes of the case."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Pictures of one volume, sorted along their normal.

    differs: what tells this stack from others of its series, e.g. {"b-value": "800"}.
    conflict: why the pictures cannot be one volume, or "". notes: what was dropped.
    """

    slices: tuple[Slice, ...]
    differs: tuple[tuple[str, str], ...] = ()
    conflict: str = ""
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Slice:
        return self.slices[0]

    @property
    def places(self) -> npt.NDArray[np.float64]:
        """Position of each picture along the normal, mm, ascending."""
        return locations(self.slices)


@dataclass(frozen=True)
class Spacing:
    """How evenly the pictures of a stack lie.

    distance_mm: the typical distance between neighbours along the normal. faults: sentences that name gaps and
    uneven distances. places: the positions themselves. tilt_degrees: lean of the stack against the normal.
    """

    distance_mm: float
    faults: tuple[str, ...]
    tilt_degrees: float
    places: npt.NDArray[np.float64] = field(repr=False, compare=False, default_factory=lambda: np.zeros(0))


def locations(slices: Sequence[Slice]) -> npt.NDArray[np.float64]:
    """Positions along the normal of the first picture, mm."""
    normal = slices[0].normal
    return np.array([float(s.position @ normal) for s in slices])


def split(slices: Sequence[Slice]) -> list[Stack]:
    """The stacks of the pictures of one series, each complete, in an order that does not depend on the files'."""
    stacks: list[Stack] = []
    for group in _by_orientation(slices):
        stacks += _without_collisions(group)
    return sorted(stacks, key=_order)


def _order(stack: Stack) -> tuple:
    first = stack.first
    return (first.series_uid, stack.differs, -len(stack.slices), *np.round(first.position, 3), first.sop_uid)


def _by_orientation(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Groups of pictures with equal orientation and equal kind (localizers apart)."""
    groups: list[list[Slice]] = []
    for one in sorted(slices, key=lambda s: (s.sop_uid, s.frame or 0)):
        for group in groups:
            other = group[0]
            same = (
                np.abs(one.along_columns - other.along_columns).max() < SAME_DIRECTION
                and np.abs(one.along_rows - other.along_rows).max() < SAME_DIRECTION
            )
            if same and is_localizer(one) == is_localizer(other):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def is_localizer(one: Slice) -> bool:
    """Whether the header calls the picture a localizer."""
    return "LOCALIZER" in (part.upper() for part in one.image_type)


def _without_collisions(group: list[Slice]) -> list[Stack]:
    """Sorts by place; tells pictures of one place apart, or drops copies."""
    crowded = _crowded(group)
    if not crowded:
        return [_stack(group)]
    group, notes = _drop_copies(group, crowded)
    crowded = _crowded(group)
    if not crowded:
        return [_stack(group, notes=notes)]
    parts = _told_apart(group, max(len(places) for places in crowded))
    if parts is None:
        most = max(len(places) for places in crowded)
        return [
            _stack(
                group,
                conflict=f"{most} different pictures at one place that nothing in the header tells apart",
                notes=notes,
            )
        ]
    conflict = ""
    if all(len(part) == 1 for _, part in parts):
        conflict = f"one of {len(parts)} pictures of one place (a series over time, not a volume)"
    return [_stack(part, differs, conflict, notes) for differs, part in parts]


def _stack(
    group: Sequence[Slice],
    differs: tuple[tuple[str, str], ...] = (),
    conflict: str = "",
    notes: tuple[str, ...] = (),
) -> Stack:
    order = np.argsort(locations(group), kind="stable")
    ordered = tuple(group[n] for n in order)
    return Stack(ordered, differs, conflict or _conflict(ordered), notes)


def _conflict(slices: Sequence[Slice]) -> str:
    """Why pictures of one orientation and different places are still not one volume."""
    if len({s.patient for s in slices}) > 1:
        return f"files of {len({s.patient for s in slices})} patients under one series"
    if len({s.frame_of_reference for s in slices} - {""}) > 1:
        return "two frames of reference under one series"
    sizes = Counter((s.columns, s.rows) for s in slices)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        odd = next(s for s in slices if (s.columns, s.rows) != usual)
        return (
            f"pictures of different sizes: {odd.name} has {odd.columns}x{odd.rows} pixels, "
            f"the others {usual[0]}x{usual[1]}"
        )
    spacings = np.array([(s.row_spacing, s.column_spacing) for s in slices])
    if np.abs(spacings - spacings[0]).max() > 1e-3 * spacings[0].min():
        return "pictures of different pixel spacing"
    return ""


def _crowded(group: Sequence[Slice]) -> list[list[Slice]]:
    """Sets of pictures that lie at one place along the normal."""
    order = sorted(group, key=lambda s: (float(s.position @ group[0].normal), s.sop_uid, s.frame or 0))
    places = locations(order)
    sets: list[list[Slice]] = [[order[0]]]
    for one, gap in zip(order[1:], np.diff(places)):
        if gap < SAME_PLACE_MM:
            sets[-1].append(one)
        else:
            sets.append([one])
    return [s for s in sets if len(s) > 1]


def _drop_copies(group: list[Slice], crowded: list[list[Slice]]) -> tuple[list[Slice], tuple[str, ...]]:
    """Removes pictures whose pixels and place equal another's."""
    dropped: list[Slice] = []
    for together in crowded:
        seen: dict[tuple[str, ...], Slice] = {}
        for one in together:
            mark = (one.patient, *map(str, np.round(one.position, 3)), *_told_by(one), pixel_digest(one))
            if mark in seen:
                dropped.append(one)
            seen.setdefault(mark, one)
    if not dropped:
        return group, ()
    names = ", ".join(one.name for one in dropped[:5]) + (" ..." if len(dropped) > 5 else "")
    gone = {id(one) for one in dropped}
    return [s for s in group if id(s) not in gone], (f"{len(dropped)} duplicate slices dropped ({names})",)


def _told_by(one: Slice) -> tuple[str, ...]:
    """Values that make a difference even where pixels are equal (an empty phase is a phase)."""
    strong = ("TemporalPositionIdentifier", "TemporalPositionIndex", "EchoNumbers", "DiffusionBValue")
    return tuple(one.values.get(name, "") for name in strong)


def pixel_digest(one: Slice) -> str:
    """A hash of the picture's stored pixels and rescale values; of a frame, its file and number."""
    if one.frame is not None:
        return f"{one.sop_uid}/{one.frame}"
    from pydicom import dcmread

    from medseg.io.dicom.pixels import frame_rescales

    data = dcmread(one.path, specific_tags=["PixelData", *RESCALE, *FUNCTIONAL_GROUPS], force=True)
    scale = f"{(rescale := frame_rescales(data)[0]).slope} {rescale.intercept}"
    return hashlib.sha256(bytes(data.get("PixelData", b"")) + scale.encode()).hexdigest()


def _told_apart(
    group: list[Slice], most: int
) -> list[tuple[tuple[tuple[str, str], ...], list[Slice]]] | None:
    """Parts without two pictures of one place, told apart by as few header values as possible.

    There must be as many parts as there are pictures at the fullest place: a value that differs in every file (a
    time of day) splits a volume into single pictures and explains nothing.
    """
    names = [n for n in DISTINGUISHING if len({s.values.get(n, "") for s in group}) > 1]
    keys: list[tuple[tuple[str, ...], Callable[[Slice], tuple[str, ...]]]] = []
    for count in (1, 2):
        for chosen in combinations(names, count):
            keys.append((chosen, lambda s, chosen=chosen: tuple(s.values.get(n, "") for n in chosen)))  # type: ignore[misc]
    keys += [
        (("series",), lambda s: (s.series_uid,)),
        (("file",), lambda s: (s.sop_uid if s.frame is not None else "",)),
    ]
    for chosen, key in keys:
        parts: dict[tuple[str, ...], list[Slice]] = defaultdict(list)
        for one in group:
            parts[key(one)].append(one)
        if len(parts) == most and not any(_crowded(part) for part in parts.values()):
            return [
                (_named(chosen, values, n), parts[values])
                for n, values in enumerate(sorted(parts, key=_number))
            ]
    return None


def _number(values: tuple[str, ...]) -> tuple:
    """Sorts 2 before 10, and texts after numbers."""
    out: list[tuple[int, float, str]] = []
    for value in values:
        try:
            out.append((0, float(value), ""))
        except ValueError:
            out.append((1, 0.0, value))
    return tuple(out)


def _named(chosen: tuple[str, ...], values: tuple[str, ...], rank: int) -> tuple[tuple[str, str], ...]:
    """What differs, in words; numbers that cannot identify anybody are shown, of others only the rank."""
    return tuple(
        (DISTINGUISHING.get(name, name), _plain(value) if name in SHOWN else f"no. {rank + 1}")
        for name, value in zip(chosen, values)
    )


def _plain(value: str) -> str:
    try:
        return f"{float(value):g}"
    except ValueError:
        return "none" if not value else "other"


def spacing_of(stack: Stack, tolerance: float) -> Spacing:
    """Distances along the normal and what is wrong with them.

    tolerance: allowed relative deviation of a distance from the typical one.
    """
    places = stack.places
    if len(places) == 1:
        return Spacing(_thickness(stack), (), 0.0, places)
    gaps = np.diff(places)
    if gaps.min() < SAME_PLACE_MM:  # only where the stack is a conflict, whose reason says more
        return Spacing(float(np.median(gaps)), (), 0.0, places)
    typical = float(np.median(gaps))
    # Most distances may be gaps where many slices are missing: the smallest distance then is the true one.
    smallest = float(gaps.min())
    ratio = typical / smallest
    if ratio > 1.5 and abs(ratio - round(ratio)) < 0.05 * ratio:
        typical = smallest
    faults = []
    for number, gap in enumerate(gaps):
        if abs(gap - typical) <= max(tolerance * typical, 2 * SAME_PLACE_MM):
            continue
        missing = gap / typical - 1
        before, after = stack.slices[number], stack.slices[number + 1]
        between = (
            f"between {before.name} and {after.name} ({places[number]:.2f} and {places[number + 1]:.2f} mm)"
        )
        if missing > 0.5 and abs(missing - round(missing)) < 0.05:
            faults.append(
                f"{round(missing)} slice(s) missing {between}: {gap:.2f} mm instead of {typical:.2f}"
            )
        else:
            faults.append(f"uneven distance {between}: {gap:.2f} mm instead of {typical:.2f}")
    return Spacing(typical, tuple(faults), _tilt(stack), places)


def _thickness(stack: Stack) -> float:
    return float(stack.first.thickness or 0.0)


def _tilt(stack: Stack) -> float:
    step = stack.slices[-1].position - stack.first.position
    along = float(step @ stack.first.normal)
    sideways = float(np.linalg.norm(step - along * stack.first.normal))
    return float(np.degrees(np.arctan2(sideways, abs(along))))


def wander_mm(stack: Stack) -> float:
    """How far pictures lie beside the straight line through the first and the last."""
    if len(stack.slices) < 3:
        return 0.0
    positions = np.array([s.position for s in stack.slices])
    places = stack.places
    share = (places - places[0]) / (places[-1] - places[0])
    line = positions[0] + share[:, None] * (positions[-1] - positions[0])
    return float(np.linalg.norm(positions - line, axis=1).max())


def geometry_of(stack: Stack, distance_mm: float, count: int) -> Geometry:
    """The grid (columns, rows, slices) in RAS+ mm of `count` evenly spaced pictures; a tilt is kept as shear."""
    first = stack.first
    affine = np.eye(4)
    affine[:3, 0] = first.along_columns * first.column_spacing
    affine[:3, 1] = first.along_rows * first.row_spacing
    affine[:3, 2] = first.normal * distance_mm
    if len(stack.slices) > 1:
        step = stack.slices[-1].position - first.position
        # The whole way divided evenly: rounding of single positions does not add up.
        affine[:3, 2] = step * (distance_mm / float(step @ first.normal))
    affine[:3, 3] = first.position
    return Geometry((first.columns, first.rows, count), LPS_TO_RAS @ affine)
