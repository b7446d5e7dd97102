"""Files of prompts -> `Prompt`: medseg's own JSON, markups of 3D Slicer, listed boxes, masks of scribbles.

medseg's JSON holds points, boxes, scribbles and text, all of them optional, places in mm of the patient for volumes
(`frame`: RAS, or LPS as ITK and DICOM count) and as row, column in px for photographs:

    {"frame": "RAS",
     "points":    [{"class": "liver", "at": [12.5, -40, 88]}, {"class": "background", "at": [60, -40, 88]}],
     "boxes":     [{"class": "liver", "low": [-30, -90, 40], "high": [60, 10, 130]}],
     "scribbles": [{"class": "liver", "line": [[0, -40, 88], [20, -40, 88]]}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean
from medseg.core.geometry import Geometry
from medseg.core.prompt import BACKGROUND_SEED, Prompt
from medseg.core.segmentation import ClassInfo

KEYS = ("frame", "points", "boxes", "scribbles", "text")
FRAMES = {"RAS": (1.0, 1.0, 1.0), "LPS": (-1.0, -1.0, 1.0)}
MAX_BYTES = 50_000_000
Places = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coding:
    """What files of prompts mean.

    classes: the classes that names stand for; the first is 1 in the prompt, the second 2 ... background: the value of
    background in masks of scribbles. box: which of several boxes a listed case has. case: the entry of a file that
    lists all cases.
    """

    classes: tuple[ClassInfo, ...]
    background: int = BACKGROUND_SEED
    box: str | None = None
    case: str = ""

    def value(self, word: Any, where: str) -> int:
        """The number in the prompt of a class's name or label value; 0 for background. UserError for others."""
        if word == 0 or str(word).strip().lower() == "background":
            return 0
        for number, info in enumerate(self.classes, 1):
            if word == info.index or info.name.lower() == str(word).strip().lower():
                return number
        names = [info.name for info in self.classes]
        raise UserError(
            f"a prompt names the class {word!r}, which there is not{did_you_mean(str(word), names)}",
            where,
            f"the classes are {', '.join(names) or 'none'}, and background",
        )


def read_prompt(path: Path, geometry: Geometry, coding: Coding) -> Prompt:
    """Reads a file of prompts for an image on `geometry`.

    Raises UserError for a file that cannot be read, for unknown classes and frames, for places with too few or too
    many numbers, for a case that a list lacks, and for a mask on another grid than the image's.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("the file of its prompt does not exist", str(path))
    if path.suffix.lower() != ".json":
        return _mask_of(path, geometry, coding)
    document = _document(path)
    if "markups" in document:
        return _of_markups(document, geometry, coding, str(path))
    if not set(document) & set(KEYS):
        document = _entry(document, coding.case, str(path))
    if not set(document) & set(KEYS):
        return _listed_box(document, geometry, coding, str(path))
    return of_json(document, geometry, coding, str(path))


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"the prompt has {path.stat().st_size} bytes, at most {MAX_BYTES} are read", str(path)
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise UserError(f"the prompt is not JSON ({err})", str(path), "write it anew; UTF-8 text") from err
    if not isinstance(found, dict):
        raise UserError(
            f"the prompt is a {type(found).__name__}",
            str(path),
            "write an object with points, boxes or scribbles",
        )
    return found


def _entry(document: Mapping[str, Any], case: str, where: str) -> dict[str, Any]:
    """The entry of a case in a file that lists all cases; an object of its own where the file is about one case."""
    if isinstance(document.get(case), dict):
        return dict(document[case])
    entries = [key for key, value in document.items() if isinstance(value, dict)]
    if entries and len(entries) == len(document):
        raise UserError(
            f"the list of prompts has no entry for this case{did_you_mean(case, entries)}",
            where,
            "name the entries like the cases",
        )
    unknown = next(iter(document), "nothing")
    raise UserError(
        f"the prompt has the key {unknown!r}{did_you_mean(unknown, KEYS)}",
        where,
        f"it holds {', '.join(KEYS)}",
    )


# --- medseg's own -------------------------------------------------------------------------------------------------


def of_json(document: Mapping[str, Any], geometry: Geometry, coding: Coding, where: str) -> Prompt:
    """The prompt of a document in medseg's own form that is already read; UserErrors as `read_prompt` raises them."""
    if unknown := sorted(set(document) - set(KEYS)):
        raise UserError(
            f"the prompt has the key {unknown[0]!r}{did_you_mean(unknown[0], KEYS)}",
            where,
            f"it holds {', '.join(KEYS)}",
        )
    flip = _flip(document.get("frame", "RAS"), geometry, where)
    points = [_item(e, ("at",), geometry.ndim, coding, where) for e in _list(document, "points", where)]
    boxes = [_item(e, ("low", "high"), geometry.ndim, coding, where) for e in _list(document, "boxes", where)]
    lines = [_item(e, ("line",), geometry.ndim, coding, where) for e in _list(document, "scribbles", where)]
    prompt = Prompt(
        scribbles=tuple((places * flip, value) for places, value in lines),
        text=str(document.get("text", "")),
        source="a file of prompts",
    )
    if points:
        prompt = replace(
            prompt,
            points=np.concatenate([places for places, _ in points]) * flip,
            point_classes=np.array([value for _, value in points]),
        )
    if boxes:
        # A frame that runs the other way exchanges lowest and highest.
        corners = np.sort(np.stack([places for places, _ in boxes]) * flip, axis=1)
        prompt = replace(prompt, boxes=corners, box_classes=np.array([value for _, value in boxes]))
    if prompt.is_empty:
        raise UserError("the prompt is empty: no points, boxes, scribbles or text", where)
    return prompt


