"""From the pipeline file's `train.augment` to an augmenter of batches."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.config import Plan
from medseg.core.errors import UserError, did_you_mean
from medseg.ingest.augment.artefacts import MONAI_NAMES, require_known
from medseg.ingest.augment.flip import Flip
from medseg.ingest.augment.frame import Frame, frame_of
from medseg.ingest.augment.swap_sides import SwapSides
from medseg.ingest.augment.table import LIMITS, PRESETS, PROBABILITIES, TRANSFORMS
from medseg.ingest.augment.truncate import Truncate
from medseg.ingest.augment.warp import SPATIAL, warp

KEY = "train.augment"
Records = tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """One change: its name in the table, how often it happens, and the ranges that differ from its defaults."""

    name: str
    probability: float
    ranges: Mapping[str, Any]


class Augmenter:
    """Changes batches on the device they lie on. `augmenter(images, targets, rng)`; draws can be kept and replayed."""

    def __init__(
        self, entries: Sequence[Entry], plan: Plan, seed: int = 0, beyond_image: str = "background"
    ) -> None:
        self.entries = tuple(entries)
        self.plan = plan
        self.seed = seed
        self.beyond_image = beyond_image

    def __call__(
        self, images: Tensor, targets: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """images (B, C, *S) float; targets (B, *S) or (B, R, *S) uint8 -> both changed, each sample its own way.

        rng decides everything: the same state gives the same batch. Without one the augmenter's seed is used. What is
        handed in is not altered.
        """
        rng = np.random.default_rng(self.seed) if rng is None else rng
        return self.apply(images, targets, self.draw(images, rng))

    def draw(self, images: Tensor, rng: np.random.Generator) -> list[Records]:
        """What will happen to each sample of a batch (B, C, *S)."""
        frame = self._frame(images)
        return [self._draw_one(frame, rng) for _ in range(len(images))]

    def _frame(self, images: Tensor) -> Frame:
        return frame_of(self.plan, images.shape[2:], images.shape[1], self.beyond_image)

    def _draw_one(self, frame: Frame, rng: np.random.Generator) -> Records:
        return tuple(
            TRANSFORMS[entry.name](rng, frame, **entry.ranges)
            for entry in self.entries
            if rng.random() < entry.probability
        )

    def apply(self, images: Tensor, targets: Tensor, drawn: Sequence[Records]) -> tuple[Tensor, Tensor]:
        """Does what was drawn; the same records give the same batch again."""
        frame = self._frame(images)
        pairs = [change_one(x.float(), y, records, frame) for x, y, records in zip(images, targets, drawn)]
        return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


def change_one(image: Tensor, target: Tensor, records: Records, frame: Frame) -> tuple[Tensor, Tensor]:
    """image (C, *S) float32, target (*S) or (R, *S) -> both after all of `records`; the spatial ones in one go."""
    spatial = [r for r in records if isinstance(r, SPATIAL)]
    if spatial:
        image, target = warp(image, target, spatial, frame)
    for record in records:
        if isinstance(record, Flip):
            image, target = record(image, frame.ndim), record(target, frame.ndim)
        elif isinstance(record, Truncate | SwapSides):
            image, target = record(image, target)
        elif not isinstance(record, SPATIAL):
            image = record(image)
    return image, target


def build_augmenter(
    spec: Mapping[str, Any] | str, plan: Plan, seed: int = 0, beyond_image: str = "background"
) -> Augmenter:
    """The augmenter of a preset's name, or of {transform: {probability and ranges}}; `preset: light` may be among them.

    Raises UserError for unknown names (the nearest is offered), unknown ranges and probabilities outside 0..1.
    """
    return Augmenter(entries_of(spec), plan, seed, beyond_image)


def entries_of(spec: Mapping[str, Any] | str) -> list[Entry]:
    """The changes a spec names, in the table's order, all names and ranges checked."""
    if isinstance(spec, str):
        spec = {"preset": spec}
    wanted: dict[str, Any] = dict(spec)
    preset = wanted.pop("preset", "none")
    if preset not in PRESETS:
        raise UserError(
            f"no preset {preset!r}{did_you_mean(str(preset), PRESETS)}", KEY, f"presets: {', '.join(PRESETS)}"
        )
    for name in wanted:
        if name not in TRANSFORMS:
            raise UserError(
                f"no random change named {name!r}{did_you_mean(str(name), TRANSFORMS)}",
                KEY,
                f"there are {', '.join(TRANSFORMS)}",
            )
    merged = {**PRESETS[preset], **wanted}
    return [_entry(name, merged[name]) for name in TRANSFORMS if name in merged]


def _entry(name: str, said: Any) -> Entry:
    where = f"{KEY}.{name}"
    if said is None:
        said = {}
    if isinstance(said, int | float) and not isinstance(said, bool):
        said = {"probability": said}
    if not isinstance(said, Mapping):
        raise UserError(f"expected a probability or {{range: [low, high]}}, got {said!r}", where)
    ranges = dict(said)
    probability = ranges.pop("probability", PROBABILITIES[name])
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise UserError(f"probability is {probability!r}", where, "it lies between 0 and 1")
    known = ranges_of(name)
    if name in MONAI_NAMES and ranges:
        require_known(name, ranges, where)
    for key, value in ranges.items():
        if known and key not in known:
            raise UserError(
                f"no range {key!r}{did_you_mean(key, known)}", where, f"it takes {', '.join(known)}"
            )
        default = known.get(key)
        if isinstance(default, tuple) and not _is_span(value):
            raise UserError(f"{key}: expected [low, high], got {value!r}", where, f"default: {list(default)}")
        if isinstance(default, float) and not isinstance(value, int | float):
            raise UserError(f"{key}: expected a number, got {value!r}", where, f"default: {default}")
        _require_sense(key, value, where)
    return Entry(
        name, float(probability), {k: tuple(v) if isinstance(v, list) else v for k, v in ranges.items()}
    )


def _require_sense(key: str, value: Any, where: str) -> None:
    if key not in LIMITS:
        return
    low, high = LIMITS[key]
    if not all(low <= number <= high for number in np.ravel(value)):
        raise UserError(f"{key} is {value!r}", where, f"it lies between {low:g} and {high:g}")


def ranges_of(name: str) -> dict[str, Any]:
    """The ranges of a change and their defaults; empty for MONAI's, which know their own."""
    draw = TRANSFORMS[name]
    fixed = set(draw.keywords) if isinstance(draw, partial) else set()
    parameters = inspect.signature(draw.func if isinstance(draw, partial) else draw).parameters
    return {
        key: p.default
        for key, p in parameters.items()
        if key not in ("rng", "frame") and key not in fixed and p.kind is not p.VAR_KEYWORD
    }


def _is_span(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int | float) for v in value)
        and value[0] <= value[1]
    )
