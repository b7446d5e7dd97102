"""What folder and file names say: image or label, which channel, which split; and which files belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medseg.core.folders import walk_data
from medseg.core.run import holds_results
from medseg.data.rows import hidden
from medseg.io.names import DICOM, READABLE, stem_of

IMAGE_WORDS = {"image", "images", "img", "imgs", "imagestr", "imagests", "scan", "scans", "volume", "volumes", "ct",
               "mr", "mri", "raw", "input", "inputs", "photos", "frames", "jpegimages"}  # fmt: skip
LABEL_WORDS = {"label", "labels", "labelstr", "labelsts", "mask", "masks", "seg", "segs", "segmentation",
               "segmentations", "gt", "groundtruth", "truth", "annotation", "annotations", "annot", "target",
               "targets", "contour", "contours", "segmentationclass"}  # fmt: skip
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                 "test": "test", "testing": "test"}  # fmt: skip
DEPTH = 3
"""How far below the data folder images may lie."""


def words_of(name: str) -> list[str]:
    """`labels_lung` -> ["labels", "lung"]; letters of any script count."""
    return [w for w in re.split(r"[\W_]+", name.lower()) if w]


def kind_of(name: str) -> str:
    """`image`, `label` or "" for a folder name."""
    words = words_of(
        name.lower().replace("ground_truth", "groundtruth").replace("ground truth", "groundtruth")
    )
    if any(w in LABEL_WORDS for w in words):
        return "label"
    return "image" if any(w in IMAGE_WORDS for w in words) else ""


def is_label_name(stem: str) -> bool:
    """Whether a file's name says that it is a label: `a_mask`, `seg-b`; a name that speaks of both is an image."""
    words = set(words_of(stem))
    return bool(words & LABEL_WORDS) and not words & IMAGE_WORDS


def rest_of(name: str) -> str:
    """What a folder name says beside being images or labels: `labels_lung` -> lung, `images` -> ""."""
    return "_".join(w for w in words_of(name) if w not in IMAGE_WORDS | LABEL_WORDS)


def folders_below(root: Path, depth: int = DEPTH) -> list[Path]:
    """The folder and its subfolders to some depth, sorted; links back up are cut, hidden ones and what medseg wrote are
    passed over."""
    found, seen = [], set()

    def walk(folder: Path, level: int) -> None:
        real = os.path.realpath(folder)
        if real in seen or (level and holds_results(folder)):
            return
        seen.add(real)
        found.append(folder)
        if level < depth:
            for child in sorted(p for p in folder.iterdir() if p.is_dir() and not hidden(p)):
                walk(child, level + 1)

    walk(root, 0)
    return found


def results_below(root: Path) -> list[Path]:
    """The folders below `root` that medseg wrote, in which no data is looked for."""
    return [
        place / name
        for place, folders, _ in walk_data(root)
        for name in folders
        if holds_results(place / name)
    ]


def readable_files(folder: Path) -> list[Path]:
    """Image files directly in a folder, by suffix, sorted by name."""
    suffixes = tuple(ending for ending in READABLE if ending not in DICOM)
    with os.scandir(folder) as entries:
        # A link to nothing is kept: its case fails by name instead of vanishing.
        paths = [
            Path(e.path) for e in entries if e.is_file() or (e.is_symlink() and not os.path.exists(e.path))
        ]
    found = {p for p in paths if not hidden(p) and p.name.lower().endswith(suffixes)}
    # An Analyze or NIfTI pair is read by its header.
    return sorted(p for p in found if p.suffix.lower() != ".img" or p.with_suffix(".hdr") not in found)


def by_stem(files: Iterable[Path]) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Stem -> file, and what was left out because two files share a stem (`a.png` and `a.nii.gz`)."""
    found: dict[str, Path] = {}
    twice: list[tuple[str, str]] = []
    for file in files:
        stem = stem_of(file)
        if stem in found:
            twice.append((file.name, f"the same name as {found[stem].name} with another ending"))
        else:
            found[stem] = file
    return found, twice


def match_stems(images: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Image stem -> label stem, one to one.

    Equal names first; then names that are equal once the words for image and label are taken out and what all names
    of a folder share at their beginning and end (`img_007` and `007_mask`). A name that fits two is not matched.
    """
    pairs = {name: name for name in images if name in set(labels)}
    for core in (_without_words, _without_shared):
        left = [n for n in images if n not in pairs]
        free = [n for n in labels if n not in set(pairs.values())]
        if not left or not free:
            break
        ours, theirs = _unique(core(left, images)), _unique(core(free, labels))
        pairs.update({ours[key]: theirs[key] for key in ours.keys() & theirs.keys()})
    return pairs


def _unique(keys: Mapping[str, str]) -> dict[str, str]:
    """Core -> name, for cores that only one name has."""
    counts: dict[str, list[str]] = {}
    for name, key in keys.items():
        counts.setdefault(key, []).append(name)
    return {key: names[0] for key, names in counts.items() if len(names) == 1}


def _without_words(names: Sequence[str], _: Sequence[str]) -> dict[str, str]:
    noise = IMAGE_WORDS | LABEL_WORDS | {"0000"}
    return {n: "_".join(w for w in words_of(n) if w not in noise) or n for n in names}


def _without_shared(names: Sequence[str], everyone: Sequence[str]) -> dict[str, str]:
    head = _shared_start(everyone)
    tail = _shared_start([n[::-1] for n in everyone])[::-1]
    # Digits belong to the number that tells cases apart: `img_001`, `img_002` share `img_00`, not the number.
    head, tail = head.rstrip("0123456789"), tail.lstrip("0123456789")
    return {n: n[len(head) : len(n) - len(tail)] or n for n in names}


def _shared_start(names: Sequence[str]) -> str:
    """The letters that all names begin with; none for a single name."""
    if len(names) < 2:
        return ""
    low, high = min(names), max(names)
    return low[: next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))]
