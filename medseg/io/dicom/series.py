"""One series of a folder as people see it: how many slices, how far apart, in which plane, of which kernel."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import Question
from medseg.io.dicom.stacks import Stack, is_localizer, spacing_of

LOCALIZER_DISTANCE_MM = 20.0
REFORMATTED = frozenset(
    ("MPR", "REFORMATTED", "RESAMPLED", "PROJECTION IMAGE", "MIP", "MINIP", "CSA MPR", "VOLREN")
)
KERNELS = re.compile(
    r"[A-Za-z]{1,2}\d{1,3}[a-z]{0,2}(_\d|\+)?|FC\d{2,3}|STD\+?|STANDARD|SOFT|BONE|BONEPLUS|LUNG|DETAIL|CHEST|EDGE|SMOOTH"
)


@dataclass(frozen=True)
class Series:
    """One volume's worth of pictures: a DICOM series, or the part of one that shares phase, echo, b-value ...

    key: hashable, the same whatever the order of files; its second part, `id`, may be shown and be given in
        `data.select.series`.
    files: sorted by position along the normal.
    patient_key, study_uid, series_uid, description: private facts of the header.
    spacing: (between columns, between rows, between slices) in mm. orientation: axial, coronal, sagittal, oblique.
    facts: everything else; `conflict` says why the pictures are no volume, `faults` names gaps, `differs` what
        tells this part from others of its series, `notes` what was dropped.
    """

    key: tuple[str, str]
    files: tuple[Path, ...]
    patient_key: str
    study_uid: str
    series_uid: str
    modality: str
    description: str
    n_slices: int
    spacing: tuple[float, float, float]
    orientation: str
    kernel: str
    frame_of_reference: str
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @property
    def id(self) -> str:
        """A short name that identifies nobody."""
        return self.key[1]

    def describe(self) -> str:
        """One line for people, without header texts that could name a patient."""
        spacing = "x".join(f"{s:.3g}" for s in self.spacing)
        size = f"{self.facts.get('columns', '?')}x{self.facts.get('rows', '?')}"
        parts = [
            f"{self.id}",
            self.modality,
            f"{self.n_slices} slices",
            size,
            f"{spacing} mm",
            self.orientation,
        ]
        if self.kernel:
            parts.append(f"kernel {short_kernel(self.kernel)}")
        parts += [f"{name} {value}" for name, value in self.facts.get("differs", ())]
        return "  ".join(parts)


def short_kernel(kernel: str) -> str:
    """A reconstruction kernel as it may be shown: names as vendors give them; free text is not repeated."""
    first = kernel.split("\\")[0].strip()
    return first if KERNELS.fullmatch(first) else "of another name"


def series_of(stack: Stack, tolerance: float) -> Series:
    """The facts of one stack."""
    first = stack.first
    files = tuple(dict.fromkeys(s.path for s in stack.slices))
    mark = "\0".join((first.series_uid, repr(stack.differs), _direction(stack), str(is_localizer(first))))
    spacing = spacing_of(stack, tolerance)
    conflict = stack.conflict
    if not conflict and any(s.frame is not None for s in stack.slices) and len(files) > 1:
        conflict = f"a volume spread over {len(files)} multi-frame files"
    return Series(
        (first.series_uid, hashlib.sha256(mark.encode()).hexdigest()[:8]), files, first.patient, first.study_uid,
        first.series_uid, first.modality, first.description, len(stack.slices),
        (first.column_spacing, first.row_spacing, spacing.distance_mm), plane_of(stack), first.kernel,
        first.frame_of_reference,
        {
            "conflict": conflict, "faults": spacing.faults, "differs": stack.differs, "notes": stack.notes,
            "tilt_degrees": spacing.tilt_degrees, "rows": first.rows, "columns": first.columns,
            "image_type": first.image_type, "series_number": first.series_number,
            "localizer": _is_localizer(stack, spacing.distance_mm), "reformatted": _is_reformatted(stack),
        },
    )  # fmt: skip


def _direction(stack: Stack) -> str:
    return " ".join(f"{v:.2f}" for v in (*stack.first.along_columns + 0.0, *stack.first.along_rows + 0.0))


def plane_of(stack: Stack) -> str:
    """axial, coronal or sagittal where the normal lies within 30 degrees of an axis of the patient, else oblique."""
    normal = np.abs(stack.first.normal)
    axis = int(normal.argmax())
    return ("sagittal", "coronal", "axial")[axis] if normal[axis] > 0.866 else "oblique"


def _is_localizer(stack: Stack, distance_mm: float) -> bool:
    """By its header, or by slices so far apart that they show the way instead of a volume."""
    far = len(stack.slices) > 1 and distance_mm > LOCALIZER_DISTANCE_MM
    return is_localizer(stack.first) or far


def _is_reformatted(stack: Stack) -> bool:
    """Whether the pictures were computed from another series (MPR, MIP ...)."""
    kinds = {part.upper() for part in stack.first.image_type}
    return bool(kinds & REFORMATTED) or ("DERIVED" in kinds and "SECONDARY" in kinds and "AXIAL" not in kinds)


class SeriesTie(Question):
    """Several series fit equally; the faults list them and the reasons why others were left; a person chooses."""
