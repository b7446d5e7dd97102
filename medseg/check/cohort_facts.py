"""What the cases say together: check.json."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from medseg.check.examine import Examined
from medseg.check.grids import census_notes, orientation_census
from medseg.check.labels import drawn_in, uneven_classes
from medseg.config import Data
from medseg.core.run import Result
from medseg.data.classes import overlap, sources_of
from medseg.data.rows import CaseRow, Cohort


def check_facts(cohort: Cohort, data: Data, usable: Sequence[Examined], result: Result) -> dict[str, Any]:
    """check.json: counts, classes, splits, census, reasons. Holds no path and no header value."""
    facts = [e.facts for e in usable]
    voxels = [e.label.voxels for e in usable if e.label is not None]
    splits = Counter(e.row.split or "none" for e in usable)
    notes = [*cohort.notes, *census_notes(facts)]
    if data.background is not None:  # where every pixel has a class, a class may well be absent
        notes += uneven_classes(voxels, cohort.classes)
    notes += _counted_notes(usable) + _checksum_note(cohort, usable)
    return {
        "layout": cohort.layout,
        "cases": len(cohort.rows),
        "patients": cohort.n_patients,
        "labelled": len(voxels),
        "counts": result.counts(),
        "failed": result.failed,
        "skipped": result.skipped,
        "review": result.review,
        "left_out": [{"name": name, "reason": reason} for name, reason in cohort.left_out],
        "modality": data.modality,
        "channels": list(cohort.channels),
        "classes": [info.as_json() for info in cohort.classes],
        "overlapping": _overlapping(cohort, data),
        "background": data.background,
        "ignore": data.ignore,
        "class_cases": drawn_in(voxels, cohort.classes),
        "orientation": orientation_census(facts),
        "splits": dict(splits),
        "notes": notes,
    }


def _overlapping(cohort: Cohort, data: Data) -> bool:
    if data.classes:
        return data.overlapping
    return any(overlap(sources_of(row, data, cohort.classes)) for row in cohort.rows[:1])


def _counted_notes(usable: Sequence[Examined]) -> list[str]:
    """What readers assumed, each kind of sentence once (numbers aside) with the number of cases, most frequent first."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for note in (note for e in usable for note in dict.fromkeys(e.notes)):
        kinds[re.sub(r"[-+]?\d+(\.\d+)?", "#", note)].append(note)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    return [notes[0] + (f" ({len(notes)} cases)" if len(notes) > 1 else "") for notes in ordered[:12]]


def mask_note(examined: Sequence[Examined]) -> list[str]:
    """A sentence where nothing is labelled and every image that could be read is a label map by its numbers."""
    if not examined or any(e.label for e in examined) or not all(e.mask_like for e in examined):
        return []
    number = f"all {len(examined)} images hold" if len(examined) > 1 else "the image holds"
    high = max(e.facts["maximum"] for e in examined)
    return [
        f"{number} only few whole numbers (0 to {high:g}): these look like label masks; give the folder of the"
        " images, or one above it that holds images and labels"
    ]


def _checksum_note(cohort: Cohort, usable: Sequence[Examined]) -> list[str]:
    if not cohort.checksum or len(usable) < len(cohort.rows):
        return []
    found = checksum_of([h for e in usable for h in e.file_hashes])
    if found == cohort.checksum.removeprefix("sha256:"):
        return []
    return [
        f"the files are not those of the description (checksum {found[:12]} instead of"
        f" {cohort.checksum.removeprefix('sha256:')[:12]}): a part of the set, or another release"
    ]


def checksum_of(hashes: Sequence[str]) -> str:
    """sha256 over the sorted sha256 of files: what a description's `checksum` is compared with."""
    return sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def same_images(images: Sequence[tuple[CaseRow, str]]) -> Mapping[str, str]:
    """Case -> a sentence, for cases whose image files are equal byte by byte."""
    groups: dict[str, list[CaseRow]] = defaultdict(list)
    for row, content in images:
        groups[content].append(row)
    found = {}
    for rows in groups.values():
        for row in rows if len(rows) > 1 else []:
            others = [other.case for other in rows if other is not row]
            leak = len({r.split for r in rows}) > 1
            found[row.case] = f"the same image as case {others[0]}" + (", in another split" if leak else "")
    return found