def _list(document: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    found = document.get(key, [])
    if not isinstance(found, list):
        raise UserError(f"{key} of the prompt is {found!r}", where, f"{key} is a list")
    return found


def _item(entry: Any, keys: Sequence[str], dims: int, coding: Coding, where: str) -> tuple[Places, int]:
    """(places (N, D), class) of one point, box or scribble."""
    if not isinstance(entry, dict) or set(entry) - {"class"} != set(keys):
        form = ", ".join(f'"{key}": [...]' for key in keys)
        raise UserError(f"a prompt has the entry {entry!r}", where, f'write {{"class": NAME, {form}}}')
    alone = coding.classes[0].name if len(coding.classes) == 1 else None
    value = coding.value(entry.get("class", alone), where)
    if keys == ("line",):
        return _places(entry["line"], dims, where), value
    return _places([entry[key] for key in keys], dims, where), value


def _places(given: Any, dims: int, where: str) -> Places:
    unit = "mm" if dims == 3 else "px: row, column"
    try:
        found = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.ndim != 2 or found.shape[1] != dims or not np.isfinite(found).all():
        shown = given[0] if isinstance(given, list) and len(given) == 1 else given
        raise UserError(
            f"a prompt has the place {shown!r}", where, f"a place here has {dims} numbers ({unit})"
        )
    return found


def _flip(frame: Any, geometry: Geometry, where: str) -> Places:
    """The signs that turn the file's axes into RAS+; photographs have none."""
    if geometry.ndim == 2:
        return np.ones(2)
    if str(frame).upper() not in FRAMES:
        raise UserError(f"the prompt's frame is {frame!r}", where, "frame is RAS or LPS")
    return np.array(FRAMES[str(frame).upper()])


# --- other programs' files ----------------------------------------------------------------------------------------


def _of_markups(document: Mapping[str, Any], geometry: Geometry, coding: Coding, where: str) -> Prompt:
    """3D Slicer: points (Fiducial) and curves; the class is the point's label (without `-1`), else the list's name."""
    parts: dict[str, list[dict[str, Any]]] = {"points": [], "scribbles": []}
    frame = "LPS"
    for markup in document["markups"]:
        frame = str(markup.get("coordinateSystem", "LPS"))
        points = [p for p in markup.get("controlPoints", []) if p.get("position")]
        if str(markup.get("type", "")).endswith(("Curve", "Line")):
            line = [p["position"] for p in points]
            parts["scribbles"].append({"class": str(markup.get("name", "")), "line": line})
            continue
        for point in points:
            label = str(point.get("label", "")).rpartition("-")[0] or str(point.get("label", ""))
            known = {info.name.lower() for info in coding.classes} | {"background"}
            name = label if label.strip().lower() in known else str(markup.get("name", label))
            parts["points"].append({"class": name, "at": point["position"]})
    prompt = of_json({"frame": frame, **parts}, geometry, coding, where)
    return replace(prompt, source="markups of 3D Slicer")


def _listed_box(entry: Mapping[str, Any], geometry: Geometry, coding: Coding, where: str) -> Prompt:
    """A photograph's [x0, y0, x1, y1], x1 and y1 excluded, under the name `coding.box` or the first that is there."""
    boxes = {k: v for k, v in entry.items() if isinstance(v, list) and len(v) == 4}
    name = coding.box or next(iter(boxes), "")
    if name not in boxes:
        raise UserError(
            f"the list has no box {name!r} for this case" if name else "the list has no box for this case",
            where,
            f"boxes of this case: {', '.join(boxes) or 'none'} (predict.prompt.box)",
        )
    shape = (int(entry.get("height", geometry.shape[0])), int(entry.get("width", geometry.shape[1])))
    if geometry.ndim != 2 or shape != geometry.shape:
        raise UserError(
            f"the box was drawn on an image of {shape[0]}x{shape[1]} px, this one has {geometry.describe()}",
            where,
        )
    x0, y0, x1, y1 = (float(v) for v in boxes[name])
    return Prompt(
        boxes=np.array([[[y0, x0], [y1, x1]]]), box_classes=np.array([1]), source=f"listed box '{name}'"
    )


# --- masks of scribbles -------------------------------------------------------------------------------------------


def _mask_of(path: Path, geometry: Geometry, coding: Coding) -> Prompt:
    """A picture or volume on the image's grid: 0 unmarked, a class's own value, `coding.background`."""
    from medseg.io.doors import read_segmentation

    found = read_segmentation(path)
    if geometry.ndim != found.geometry.ndim or geometry.shape != found.labels.shape:
        raise UserError(
            f"the mask of scribbles has {found.geometry.describe()}, its image {geometry.describe()}",
            str(path),
            "draw the scribbles on the image's own grid",
        )
    if geometry.unit == "mm" and found.geometry.unit == "mm":
        geometry.require_same_grid(found.geometry, "image", "mask of scribbles", str(path))
    return Prompt(mask=_coded(found.labels, coding, str(path)), source="a mask of scribbles")


def _coded(labels: npt.NDArray[Any], coding: Coding, where: str) -> npt.NDArray[np.uint8]:
    """Values of a file -> numbers of classes (1 for the first) and `BACKGROUND_SEED`.

    The file has a class's own label value; where no class has one of 1 ... K, it counts the K classes from 1.
    """
    own = {info.index: number for number, info in enumerate(coding.classes, 1)}
    if not set(own) & set(range(1, len(own) + 1)):
        # 255 for the only object of a photograph, and 1 in its strokes.
        own.update({number: number for number in range(1, len(own) + 1) if number != coding.background})
    if coding.background in own:
        name = coding.classes[own[coding.background] - 1].name
        raise UserError(
            f"predict.prompt.background is {coding.background}, which is the class {name}",
            where,
            "mark background with another value",
        )
    values = {int(v) for v in np.unique(labels)} - {0, coding.background}
    if strange := sorted(values - set(own)):
        listed = ", ".join(f"{value} {coding.classes[number - 1].name}" for value, number in own.items())
        raise UserError(
            f"the mask of scribbles holds the value {strange[0]}, which is no class ({listed}) and not the "
            f"background's ({coding.background})",
            where,
            "say which value is background: predict.prompt.background",
        )
    seeds = np.zeros(labels.shape, dtype=np.uint8)
    for value in values:
        seeds[labels == value] = own[value]
    seeds[labels == coding.background] = BACKGROUND_SEED
    return seeds
