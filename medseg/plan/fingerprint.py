"""What the training cases are like: grids, intensities in the foreground, sizes of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Pipeline
from medseg.core.case import Image
from medseg.core.errors import UserError, about
from medseg.core.geometry import reorient_array
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.ingest.cache import seed_of
from medseg.ingest.crop import crop_box
from medseg.ingest.intensity import sample
from medseg.ingest.targets import label_values

MOST_CASES = 32
"""Cases that are read for the fingerprint; more are sampled evenly over the sorted names."""

SAMPLES = 10_000
"""Voxels of a case's foreground, drawn with replacement: every case weighs the same."""


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What one case is like; axes in RAS+ order.

    shape, spacing: of the file's grid. kept_shape: after cropping to what is not zero; kept_share: its share of the
    volume. foreground: (C, N) intensities of labelled voxels, of all voxels where there is no label. anywhere: (C, N)
    intensities on an even lattice of all voxels.
    voxels: class -> count; volume_ml: class -> ml, without the classes that were not drawn in this case.
    on_border: classes that run into the border of the field of view.
    """

    case: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    modality: str
    kept_shape: tuple[int, ...]
    kept_share: float
    whole_numbers: bool
    foreground: npt.NDArray[np.float32]
    anywhere: npt.NDArray[np.float32]
    voxels: dict[str, int] = field(default_factory=dict)
    volume_ml: dict[str, float] = field(default_factory=dict)
    on_border: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The facts of the cases that were read, and how many there are in all."""

    cases: tuple[CaseFacts, ...]
    total: int

    @property
    def dims(self) -> int:
        """Spatial axes: 2 or 3."""
        return len(self.cases[0].shape)

    @property
    def channels(self) -> int:
        """Image channels."""
        return len(self.cases[0].foreground)

    @property
    def median_shape(self) -> npt.NDArray[np.float64]:
        """Voxels per axis (RAS order), before cropping."""
        return np.median([c.shape for c in self.cases], axis=0)

    @property
    def median_spacing(self) -> npt.NDArray[np.float64]:
        """mm per axis (RAS order); 1 for photographs."""
        return np.median([c.spacing for c in self.cases], axis=0)

    @property
    def kept_share(self) -> float:
        """Median over cases of what cropping to nonzero voxels keeps."""
        return float(np.median([c.kept_share for c in self.cases]))

    def intensities(self, channel: int) -> dict[str, float]:
        """Foreground statistics over all cases: mean, sd, percentiles 0.5 and 99.5, min, max.

        Of all voxels where no case that was read has a labelled one.
        """
        values = np.concatenate([c.foreground[channel] for c in self.cases]).astype(np.float64)
        if values.size == 0:
            values = np.concatenate([c.anywhere[channel] for c in self.cases]).astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        return {
            "mean": float(values.mean()),
            "sd": float(values.std()),
            "p005": float(low),
            "p995": float(high),
            "min": float(values.min()),
            "max": float(values.max()),
        }

    @property
    def labelled(self) -> bool:
        """Whether a voxel of any class was seen."""
        return any(n for case in self.cases for n in case.voxels.values())

    def largest(self, channel: int) -> float:
        """The largest intensity that was seen anywhere."""
        return float(max(c.anywhere[channel].max() for c in self.cases))

    def foreground_fraction(self, classes: Sequence[ClassInfo]) -> dict[str, float]:
        """Share of voxels of each class over the cases in which it was drawn."""
        out = {}
        for info in classes:
            drawn = [c for c in self.cases if info.name in c.voxels]
            total = sum(int(np.prod(c.shape)) for c in drawn)
            out[info.name] = sum(c.voxels[info.name] for c in drawn) / total if total else 0.0
        return out

    def volume_ml(self, classes: Sequence[ClassInfo]) -> dict[str, list[float]]:
        """Smallest and largest volume of each class where it is present; photographs have none."""
        out = {}
        for info in classes:
            present = [c.volume_ml[info.name] for c in self.cases if c.volume_ml.get(info.name, 0) > 0]
            if present:
                out[info.name] = [float(min(present)), float(max(present))]
        return out

    def on_border(self, classes: Sequence[ClassInfo]) -> dict[str, float]:
        """Share of the cases with a class in which it runs into the border of the field of view."""
        out = {}
        for info in classes:
            present = [c for c in self.cases if c.voxels.get(info.name, 0) > 0]
            if present:
                out[info.name] = sum(info.name in c.on_border for c in present) / len(present)
        return out


