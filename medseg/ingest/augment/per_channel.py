"""One number a channel, shaped so that it multiplies an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor


def as_column(values: Sequence[float], image: Tensor) -> Tensor:
    """(C,) numbers -> (C, 1, ...) beside an image (C, *S)."""
    return image.new_tensor(values).reshape(-1, *(1,) * (image.ndim - 1))


def spatial(image: Tensor) -> tuple[int, ...]:
    """The axes of (C, *S) behind the channels."""
    return tuple(range(1, image.ndim))


def around_one(rng: np.random.Generator, span: tuple[float, float]) -> float:
    """A factor from [low, 1) or [1, high) with equal probability, so that 1/2 and 2 are alike where they lie alike."""
    low, high = span
    if low < 1 < high:
        return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
    return float(rng.uniform(low, high))
