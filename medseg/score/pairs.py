"""Two folders of masks -> which file belongs to which, by case name.

Layouts that are understood: masks side by side (CASE.nii.gz), a folder a class (liver/CASE.nii.gz), a folder a case
with a file a class (CASE/liver.nii.gz), and a run folder (its predictions/).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import UserError
from medseg.data.layouts.names import LABEL_WORDS, words_of
from medseg.io.names import DICOM, READABLE, stem_of, suffix_of
from medseg.score.cases import format_rank

WHOLE = ""
"""Stands for a class's name where one file holds all classes."""

MASK_WORDS = LABEL_WORDS | {
    "pred",
    "preds",
    "prediction",
    "predictions",
    "predicted",
    "output",
    "result",
    "0000",
}
"""Words of file names that tell no cases apart."""

Files = dict[str, dict[str, Path]]


@dataclass(frozen=True)
class Pairing:
    """pairs: (case, predicted files, reference files), files by class name. The rest: cases one side lacks."""

    pairs: tuple[tuple[str, Mapping[str, Path], Mapping[str, Path]], ...]
    only_pred: tuple[str, ...]
    only_true: tuple[str, ...]


def pair_up(pred: Path, true: Path) -> Pairing:
    """Pair the masks of two folders, or two single files whatever their names.

    Raises UserError for a path that is absent or holds no masks, and when no name occurs on both sides.
    """
    for path in (pred, true):
        if not path.exists():
            raise UserError("no such file or folder", str(path))
    if pred.is_file() and true.is_file():
        return Pairing(((stem_of(true), {WHOLE: pred}, {WHOLE: true}),), (), ())
    ours, theirs = _candidates(pred), _candidates(true)
    mine, other = _most_alike(ours, theirs)
    match = _match(mine, other)
    pairs = [(case, mine[match[case]], files) for case, files in other.items() if case in match]
    if not pairs:
        raise UserError(
            f"no mask of {pred.name} has the name of a mask of {true.name}",
            str(pred),
            f"names there: {_few(mine)}; names in the reference: {_few(other)}",
        )
    return Pairing(
        tuple(sorted(pairs, key=lambda pair: pair[0])),
        tuple(sorted(set(mine) - set(match.values()))),
        tuple(sorted(set(other) - set(match))),
    )


def _match(mine: Iterable[str], other: Iterable[str]) -> dict[str, str]:
    """Case of the reference -> case of the prediction: equal names first, then equal but for capitals and accents, then
    but for words that say what a file is (`a_pred`, `a_0000`). What fits two is not matched."""
    match: dict[str, str] = {}
    for key in (str, key_of, _bare):
        ours = _by_key(set(mine) - set(match.values()), key)
        theirs = _by_key(set(other) - set(match), key)
        match.update({theirs[name]: ours[name] for name in ours.keys() & theirs.keys()})
    return match


def _by_key(cases: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """Key -> case, for keys that only one case has."""
    found: dict[str, list[str]] = {}
    for case in cases:
        found.setdefault(key(case), []).append(case)
    return {name: same[0] for name, same in found.items() if len(same) == 1}


def key_of(case: str) -> str:
    """A case's name as it is compared: without capitals and with one form of each accent."""
    return unicodedata.normalize("NFC", case).casefold()


def _bare(case: str) -> str:
    """A case's name without the words that say that it is a mask."""
    return "_".join(word for word in words_of(key_of(case)) if word not in MASK_WORDS) or key_of(case)


def _candidates(folder: Path) -> list[Files]:
    """The ways a folder can be read: case -> class -> file."""
    if folder.is_file():
        return [{stem_of(folder): {WHOLE: folder}}]
    if (folder / "predictions").is_dir():
        folder = folder / "predictions"
    flat = _masks(folder)
    if flat:
        return [{case: {WHOLE: path} for case, path in flat.items()}]
    nested = {
        sub.name: _masks(sub)
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and not sub.name.startswith(".")
    }
    if not any(nested.values()):
        raise UserError("holds no masks", str(folder), "formats: " + ", ".join(READABLE))
    by_class: Files = {}
    for name, masks in nested.items():
        for case, path in masks.items():
            by_class.setdefault(case, {})[name] = path
    several = any(len(masks) > 1 for masks in nested.values())
    by_case = {
        case: masks if several else {WHOLE: next(iter(masks.values()))}
        for case, masks in nested.items()
        if masks
    }
    return [by_class, by_case]


def _masks(folder: Path) -> dict[str, Path]:
    """Case -> mask file of one folder; of a case in several formats the one that is read first."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and suffix_of(path) in READABLE:
            case = _case_of(path)
            if case not in found or format_rank(path) < format_rank(found[case]):
                found[case] = path
    return found


def _case_of(path: Path) -> str:
    """A file's name without its ending, and without what predict adds to tell DICOM objects of one case apart."""
    name = stem_of(path)
    return name.removesuffix(".labelmap").removesuffix(".rtstruct") if suffix_of(path) in DICOM else name


def _most_alike(ours: Sequence[Files], theirs: Sequence[Files]) -> tuple[Files, Files]:
    """The readings of the two folders that agree best in their case names.

    Where two agree equally well, cases are what carries digits in its name, and then a folder a class is taken.
    """

    def agreement(pair: tuple[Files, Files]) -> tuple[float, float]:
        together = _match(*pair)
        digits = sum(any(c.isdigit() for c in case) for case in together)
        every = len(pair[0]) + len(pair[1]) - len(together)
        return len(together) / every, digits / max(1, len(together))

    return max(((mine, other) for mine in ours for other in theirs), key=agreement)


def _few(names: Mapping[str, object]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (" ..." if len(names) > 3 else "")
