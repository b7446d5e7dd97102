"""Names of classes as DICOM holds them, and which class a name read from DICOM stands for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from medseg.core.segmentation import ClassInfo

if TYPE_CHECKING:
    from pydicom import Dataset

LONGEST_LABEL = 64
"""What DICOM's long strings hold."""


def long_string(text: str) -> str:
    r"""A text as a long string: 64 characters, no outer blanks, nothing unprintable; a backslash would part it in two.

    >>> long_string(" T1\\T2\n")
    'T1/T2'
    """
    plain = "".join("/" if c == "\\" else c if c.isprintable() else " " for c in text)
    return plain.strip()[:LONGEST_LABEL].strip()


def to_unicode(dataset: Dataset) -> None:
    """Turns a data set's texts, in place, to the character set that holds every name of a patient and of a class.

    Series in another one, such as that of Japan, keep their names; what is written beside them need not be in it.
    """
    with warnings.catch_warnings():  # the library's remarks may quote what they are about
        warnings.simplefilter("ignore")
        dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"


def labelled(classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
    """The classes under names that DICOM holds, no two alike: a name that it holds as it is stays."""
    taken = {info.name for info in classes if info.name and long_string(info.name) == info.name}
    found: list[ClassInfo] = []
    for info in classes:
        name = whole = info.name if info.name in taken else long_string(info.name) or "class"
        numbers = count(info.index)
        while name in taken and name != info.name:
            end = f" ({next(numbers)})"
            name = whole[: LONGEST_LABEL - len(end)].strip() + end
        taken.add(name)
        found.append(replace(info, name=name))
    return tuple(found)


def match(segment: ClassInfo, classes: Sequence[ClassInfo]) -> int | None:
    """The position of the class that a segment stands for, or None: by name as it is, as DICOM holds it, in letters of
    either case, and last by code and side."""
    held = [info.name for info in labelled(classes)]
    for names, name in (
        ([info.name for info in classes], segment.name),
        (held, segment.name),
        ([name.casefold() for name in held], segment.name.casefold()),
    ):
        if names.count(name) == 1:
            return names.index(name)
    if segment.code is None:
        return None
    same = [
        number
        for number, info in enumerate(classes)
        if info.code and (info.code.scheme, info.code.value) == (segment.code.scheme, segment.code.value)
    ]
    sided = [n for n in same if classes[n].laterality == segment.laterality]
    found = sided if len(sided) == 1 else same
    return found[0] if len(found) == 1 else None
