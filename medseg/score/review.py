"""Which predictions a person should look at, and why, judged by the masks alone.

A flag is a question, not a verdict: it names what is unusual, with the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medseg.core.segmentation import in_ml
from medseg.metrics.matching import name_key

RATIO = 3.0
"""Paired organs whose volumes differ by more than this factor are looked at."""

MARGIN = 0.5
"""How far below the smallest and above the largest volume of the training data a volume may lie, as a share."""


@dataclass(frozen=True)
class Expected:
    """What the model knows of its classes.

    volume_ml: class -> smallest and largest volume in the training data. always: classes that every training case has.
    """

    volume_ml: Mapping[str, Sequence[float]] = field(default_factory=dict)
    always: frozenset[str] = frozenset()


def review_reasons(prediction: Mapping[str, Any], expected: Expected | None = None) -> list[str]:
    """Sentences on what is unusual in a prediction; empty when nothing is.

    prediction: the side-car of a mask, with `voxels` (class -> count) and `volumes_ml` (class -> ml or None).
    """
    expected = expected or Expected()
    voxels: Mapping[str, int] = prediction.get("voxels", {})
    volumes = {name: ml for name, ml in prediction.get("volumes_ml", {}).items() if ml is not None}
    if voxels and not any(voxels.values()):
        return ["the prediction is empty"]
    absent = [name for name, n in voxels.items() if n == 0 and name in expected.always]
    reasons = [f"{name} was not found" for name in absent]
    reasons += [
        sentence
        for name, ml in volumes.items()
        if name in expected.volume_ml and (sentence := _outside(name, ml, expected.volume_ml[name]))
    ]
    sizes = volumes if volumes else {name: float(n) for name, n in voxels.items()}
    return reasons + _lopsided({name: size for name, size in sizes.items() if name not in absent})


def _outside(name: str, ml: float, known: Sequence[float]) -> str:
    """The sentence on a volume far outside the training data's; empty when it is not."""
    low, high = known
    if ml == 0 or (1 - MARGIN) * low <= ml <= (1 + MARGIN) * high:
        return ""
    return f"{name} has {in_ml(ml)}; the training data had {in_ml(low)} to {in_ml(high)}"


def _lopsided(sizes: Mapping[str, float]) -> list[str]:
    """Left and right parts of one organ whose sizes are far apart."""
    reasons = []
    sides: dict[tuple[str, ...], dict[str, str]] = {}
    for name in sizes:
        words = name_key(name)
        for side in ("left", "right"):
            if side in words:
                sides.setdefault(tuple(w for w in words if w != side), {})[side] = name
    for pair in sides.values():
        if len(pair) < 2:
            continue
        left, right = pair["left"], pair["right"]
        small, large = sorted((left, right), key=lambda name: sizes[name])
        if sizes[large] > 0 and sizes[small] * RATIO < sizes[large]:
            reasons.append(
                f"{small} is {sizes[large] / sizes[small]:.1f} times smaller than {large}"
                if sizes[small] > 0
                else f"{small} was not found, {large} was"
            )
    return reasons
