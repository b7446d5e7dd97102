"""Medical Segmentation Decathlon: dataset.json with lists of image and label paths (Antonelli et al. 2022,
doi:10.1038/s41467-022-30695-9, and medicaldecathlon.com)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.config import ClassSpec, Data
from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.data.manifest import safe_name
from medseg.data.rows import CaseRow, Found
from medseg.io.names import stem_of

MODALITIES = {"ct": "ct", "mri": "mr", "mr": "mr"}


def find(root: Path, data: Data) -> Found | None:
    """The cases of a Decathlon task, or None when the folder is none."""
    path = root / "dataset.json"
    if not path.is_file():
        return None
    facts = read_json(path)
    if not isinstance(facts, dict) or not isinstance(facts.get("training"), list):
        return None
    rows = [_case(entry, f"training[{i}]", path, "") for i, entry in enumerate(facts["training"])]
    tests = facts.get("test") or []
    rows += [_case(entry, f"test[{i}]", path, "test") for i, entry in enumerate(tests)]
    modality = MODALITIES.get(str(next(iter((facts.get("modality") or {"0": ""}).values()))).lower())
    return Found(
        tuple(rows),
        "Decathlon (dataset.json)",
        classes=classes_of(facts.get("labels") or {}, path),
        settings={"modality": modality} if modality else {},
        notes=(f"{len(tests)} test cases of the task have no label",) if tests else (),
    )


def _case(entry: Any, place: str, path: Path, split: str) -> CaseRow:
    image = entry if isinstance(entry, str) else (entry or {}).get("image")
    label = None if isinstance(entry, str) else (entry or {}).get("label")
    if not isinstance(image, str) or not isinstance(label, str | None):
        raise UserError(f"{place}: expected an image and a label path, got {entry!r}"[:200], str(path))
    files = [inside(path.parent, name, place, path) for name in (image, label) if name]
    missing = [kind for kind, file in zip(("image", "label"), files) if not file.is_file()]
    trouble = (
        f"{place} of dataset.json: the {' and the '.join(missing)} file does not exist" if missing else ""
    )
    case = safe_name(stem_of(files[0]))
    labels = {"label": str(files[1])} if label else {}
    # A test list of the Decathlon carries no labels: such a case can be predicted, not scored.
    return CaseRow(
        case, case, ((str(files[0]),),), labels, split if label else "", place=place, trouble=trouble
    )


def inside(root: Path, name: str, place: str, source: Path) -> Path:
    """A path that a data set's own file names; it may not lead out of the data set's folder."""
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{place}: the path {name!r} leads out of the data set's folder", str(source))
    return file


def classes_of(labels: Mapping[str, Any], path: Path) -> dict[str, ClassSpec]:
    """Both spellings: {"1": "liver"} (Decathlon) and {"liver": 1, "whole tumour": [1, 2]} (nnU-Net)."""
    specs: dict[str, ClassSpec] = {}
    for key, value in labels.items():
        name, given = (value, key) if isinstance(value, str) else (key, value)
        try:
            values = [int(v) for v in (given if isinstance(given, list) else [given])]
        except (TypeError, ValueError):
            raise UserError(f"labels: {key!r}: {value!r} is no class and value", str(path)) from None
        if values != [0] and str(name).lower() not in ("background", "ignore"):
            specs[str(name)] = ClassSpec(values=values)
    return specs
