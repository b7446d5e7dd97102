"""nnU-Net raw data: imagesTr/CASE_0000.nii.gz, one number a channel, labelsTr/CASE.nii.gz, dataset.json
(Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; both versions of the JSON file)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Data
from medseg.core.atomic import read_json
from medseg.data.layouts.decathlon import classes_of
from medseg.data.layouts.names import by_stem, readable_files
from medseg.data.manifest import safe_name
from medseg.data.rows import CaseRow, Found

CHANNEL = re.compile(r"(.+)_(\d{4})")


def find(root: Path, data: Data) -> Found | None:
    """The cases of an nnU-Net data set, or None when the folder is none."""
    if not (root / "imagesTr").is_dir():
        return None
    groups = _channels(root / "imagesTr")
    if not groups:
        return None
    facts = read_json(root / "dataset.json") if (root / "dataset.json").is_file() else {}
    labels, left_out = _stems(root / "labelsTr")
    n_channels = len(facts.get("channel_names") or facts.get("modality") or {}) or max(
        map(len, groups.values())
    )
    names = [str(name) for name in (facts.get("channel_names") or {}).values()]
    order = _order(names, data.channels) or list(range(n_channels))
    rows = [_row(case, files, labels.pop(case, None), order) for case, files in sorted(groups.items())]
    left_out += [(file.name, "a label without an image") for file in labels.values()]
    if (root / "imagesTs").is_dir():
        test_labels, _ = _stems(root / "labelsTs")
        rows += [
            _row(case, files, test_labels.get(case), order, "test" if case in test_labels else "")
            for case, files in sorted(_channels(root / "imagesTs").items())
        ]
    return Found(
        tuple(rows),
        "nnU-Net (imagesTr, labelsTr)",
        classes=classes_of(facts.get("labels") or {}, root / "dataset.json"),
        settings=_settings(facts),
        left_out=tuple(left_out),
        channels=tuple(names[number] for number in order) if n_channels == len(names) > 1 else (),
    )


def _settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Ignore label and modality, where dataset.json has them."""
    settings: dict[str, Any] = {}
    ignore = (facts.get("labels") or {}).get("ignore")
    if isinstance(ignore, int):
        settings["ignore"] = ignore
    names = {str(n).lower() for n in (facts.get("channel_names") or facts.get("modality") or {}).values()}
    if names == {"ct"}:
        settings["modality"] = "ct"
    elif names and all(re.match(r"mr|t1|t2|flair|adc|dwi", n) for n in names):
        settings["modality"] = "mr"
    return settings


def _channels(folder: Path) -> dict[str, dict[int, Path]]:
    """Case -> channel number -> file."""
    found: dict[str, dict[int, Path]] = {}
    for stem, file in by_stem(readable_files(folder))[0].items():
        match = CHANNEL.fullmatch(stem)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = file
    return found


def _stems(folder: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    return by_stem(readable_files(folder)) if folder.is_dir() else ({}, [])


def _order(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The numbers of the channels in the order of data.channels; empty where that does not name the same ones."""
    ours, theirs = [name.lower() for name in names], [name.lower() for name in wanted]
    same = sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
    return [ours.index(name) for name in theirs] if same else []


def _row(
    case: str, files: Mapping[int, Path], label: Path | None, order: Sequence[int], split: str = ""
) -> CaseRow:
    """order: the numbers of the channels in the order in which they are stacked."""
    missing = [f"{number:04d}" for number in sorted(order) if number not in files]
    return CaseRow(
        safe_name(case),
        safe_name(case),
        tuple((str(files[number]),) for number in order if number in files),
        {} if label is None else {"label": str(label)},
        split,
        trouble=f"channel {', '.join(missing)} of {len(order)} is missing" if missing else "",
    )
