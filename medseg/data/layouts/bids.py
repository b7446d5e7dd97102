"""Brain Imaging Data Structure (BIDS 1.8): `sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz`, labels beside or in derivatives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from medseg.config import Data
from medseg.core.errors import Question, UserError
from medseg.data.layouts.names import folders_below, readable_files
from medseg.data.manifest import safe_name
from medseg.data.rows import CaseRow, Found, column_name, counted
from medseg.io.names import stem_of

DRAWN = {"dseg", "mask", "seg", "roi", "lesion"}
"""Suffixes of files that hold whole-numbered labels."""

NOT_TAKEN = {"probseg", "bold", "sbref", "dwi", "epi", "phasediff", "magnitude1", "magnitude2", "xfm", "warp"}
"""Suffixes of files that are neither an image to segment nor a label of whole numbers."""

OWN_SPACE = {"orig", "native", "individual", "scanner", "t1w", "t2w", "flair", "ct", "pet"}
"""Values of the entity `space` that say: on the grid of the subject's own image."""

TELLS_APART = ("sub", "ses", "acq", "ce", "rec", "run", "dir", "echo", "part")
"""Entities that make two images of one suffix different images; a label has those of its image, or fewer."""

DEPTH = 6
"""`derivatives/pipeline/sub-01/ses-1/anat` lies five folders down."""


class Named(NamedTuple):
    """A file and what its name says: entities (`sub` -> `01`) and the suffix, the last word."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, self.entities[name]) for name in TELLS_APART if name in self.entities)


def find(root: Path, data: Data) -> Found | None:
    """The cases of a BIDS folder, one an image; None where no folder `sub-<label>` lies in it.

    Images are those of one suffix (T1w, FLAIR, CT ...); where there are several, data.channels says which, and more
    than one are stacked as channels. Raises Question where nothing says it, UserError where a named one is not there.
    """
    if not root.is_dir() or not any(
        p.is_dir() and re.match(r"sub-[A-Za-z0-9]+$", p.name) for p in root.iterdir()
    ):
        return None
    named = [n for folder in folders_below(root, DEPTH) for f in readable_files(folder) if (n := named_by(f))]
    raw = [n for n in named if "derivatives" not in n.path.relative_to(root).parts]
    images = [n for n in raw if n.suffix not in DRAWN | NOT_TAKEN and "space" not in n.entities]
    if not images:
        return None
    drawn_files = [n for n in named if n.suffix in DRAWN]
    channels = _channels(images, drawn_files, data, root)
    labels, left_out = _labels(drawn_files, images, channels[0])
    rows = []
    for first in (n for n in images if n.suffix == channels[0]):
        others = [_same(first, images, suffix) for suffix in channels[1:]]
        lacks = [suffix for suffix, other in zip(channels[1:], others) if other is None]
        files = [first.path, *(other.path for other in others if other)]
        case = safe_name(re.sub(f"_{re.escape(first.suffix)}$", "", stem_of(first.path)))
        trouble = f"no file of this case with the suffix {counted(lacks)}" if lacks else ""
        drawn = {column: str(path) for column, path in labels.get(first.path, {}).items()}
        patient = f"sub-{first.entities['sub']}"
        rows.append(CaseRow(case, patient, tuple((str(f),) for f in files), drawn, trouble=trouble))
    unused = sorted({n.suffix for n in images} - set(channels))
    notes = (
        [f"images of other kinds not used: {counted(unused)} (data.channels names the wanted)"]
        if unused
        else []
    )
    return Found(
        tuple(_one_column(rows)),
        f"BIDS: {' + '.join(channels)} images",
        notes=("patients are the subjects (`sub-<label>`)", *notes),
        left_out=tuple(left_out),
        channels=tuple(channels) if len(channels) > 1 else (),
        patients_known=True,
    )


def named_by(path: Path) -> Named | None:
    """Entities and suffix of a file name, None where it is not of BIDS's kind."""
    words = stem_of(path).split("_")
    pairs = [word.split("-", 1) for word in words if "-" in word]
    loose = [word for word in words if "-" not in word]
    if not pairs or pairs[0][0] != "sub" or not loose:
        return None
    return Named(path, dict(pairs), loose[-1])


def _channels(images: Sequence[Named], drawn: Sequence[Named], data: Data, root: Path) -> list[str]:
    there = Counter(n.suffix for n in images)
    if data.channels:
        if absent := [name for name in data.channels if name not in there]:
            raise UserError(f"no image has the suffix {counted(absent)}; there are {counted(there)}", str(root),
                            "data.channels names suffixes of BIDS images")  # fmt: skip
        return list(data.channels)
    if len(there) == 1:
        return list(there)
    # The kind that labels were drawn on stands first.
    words = Counter(
        word for n in drawn for word in (*stem_of(n.path).split("_"), n.entities.get("space", ""))
    )
    kinds = sorted(there, key=lambda suffix: (-words[suffix], -there[suffix], suffix))
    raise Question(
        f"{len(there)} kinds of images, and nothing says which to segment",
        str(root),
        [f"{there[suffix]} {suffix}" for suffix in kinds],
        [(f"the {suffix} images", f"data.channels=[{suffix}]") for suffix in kinds]
        + [("all, stacked as channels of one grid", f"data.channels=[{', '.join(kinds)}]")],
    )


def _same(first: Named, images: Sequence[Named], suffix: str) -> Named | None:
    """The image of another suffix with the same entities."""
    found = [n for n in images if n.suffix == suffix and n.key == first.key]
    return found[0] if len(found) == 1 else None


def _labels(
    drawn: Sequence[Named], images: Sequence[Named], suffix: str
) -> tuple[dict[Path, dict[str, Path]], list[tuple[str, str]]]:
    """Image -> label column -> file; and what could not be given to one image, with the reason."""
    found: dict[Path, dict[str, Path]] = {}
    left_out = []
    for label in drawn:
        space = label.entities.get("space", "")
        other = any(f"_{n.suffix}_" in label.path.name and n.suffix != suffix for n in images)
        fits = [n for n in images if n.suffix == suffix and set(label.key) <= set(n.key)]
        if space and space.lower() not in OWN_SPACE:
            reason = f"a label in the space {space}, not on the subject's own image"
        elif other or (space and space in {n.suffix for n in images} - {suffix}):
            reason = "a label of another kind of image"
        elif len(fits) != 1:
            reason = f"a label that fits {len(fits)} images"
        else:
            columns = found.setdefault(fits[0].path, {})
            column = column_name(_what(label))
            if column in columns:
                left_out.append(
                    (label.path.name, f"a second label of this name beside {columns[column].name}")
                )
            else:
                columns[column] = label.path
            continue
        left_out.append((label.path.name, reason))
    return found, left_out


def _what(label: Named) -> str:
    """What a label file holds: its entity `label`, else `desc`, else its suffix."""
    word = label.entities.get("label") or label.entities.get("desc") or label.suffix
    return re.sub(r"\W+", "_", word)


def _one_column(rows: Sequence[CaseRow]) -> list[CaseRow]:
    """The column is called `label` where all cases have the same one."""
    columns = {column for row in rows for column in row.labels}
    if len(columns) != 1:
        return list(rows)
    return [replace(row, labels=dict(zip(("label",), row.labels.values()))) for row in rows]
