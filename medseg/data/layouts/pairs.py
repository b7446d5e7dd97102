"""Folders of images with folders of labels, by any names; one folder of `x_image`/`x_label`; a folder a case."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.config import Data
from medseg.core.errors import UserError
from medseg.data.classes import MOST_CLASSES
from medseg.data.layouts.names import (
    SPLIT_FOLDERS,
    by_stem,
    folders_below,
    is_label_name,
    kind_of,
    match_stems,
    readable_files,
    rest_of,
    words_of,
)
from medseg.data.manifest import safe_name
from medseg.data.rows import CaseRow, Found, column_name, counted
from medseg.io.names import stem_of


def find(root: Path, data: Data) -> Found | None:
    """The cases of a folder of image files, or None when it holds none."""
    if root.is_file():
        case = safe_name(stem_of(root))
        return Found((CaseRow(case, case, ((str(root),),)),), "one image file")
    parts = {p: SPLIT_FOLDERS[p.name.lower()] for p in sorted(root.iterdir())
             if p.is_dir() and p.name.lower() in SPLIT_FOLDERS}  # fmt: skip
    if len(parts) < 2:
        return _find_pairs(root, data)
    found = [(name, f) for p, name in parts.items() if (f := _find_pairs(p, data)) is not None]
    if not found:
        return None
    rows = [replace(row, split=name) for name, part in found for row in part.rows]
    return replace(
        found[0][1],
        rows=_distinct(rows),
        layout=f"{found[0][1].layout}, in the folders {', '.join(p.name for p in parts)}",
        left_out=tuple(item for _, part in found for item in part.left_out),
        notes=tuple(dict.fromkeys(note for _, part in found for note in part.notes)),
    )


def _distinct(rows: Sequence[CaseRow]) -> tuple[CaseRow, ...]:
    """Cases of one name in two split folders get the split before their name."""
    names = [row.case for row in rows]
    return tuple(
        replace(r, case=f"{r.split}_{r.case}", patient=f"{r.split}_{r.case}")
        if names.count(r.case) > 1
        else r
        for r in rows
    )


def _find_pairs(root: Path, data: Data) -> Found | None:
    holding = {folder: files for folder in folders_below(root) if (files := readable_files(folder))}
    if not holding:
        return None
    if len(holding) == 1:
        folder, files = next(iter(holding.items()))
        return _one_folder(folder, files)
    kinds = {folder: kind_of(folder.name) if folder != root else "" for folder in holding}
    images = [folder for folder, kind in kinds.items() if kind == "image"]
    labels = [folder for folder, kind in kinds.items() if kind == "label"]
    if images:
        images = _highest(images)
        labels = [folder for folder in labels if folder.parent == images[0].parent]
        others = [folder for folder in holding if folder not in (*images, *labels)]
        if len(images) == 1 and not labels:
            beside = [f for f in others if f.parent == images[0].parent]
            labels = [f for f in beside if len(beside) == 1 and _draws(holding[images[0]], holding[f])]
            others = [f for f in others if f not in labels]
        return _folders(_in_order(images, data, root), labels, others, root)
    two = _two_by_content(holding, labels)
    if two is not None:
        return _folders([two[0]], [two[1]], [f for f in holding if f not in two], root)
    return _folder_a_case(root, holding)


def _highest(folders: Sequence[Path]) -> list[Path]:
    """The folders that lie highest, all in one parent."""
    top = min(folders, key=lambda f: (len(f.parts), str(f))).parent
    return [f for f in folders if f.parent == top]


def _in_order(images: list[Path], data: Data, root: Path) -> list[Path]:
    """The image folders in the order of data.channels, where these are channels of their own."""
    by_name = {rest_of(folder.name): folder for folder in images}
    wanted = [rest_of(name) or name.lower() for name in data.channels]
    if len(images) < 2 or len(wanted) < 2 or "" in by_name:
        return images
    if lacks := [name for name in wanted if name not in by_name]:
        raise UserError(
            f"no folder holds the channel {counted(lacks)}; there are {counted(f.name for f in images)}",
            str(root),
            "data.channels names the channels in their order, as the folders do: images_<channel>",
        )
    return [by_name[name] for name in wanted]


def _folders(images: Sequence[Path], labels: Sequence[Path], others: Sequence[Path], root: Path) -> Found:
    """Cases from one image folder a channel and one label folder a label column."""
    if len(images) > 1 and any(not rest_of(f.name) for f in images):
        raise UserError(
            f"{len(images)} folders look like images: {counted(f.name for f in images)}",
            str(root),
            "say which in a manifest, name channels images_<channel>, or move one away",
        )
    first, left_out = by_stem(readable_files(images[0]))
    channels = [_matched(list(first), folder, left_out, keep=True) for folder in images[1:]]
    columns = {
        column_name(rest_of(folder.name) or "label"): _matched(list(first), folder, left_out)
        for folder in labels
    }
    if len(columns) == 1:
        columns = {"label": next(iter(columns.values()))}
    rows = []
    for stem, file in first.items():
        case = safe_name(stem)
        files = [file, *(channel[stem] for channel in channels if stem in channel)]
        drawn = {column: str(found[stem]) for column, found in columns.items() if stem in found}
        lacks = [f.name for f, channel in zip(images[1:], channels) if stem not in channel]
        trouble = f"no file of this case in {counted(lacks)}" if lacks else ""
        rows.append(CaseRow(case, case, tuple((str(f),) for f in files), drawn, trouble=trouble))
    notes = [f"folders not used: {counted(str(f.relative_to(root)) for f in others)}"] if others else []
    what = f"folder {images[0].name}" + (
        f" with labels in {counted(f.name for f in labels)}" if labels else ""
    )
    return Found(
        tuple(rows),
        f"image files: {what}",
        notes=tuple(notes),
        left_out=tuple(left_out),
        channels=tuple(rest_of(f.name) for f in images) if len(images) > 1 else (),
    )


def _matched(
    stems: Sequence[str], folder: Path, left_out: list[tuple[str, str]], keep: bool = False
) -> dict[str, Path]:
    """Image stem -> the file of `folder` that belongs to it; what belongs to none is left out with a reason."""
    files, twice = by_stem(readable_files(folder))
    pairs = match_stems(stems, list(files))
    used = set(pairs.values())
    what = "channel file" if keep else "label"
    left_out += twice
    left_out += [(f.name, f"a {what} without an image") for stem, f in files.items() if stem not in used]
    return {stem: files[other] for stem, other in pairs.items()}


def _one_folder(folder: Path, files: Sequence[Path]) -> Found:
    """One folder: images beside labels that the word in their name tells apart, or images alone."""
    stems, left_out = by_stem(files)
    drawn = [stem for stem in stems if is_label_name(stem)]
    images = [stem for stem in stems if stem not in drawn]
    pairs = match_stems(images, drawn)
    if not images:  # a folder of masks alone, or of photographs called mask_1, mask_2 ...
        images, drawn, pairs = drawn, [], {}
    left_out += [(stems[s].name, "a label without an image") for s in drawn if s not in set(pairs.values())]
    rows = []
    for stem in images:
        case = safe_name(stem)
        labels = {"label": str(stems[pairs[stem]])} if stem in pairs else {}
        rows.append(CaseRow(case, case, ((str(stems[stem]),),), labels))
    what = "image and label files in one folder" if pairs else "image files without labels"
    return Found(tuple(rows), what, left_out=tuple(left_out))


def _two_by_content(holding: dict[Path, list[Path]], labels: Sequence[Path]) -> tuple[Path, Path] | None:
    """Image and label folder where names do not tell: equal file names, and one of the two holds few values."""
    stems = {folder: set(by_stem(files)[0]) for folder, files in holding.items()}
    folders = [f for f in holding if len(stems[f]) > 0]
    if len(labels) == 1 and len(folders) == 2:
        other = next(f for f in folders if f != labels[0])
        return (other, labels[0]) if match_stems(sorted(stems[other]), sorted(stems[labels[0]])) else None
    if len(folders) != 2 or not match_stems(*(sorted(stems[f]) for f in folders)):
        return None
    one, other = folders
    if _draws(holding[one], holding[other]):
        return one, other
    return (other, one) if _draws(holding[other], holding[one]) else None


def _draws(images: Sequence[Path], labels: Sequence[Path]) -> bool:
    """Whether the files of the second folder go with those of the first and hold as few values as labels do."""
    if not match_stems(list(by_stem(images)[0]), list(by_stem(labels)[0])):
        return False
    return _distinct_values(labels[0]) <= min(MOST_CLASSES, _distinct_values(images[0]) - 1)


def _distinct_values(path: Path) -> int:
    """Different numbers in a file; as many as can be where it cannot be read."""
    import numpy as np

    from medseg.io import doors

    try:
        return len(np.unique(doors.read_image(path).array[:1]))
    except UserError:
        return sys.maxsize


def _folder_a_case(root: Path, holding: dict[Path, list[Path]]) -> Found | None:
    """One folder a case, which holds its image (or channels) and perhaps its label."""
    rows, left_out = [], []
    names = {folder: [stem_of(f) for f in files] for folder, files in holding.items()}
    for folder, files in holding.items():
        drawn = [f for f in files if is_label_name(stem_of(f))]
        images = [f for f in files if f not in drawn]
        if len(images) != 1 or len(drawn) > 1 or folder == root:
            reason = (
                f"holds {len(images)} images and {len(drawn)} labels; a manifest says which belong together"
            )
            left_out.append((str(folder.relative_to(root)), reason))
            continue
        generic = sum(stem_of(images[0]) in others for others in names.values()) > 1
        bare = set(words_of(stem_of(images[0]))) <= {"image", "img", "ct", "mr", "scan", "volume"}
        case = safe_name(folder.name if generic or bare else stem_of(images[0]))
        labels = {"label": str(drawn[0])} if drawn else {}
        rows.append(CaseRow(case, case, ((str(images[0]),),), labels))
    return Found(tuple(rows), "one folder a case", left_out=tuple(left_out)) if rows else None
