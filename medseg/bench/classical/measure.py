"""What one method gives on one set of images: agreement with the truth, processor time, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.bench.classical.fit import BASELINES, BOX, GRID, PEOPLE, prompted, rule_of
from medseg.bench.classical.images import Sample, samples
from medseg.bench.classical.recipe import ImageSet
from medseg.bench.classical.rules import best_union, box_around, object_in, parted, prompt_for
from medseg.core.machine import peak_ram_bytes
from medseg.metrics.boundaries import BoundaryCounts, boundary_counts, boundary_of, tolerance_px
from medseg.metrics.overlap import dice, iou
from medseg.metrics.pair import Pair
from medseg.metrics.regions import connected, covering
from medseg.zoo.build import build, find

Labels = npt.NDArray[Any]
Facts = dict[str, Any]
DIGITS = 4


def measure(name: str, images: ImageSet, root: Path | None) -> Facts:
    """The figures of a method or baseline. Raises what the method raises."""
    if images.measures == "speed":
        from medseg.bench.classical.speed import speed

        return speed(name, images)
    kind = regions if images.measures == "regions" else objects
    return {**kind(name, images, samples(images, root)), "peak_ram_bytes": peak_ram_bytes()}


def runner(name: str, images: ImageSet) -> Callable[..., Labels]:
    """A function of a sample (and arguments) that gives the method's labels (*S)."""
    card = find(name)
    method = build(name, dims=images.dims, in_channels=1, classes=2)

    def run(sample: Sample, arguments: Mapping[str, Any]) -> Labels:
        prompt = prompt_for(card, sample) if prompted(card, images) else None
        return np.asarray(method.segment(sample.image, sample.spacing_mm, prompt, **arguments))

    return run


# --- objects ------------------------------------------------------------------------------------------------------


def objects(name: str, images: ImageSet, given: Iterator[Sample]) -> Facts:
    """Mean Dice and IoU of the object by the set's rule, and of the best union of the method's labels."""
    from medseg.zoo.classical.otsu import intensity

    settings = images.settings_of(name)[0]
    run = None if name in BASELINES else runner(name, images)
    rule = "own" if run is None else rule_of(find(name), images)
    rows, seconds, rates = [], [], []
    for sample in given:
        assert sample.truth is not None
        start = time.process_time()
        labels = baseline_object(name, sample) if run is None else run(sample, settings)
        seconds.append(time.process_time() - start)
        rates.append(sample.truth.size)
        found = object_in(labels, intensity(sample.image), rule)
        pieces = parted(labels) if rule == "dark_inside" else labels
        pairs = [
            Pair.of(mask, sample.truth, sample.spacing_mm, sample.valid)
            for mask in (found, best_union(pieces, sample.truth, sample.valid))
        ]
        rows.append((dice(pairs[0]) or 0.0, iou(pairs[0]) or 0.0, dice(pairs[1]) or 0.0))
    found_means = [round(mean(column), DIGITS) for column in zip(*rows, strict=True)]
    return {
        "images": len(rows),
        **dict(zip(("dice", "iou", "oracle_dice"), found_means, strict=True)),
        "worst_dice": round(min(row[0] for row in rows), DIGITS),
        "rule": rule,
        "prompted": run is not None and prompted(find(name), images),
        "arguments": settings,
        "cpu_seconds": round(median(seconds), DIGITS),
        "voxels": round(mean(rates)),
    }


def baseline_object(name: str, sample: Sample) -> Labels:
    """Everything, or everything in the box."""
    assert sample.truth is not None
    labels = np.zeros(sample.truth.shape, np.uint8)
    box = sample.box or box_around(sample.truth)
    labels[box if name == BOX and box is not None else ...] = 1
    return labels


# --- regions ------------------------------------------------------------------------------------------------------


def regions(name: str, images: ImageSet, given: Iterator[Sample]) -> Facts:
    """Covering and boundary F of connected regions, at the best setting for the set (ODS) and an image (OIS)."""
    settings = [{}] if name in BASELINES else images.settings_of(name)
    run = None if name in BASELINES else runner(name, images)
    covers: list[list[float]] = []
    counts: list[list[BoundaryCounts]] = []
    seconds = []
    for sample in given:
        lines = [boundary_of(person) for person in sample.people]
        tolerance = tolerance_px(sample.image.shape[1:])
        if name == PEOPLE:
            covers.append([mean(_covering(p, o) for p, o in one_against_others(sample.people))])
            pairs = one_against_others(lines)
            counts.append([sum((boundary_counts(p, o, tolerance) for p, o in pairs), BoundaryCounts())])
            continue
        row = []
        for arguments in settings:
            start = time.process_time()
            labels = baseline_regions(name, sample) if run is None else run(sample, arguments)
            seconds.append(time.process_time() - start)
            parts = connected(labels)
            own = edges_of(name, run, sample, arguments)
            edges = boundary_of(parts) if own is None else own
            row.append((_covering(parts, sample.people), boundary_counts(edges, lines, tolerance)))
        covers.append([cover for cover, _ in row])
        counts.append([count for _, count in row])
    best = best_of(covers, counts)
    return {
        "images": len(covers),
        **best,
        "settings": settings,
        "cpu_seconds": round(median(seconds), DIGITS) if seconds else 0.0,
    }


def best_of(covers: Sequence[Sequence[float]], counts: Sequence[Sequence[BoundaryCounts]]) -> Facts:
    """ODS: the one setting that is best for all images together; OIS: the best setting of each image.

    covers, counts: a row an image, a column a setting.
    """
    by_setting = [mean(column) for column in zip(*covers, strict=True)]
    sums = [sum(column, BoundaryCounts()) for column in zip(*counts, strict=True)]
    best = max(sums, key=lambda c: c.f)
    single = sum((max(row, key=lambda c: c.f) for row in counts), BoundaryCounts())
    figures = {
        "covering_ods": max(by_setting),
        "covering_ois": mean(max(row) for row in covers),
        "boundary_f_ods": best.f,
        "boundary_f_ois": single.f,
        "precision": best.precision,
        "recall": best.recall,
    }
    return {name: round(value, DIGITS) for name, value in figures.items()} | {
        "best_setting": by_setting.index(max(by_setting))
    }


def edges_of(
    name: str, run: Callable[..., Labels] | None, sample: Sample, arguments: Mapping[str, Any]
) -> npt.NDArray[np.bool_] | None:
    """The edges of a method that gives edges beside regions, thinned; None for the others."""
    from skimage.morphology import thin

    if run is None or not name.startswith("edge-") or name == "edge-serial":
        return None
    return np.asarray(thin(run(sample, {**arguments, "output": "edges"}) > 0))


def baseline_regions(name: str, sample: Sample) -> Labels:
    """One region, or 4 x 4 rectangles."""
    rows, columns = np.mgrid[tuple(slice(0, n) for n in sample.image.shape[1:])]
    if name != GRID:
        return np.zeros(rows.shape, np.int64)
    return 4 * (rows * 4 // rows.shape[0]) + columns * 4 // rows.shape[1]


def _covering(parts: Labels, people: Sequence[Labels]) -> float:
    return mean(covering(parts, person) for person in people)


def one_against_others(people: Sequence[Labels]) -> list[tuple[Labels, Sequence[Labels]]]:
    """Each person's array with those of all the others."""
    return [(person, [*people[:n], *people[n + 1 :]]) for n, person in enumerate(people)]
