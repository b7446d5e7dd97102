"""Which class of one label set is which class of another: by code, then by name, then by number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from medseg.core.segmentation import ClassInfo


@dataclass(frozen=True)
class ClassMatch:
    """One class and its positions in the two tuples of classes; None where a side does not have it (an empty mask)."""

    pred: int | None
    true: int | None
    name: str
    by: Literal["code", "name", "number", "nothing"]


@dataclass(frozen=True)
class Matching:
    """What was matched, and what was not: classes of one side alone, matched by nothing."""

    matches: tuple[ClassMatch, ...]
    pred_alone: tuple[ClassMatch, ...]
    true_alone: tuple[ClassMatch, ...]

    @property
    def only_pred(self) -> tuple[str, ...]:
        """Names of the prediction's classes that the reference does not have."""
        return tuple(match.name for match in self.pred_alone)

    @property
    def only_true(self) -> tuple[str, ...]:
        """Names of the reference's classes that the prediction does not have."""
        return tuple(match.name for match in self.true_alone)


def match_classes(pred: Sequence[ClassInfo], true: Sequence[ClassInfo]) -> Matching:
    """Match each class of the reference with at most one of the prediction.

    Codes are compared with their scheme and side; names without case, accents, punctuation or the order of words.
    Numbers are only compared where one of the two classes has no name of its own ("class 3").
    """
    rules: tuple[tuple[Literal["code", "name", "number"], Callable[[ClassInfo], Hashable | None]], ...] = (
        ("code", _code_key),
        ("name", lambda info: None if is_nameless(info) else name_key(info.name)),
        ("number", lambda info: info.index),
    )
    found: dict[int, ClassMatch] = {}
    taken: set[int] = set()
    for by, key in rules:
        for t, theirs in enumerate(true):
            wanted = key(theirs)
            if t in found or wanted is None:
                continue
            for p, ours in enumerate(pred):
                nameless = by != "number" or is_nameless(ours) or is_nameless(theirs)
                if p not in taken and key(ours) == wanted and nameless:
                    found[t] = ClassMatch(p, t, theirs.name if not is_nameless(theirs) else ours.name, by)
                    taken.add(p)
                    break
    return Matching(
        tuple(found[t] for t in sorted(found)),
        tuple(ClassMatch(p, None, info.name, "nothing") for p, info in enumerate(pred) if p not in taken),
        tuple(ClassMatch(None, t, info.name, "nothing") for t, info in enumerate(true) if t not in found),
    )


def name_key(name: str) -> tuple[str, ...]:
    """The words of a class name, sorted, without accents, case, punctuation or filler words.

    >>> name_key("Left Lung") == name_key("lung_left") == name_key("lung, L.")
    True
    """
    plain = unicodedata.normalize("NFKD", name).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    words = re.findall(r"[^\W_]+", plain)
    sides = {"l": "left", "r": "right", "lt": "left", "rt": "right"}
    return tuple(sorted(sides.get(word, word) for word in words if word not in {"of", "the"}))


def is_nameless(info: ClassInfo) -> bool:
    """Whether a class is known by its number only ("3", "class 3", "label_3")."""
    return (
        re.fullmatch(r"(class|label|segment|value)?[\s_-]*\d+", info.name.strip(), re.IGNORECASE) is not None
    )


def _code_key(info: ClassInfo) -> Hashable | None:
    """Code, scheme and side; the side is read from the name where the class does not say."""
    if info.code is None:
        return None
    sides = [side for side in ("left", "right") if side in name_key(info.name)]
    side = info.laterality or (sides[0] if len(sides) == 1 else None)
    return info.code.value, info.code.scheme.upper(), side