def take_fingerprint(rows: Sequence[Any], pipeline: Pipeline, classes: Sequence[ClassInfo]) -> Fingerprint:
    """Reads up to MOST_CASES of `rows` in threads; unreadable ones are left to ingest to name.

    Raises UserError when none can be read, or when flat images and volumes, or numbers of channels, are mixed.
    """
    from medseg.jobs.executor import map_cases

    ordered = sorted(rows, key=lambda row: row.case)
    picked = [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, MOST_CASES).astype(int))]
    outcomes = list(
        map_cases(
            lambda row: measure(row, pipeline, classes),
            picked,
            "plan",
            workers=pipeline.compute.workers or pipeline.compute.cores,
            name=lambda row: f"case {row.case}",
        )
    )
    found = sorted((o.value for o in outcomes if o.value is not None), key=lambda facts: facts.case)
    if not found:
        raise UserError(
            f"not one of {len(picked)} cases could be read",
            hint="`medseg check` says what is wrong with each",
            faults=[f"case {o.item.case}: {o.reason}" for o in outcomes[:5]],
        )
    _require_alike(found)
    return Fingerprint(tuple(found), len(rows))


def measure(row: Any, pipeline: Pipeline, classes: Sequence[ClassInfo]) -> CaseFacts:
    """Reads one case and measures it."""
    from medseg.data.cohort import open_case

    with about(row.case, "measuring"):
        case = open_case(row, pipeline.data, classes)
        image = case.image()
        label = case.label(image.geometry) if case.has_label else None
        return facts_of(row.case, image, label, classes, row.known)


def facts_of(
    case: str,
    image: Image,
    label: Segmentation | None,
    classes: Sequence[ClassInfo],
    known: Sequence[str] | None = None,
) -> CaseFacts:
    """What one image with its label is like."""
    turned, order, flips = image.geometry.reoriented()
    array = reorient_array(image.array, order, flips)
    kept = tuple(b.stop - b.start for b in crop_box(array, turned, "nonzero"))
    voxels = {} if label is None else _class_voxels(label, classes, known)
    millilitres = image.geometry.voxel_volume_ml
    return CaseFacts(
        case,
        turned.shape,
        turned.spacing,
        turned.unit,
        image.modality,
        kept,
        float(np.prod(kept) / np.prod(turned.shape)),
        bool(np.issubdtype(image.array.dtype, np.integer)),
        _foreground(case, image, label),
        _anywhere(image),
        voxels,
        {} if millilitres is None else {name: n * millilitres for name, n in voxels.items()},
        frozenset() if label is None else _on_border(label, voxels),
    )


def _on_border(label: Segmentation, voxels: Mapping[str, int]) -> frozenset[str]:
    from medseg.predict.flags import cut_off

    return frozenset(cut_off(label, {**dict.fromkeys((c.name for c in label.classes), 0), **voxels}))


def _class_voxels(
    label: Segmentation, classes: Sequence[ClassInfo], known: Sequence[str] | None
) -> dict[str, int]:
    drawn = [(k, info) for k, info in enumerate(classes) if known is None or info.name in known]
    if label.regions is not None:
        return {info.name: int(np.count_nonzero(label.regions[k])) for k, info in drawn}
    values, counts = label_values(label.labels)
    table = {int(v): int(n) for v, n in zip(values, counts)}
    return {info.name: table.get(info.index, 0) for _, info in drawn}


def _anywhere(image: Image) -> npt.NDArray[np.float32]:
    return np.stack([sample(channel, SAMPLES) for channel in image.array]).astype(np.float32)


def _foreground(case: str, image: Image, label: Segmentation | None) -> npt.NDArray[np.float32]:
    if label is None or label.geometry.shape != image.geometry.shape:
        return _anywhere(image)
    mask = label.labels > 0 if label.regions is None else label.regions.any(axis=0)
    places = np.flatnonzero(mask)
    if len(places) == 0:
        return np.zeros((len(image.array), 0), np.float32)
    chosen = np.random.default_rng(seed_of(case)).choice(places, SAMPLES)
    index = np.unravel_index(chosen, mask.shape)
    return image.array[(slice(None), *index)].astype(np.float32)


def _require_alike(found: Sequence[CaseFacts]) -> None:
    for what, values in (
        ("numbers of axes", {len(c.shape) for c in found}),
        ("numbers of channels", {len(c.foreground) for c in found}),
    ):
        if len(values) > 1:
            first = {v: next(c.case for c in found if v in (len(c.shape), len(c.foreground))) for v in values}
            listed = ", ".join(f"{v} (case {case})" for v, case in sorted(first.items()))
            raise UserError(f"the cases have different {what}: {listed}", hint="train on one kind of image")
