"""The rows of a cohort: one case each, with its files. Rows hold paths, so they are private (see `cohort.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import ClassSpec
from medseg.core.segmentation import ClassInfo

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CaseRow:
    """One case of a cohort, not yet read.

    case: the name its results carry. patient: the key that splits keep together.
    images: one entry a channel: a path, or the files of one DICOM series.
    labels: label column ("label", "label_heart") -> path.
    split: train, val, test or "" (not said). fold: cross-validation fold, None when not said.
    known: names of the classes that were drawn in this case; None means all of them.
    values: class -> (column, label values) where this case's files write classes in their own way; None: as the cohort.
    rest_is_background: label values that belong to no class count as background instead of being an error.
    place: where the case was named ("line 7"), for messages. trouble: why it cannot be used, found while listing.
    prompt: the file of its prompt (points, boxes, scribbles of a person); "" where the cohort names none.
    """

    case: str
    patient: str
    images: tuple[tuple[str, ...], ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    fold: int | None = None
    known: tuple[str, ...] | None = None
    values: Mapping[str, tuple[str, tuple[int, ...]]] | None = None
    rest_is_background: bool = False
    place: str = ""
    trouble: str = ""
    prompt: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the case, images first."""
        return (*(name for channel in self.images for name in channel), *self.labels.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` makes the same row of them."""
        values = None if self.values is None else {k: [c, list(v)] for k, (c, v) in self.values.items()}
        return {
            "case": self.case,
            "patient": self.patient,
            "images": [list(channel) for channel in self.images],
            "labels": dict(self.labels),
            "split": self.split,
            "fold": self.fold,
            "known": None if self.known is None else list(self.known),
            "values": values,
            "rest_is_background": self.rest_is_background,
            "place": self.place,
            "trouble": self.trouble,
            "prompt": self.prompt,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> CaseRow:
        values = facts["values"]
        return cls(
            **{
                **facts,
                "images": tuple(tuple(channel) for channel in facts["images"]),
                "known": None if facts["known"] is None else tuple(facts["known"]),
                "values": None if values is None else {k: (c, tuple(v)) for k, (c, v) in values.items()},
            }
        )


@dataclass(frozen=True)
class Cohort:
    """The cases of a journey.

    rows: the cases. classes: without background; empty when they are still to be read from the labels.
    layout: how the data lies, in words. notes: what was assumed. left_out: (name, reason) of what was not taken.
    channels: names of the image channels. patients_known: whether the patient keys come from somewhere.
    checksum: what a data set description says its files hash to; "" when it says nothing.
    doubtful_words: how many words at the beginning of the names may name a patient with several scans; 0: no doubt.
    """

    rows: tuple[CaseRow, ...]
    classes: tuple[ClassInfo, ...] = ()
    layout: str = ""
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    channels: tuple[str, ...] = ()
    patients_known: bool = True
    checksum: str = ""
    doubtful_words: int = 0

    @property
    def n_patients(self) -> int:
        return len({row.patient for row in self.rows})


@dataclass(frozen=True)
class Found:
    """What a layout found in a folder, before splits and hashed names.

    classes: as the data set's own file names them; empty when it does not. raw_names: whether case names are made
    of header values (DICOM), so that they must not be shown as they are.
    """

    rows: tuple[CaseRow, ...]
    layout: str
    classes: Mapping[str, ClassSpec] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    channels: tuple[str, ...] = ()
    patients_known: bool = False
    raw_names: bool = False
    checksum: str = ""


def column_name(name: str) -> str:
    """The full name of a label column: `heart` and `label_heart` are one, `label` stays."""
    return name if name == "label" or name.startswith("label_") else f"label_{name}"


def hidden(path: Path) -> bool:
    """Whether a file is the system's own (`.DS_Store`, `._x.nii.gz`, `Thumbs.db`), not data."""
    return path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini", "__MACOSX")


def counted(items: Iterable[object], few: int = 6) -> str:
    """`a, b, c and 14 more`."""
    names = [str(item) for item in items]
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more
