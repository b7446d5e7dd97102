"""`medseg init FOLDER`: a commented pipeline file for the data that lies in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.check.labels import drawn_names
from medseg.check.voxels import looks_like_mask
from medseg.config import ClassSpec, Data
from medseg.core.case import Image
from medseg.core.errors import Question, UserError
from medseg.core.label_values import value_counts
from medseg.core.progress import say
from medseg.data.classes import specs_from_values
from medseg.data.cohort import find_cases, resolved
from medseg.data.manifest import safe_name
from medseg.data.reading import read_columns, read_image
from medseg.data.rows import Cohort

LOOKED_AT = 20
"""Labels that are opened to find the classes."""


def draft_pipeline(folder: Path) -> str:
    """The text of a pipeline file: layout, kind of image, classes and system as far as the data tells.

    Raises UserError when the folder holds no image that can be read.
    """
    data, channels = Data(root=str(folder)), ""
    try:
        cohort = find_cases(data, folder)
    except Question as question:
        data, channels = _first_kind(question, data)
        cohort = find_cases(data, folder)
    data = resolved(data, folder)
    image = _first_image(cohort, data)
    masks = _mask_note(cohort, data)
    modality, why = guess_modality(image, data)
    classes = data.classes or _classes_in_labels(cohort, data)
    facts = [f"  modality: {modality}  # {why}", *([channels] if channels else [])]
    return _text(folder, replace(cohort, notes=(*masks, *cohort.notes)), image, facts, classes)


def _first_kind(question: Question, data: Data) -> tuple[Data, str]:
    """Data with the likeliest of several kinds of images, and the line that says so beside the others."""
    settings = [setting.removeprefix("data.channels=") for _, setting in question.choices]
    if not all(setting.startswith("data.channels=") for _, setting in question.choices):
        raise question
    first, others = settings[0], ", ".join(settings[1:])
    line = f"  channels: {first}  # the kind of image, as the names end; there is also {others}"
    return data.model_copy(update={"channels": first.strip("[]").split(", ")}), line


def _first_image(cohort: Cohort, data: Data) -> Image:
    troubles = []
    for row in cohort.rows[:LOOKED_AT]:
        try:
            return read_image(row, data)
        except UserError as err:
            troubles.append(f"case {row.case}: {err.what}")
    raise UserError(f"none of the first {len(troubles)} images can be read", "data", faults=troubles[:5])


def _mask_note(cohort: Cohort, data: Data) -> list[str]:
    """A sentence, also said, where a folder without labels seems to hold nothing but masks."""
    if any(row.labels for row in cohort.rows):
        return []
    for row in cohort.rows[:LOOKED_AT]:
        try:
            if not looks_like_mask(read_image(row, data).array):
                return []
        except UserError:
            continue  # `medseg check` names it
    note = (
        "the images hold only few whole numbers: these look like label masks; give the folder of the images"
    )
    say(f"  {note}")
    return [note]


def guess_modality(image: Image, data: Data) -> tuple[str, str]:
    """(kind of image, why): from the header where it says so, else from the numbers."""
    if data.modality != "other":
        return data.modality, "the data set says so"
    if image.modality in ("CT", "MR"):
        return image.modality.lower(), "the header says so"
    if image.geometry.unit == "px":
        if image.array.shape[0] >= 3:
            return "photo", "colour; em or xray where that is what they are"
        return "other", "grey pictures: xray and em have settings of their own"
    if float(image.array.min()) < -200:
        return "ct", "guessed: values below -200, as air has in Hounsfield units"
    return "mr", "guessed: a volume without values below -200; correct it if this is no MR"


def _classes_in_labels(cohort: Cohort, data: Data) -> dict[str, ClassSpec]:
    """A class a value, called as the label files call it; where those are DICOM, a class a name."""
    values: dict[str, set[int]] = {}
    names: dict[str, str] = {}
    unnamed = False
    labelled = [row for row in cohort.rows if row.labels and not row.trouble]
    for row in labelled[:LOOKED_AT]:
        try:
            columns = read_columns(row, data, ())
        except UserError:
            continue  # `medseg check` names it; a draft needs only some labels
        for column, seg in columns.items():
            found = value_counts(seg.labels)
            values.setdefault(column, set()).update(found)
            called = drawn_names(seg)
            unnamed |= not called
            # Numbers follow the order of drawing; names say what was drawn.
            for name in (name for value, name in called.items() if value in found):
                names.setdefault(name.casefold(), name)
    if names and not unnamed:
        return {name: ClassSpec(values=[n]) for n, name in enumerate(names.values(), 1)}
    return specs_from_values({column: sorted(found) for column, found in values.items()}, data)


def _text(
    folder: Path, cohort: Cohort, image: Image, facts: Sequence[str], classes: Mapping[str, ClassSpec]
) -> str:
    system = "3d-u-net" if image.geometry.ndim == 3 else "u-net"
    labelled = sum(bool(row.labels) for row in cohort.rows)
    table = "".join(f"    {_quoted(name)}: {_values(spec)}\n" for name, spec in classes.items())
    head = [
        f"# Written by `medseg init`. Found: {cohort.layout}; {len(cohort.rows)} cases, {labelled} with a label.",
        *(f"# {note}" for note in cohort.notes),
        "# `medseg check` with this file looks at every case; `medseg run` walks the whole road.",
        f"name: {_journey_name(folder)}",
        "data:",
        f"  root: {_quoted(str(folder.resolve()))}",
        *facts,
    ]
    if classes:
        dicom = cohort.layout.startswith("DICOM") and not any(n.startswith("class ") for n in classes)
        hint = "of every class in the label files; " + (
            "a DICOM label file is matched by name" if dicom else "call them what they are"
        )
        classes_text = f"  classes:\n    # name: value {hint}\n{table}"
    else:
        classes_text = "  # No labels found: train needs them; to predict only, give --model FOLDER.\n"
    tail = (
        "  split: {folds: 5, fold: 0, by: patient}  # a table with a patient column keeps scans of a person together\n"
        f"system: {system}  # `medseg list --dims {image.geometry.ndim}` shows the others\n"
        "train:\n  minutes: 30  # or steps: 20000\n"
        "predict:\n  overlap: 0.5\n"
        "score:\n  metrics: [dice, iou, hd95_mm, nsd, volume_error_percent]\n"
    )
    return "\n".join(head) + "\n" + classes_text + tail


def _values(spec: ClassSpec) -> str:
    """How a class is written in the pipeline file: `1`, `[1, 2]`, or with the column it is drawn in."""
    values = str(spec.values[0]) if len(spec.values) == 1 else str(spec.values)
    return values if spec.column == "label" else f"{{values: {values}, column: {spec.column}}}"


def _quoted(text: str) -> str:
    """A YAML scalar on one line; quoted where it could be read as something else than a text."""
    plain = re.fullmatch(r"[^\W\d_][\w -]*\w", text) and text.lower() not in (
        "true",
        "false",
        "yes",
        "no",
        "null",
        "on",
        "off",
    )
    return text if plain else json.dumps(text, ensure_ascii=False)


def _journey_name(folder: Path) -> str:
    """A folder's name as the name of a journey: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^\w.-]+", "_", safe_name(folder.resolve().name))[:80] or "journey"
