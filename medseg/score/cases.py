"""One case of a run: its prediction from the files, its reference from the cohort, its rows.

`medseg.score(prediction, reference)` is `score_case` here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation, paint
from medseg.io.names import suffix_of
from medseg.metrics.case import Row, Scoring, score_case
from medseg.predict.outputs import class_folders

__all__ = ["Row", "Scoring", "format_rank", "read_prediction", "score_case", "sidecars"]

PREFERRED = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".dcm")
"""Which of a case's files is read when it was written in several formats."""

PROBABILITIES = "probabilities/"
"""Where predict puts probabilities, which are no masks."""


def sidecars(predictions: Path) -> dict[str, dict[str, Any]]:
    """Case -> what stands in predictions/CASE.json, in the order of the names."""
    if not predictions.is_dir():
        return {}
    found = (read_json(path) for path in sorted(predictions.glob("*.json")) if not path.name.startswith("."))
    return {facts["case"]: facts for facts in found if "case" in facts}


def read_prediction(
    predictions: Path,
    facts: Mapping[str, Any],
    classes: Sequence[ClassInfo],
    overlapping: bool,
    onto: Geometry | None = None,
) -> Segmentation:
    """Reads a predicted mask by its side-car; overlapping classes lie in one file each, predictions/CLASS/CASE.*.

    onto: the grid that a DICOM-SEG, which lacks its empty frames, is placed on. Raises UserError when a mask that the side-car names is gone.
    """
    from medseg.io.doors import read_segmentation

    masks = [name for name in facts.get("files", ()) if not name.startswith(PROBABILITIES)]
    in_folders = any("/" in name for name in masks)
    if not overlapping or not in_folders:
        files = [predictions / name for name in masks if "/" not in name]
        return read_segmentation(_preferred(files, f"case {facts['case']}"), tuple(classes), onto)
    regions, geometry = [], None
    for info, folder in zip(classes, class_folders(classes), strict=True):
        own = [predictions / name for name in masks if name.split("/")[0] == folder and "/" in name]
        part = read_segmentation(_preferred(own, f"case {facts['case']}, class {info.name}"), (), onto)
        regions.append(part.labels > 0)
        geometry = part.geometry
    if geometry is None:
        raise UserError("the plan has no classes", f"case {facts['case']}")
    stack = np.stack(regions)
    return Segmentation(paint(stack, classes), geometry, tuple(classes), regions=stack)


def _preferred(files: Sequence[Path], where: str) -> Path:
    """The file to read, by format; UserError when there is none."""
    there = [path for path in files if path.exists()]
    if not there:
        missing = ", ".join(path.name for path in files) or "no file is named"
        raise UserError(
            f"the predicted mask is gone ({missing})", where, "predict again: medseg run FILE --resume"
        )
    return min(there, key=format_rank)


def format_rank(path: Path) -> int:
    """The place of a file's format in `PREFERRED`; lower is read first."""
    ending = suffix_of(path)
    return PREFERRED.index(ending) if ending in PREFERRED else len(PREFERRED)
