"""Classical methods walk the same road: upright array in, labels on the case's own grid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Image
from medseg.core.geometry import reorient_array, restore_array
from medseg.core.segmentation import ClassInfo, default_colour


def segment_classical(method: Any, image: Image) -> npt.NDArray[np.uint8]:
    """The method's own label values (*S) in the file's axis order."""
    turned, order, flips = image.geometry.reoriented()
    labels = method.segment(reorient_array(image.array, order, flips), turned.spacing)
    return np.ascontiguousarray(restore_array(labels, order, flips))


def translate(
    labels: npt.NDArray[np.uint8], method: Any, classes: Sequence[ClassInfo]
) -> tuple[npt.NDArray[Any], tuple[ClassInfo, ...]]:
    """The method's values -> the indices of `classes`: by name, else in order when there are equally many.

    Where neither fits, the method's own classes are returned; what has no partner among `classes` becomes background.
    """
    own: Mapping[int, str] = method.classes
    by_name = {_plain(info.name): info for info in classes}
    table = {value: by_name[_plain(name)].index for value, name in own.items() if _plain(name) in by_name}
    if not table and len(own) == len(classes):
        table = {value: info.index for value, info in zip(sorted(own), classes)}
    if not table:
        found = tuple(ClassInfo(own[v], v, default_colour(n)) for n, v in enumerate(sorted(own)))
        return labels, found
    largest = max(table.values())
    lookup = np.zeros(256, dtype=np.uint8 if largest < 256 else np.uint16)
    for value, index in table.items():
        lookup[value] = index
    return lookup[labels], tuple(classes)


def _plain(name: str) -> str:
    return " ".join(sorted(name.lower().replace("_", " ").replace("-", " ").split()))
