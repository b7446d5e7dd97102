"""The mean of networks that see different windows of different grids: plane by plane, on the case's own grid.

nnU-Net averages the probabilities of two configurations, 2D and 3D most often, voxel by voxel on the case's grid (Isensee
et al. 2021, doi:10.1038/s41592-020-01008-z). Here no probabilities of a whole case exist: every configuration carries its
own logits to the case's grid as it does alone, all of them walk along one axis of the case in step, and what is averaged
are the planes that all of them have finished. Members of one configuration are averaged before, as an ensemble is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, prod
from typing import TYPE_CHECKING

from medseg.config import Plan, Predict
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.prompt import Prompt
from medseg.core.segmentation import Segmentation
from medseg.predict.as_made import kept_background
from medseg.predict.case import Counter, Predictor, SinkMaker, Tick
from medseg.predict.confidence import Confidence, Disagreement, summary
from medseg.predict.ensemble import LEAST
from medseg.predict.memory import Estimate
from medseg.predict.slanted import painter_of
from medseg.predict.windows import Skip, Slab

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.ingest.prepare import PreparedImage
    from medseg.model.folder import Model


PIECE = 2
"""Planes of a slab that are carried to the case's grid at once."""


def predictor_of(model: Model, settings: Predict, cases: int = 1) -> Predictor:
    """What predicts `cases` images with a model: where its members see different windows a `MixedPredictor`."""
    return (MixedPredictor if model.parts else Predictor)(model, settings, cases=cases)


@dataclass
class MixedPredictor(Predictor):
    """Predicts with several configurations and averages their probabilities. See `Predictor`."""

    @cached_property
    def parts(self) -> tuple[Predictor, ...]:
        # No choice of engine by speed: it would have to be remembered for each part of each folder.
        precision = "auto" if self.settings.precision == "int8" else self.settings.precision
        settings = self.settings.model_copy(update={"engine": "torch", "precision": precision})
        return tuple(Predictor(model, settings, cases=self.cases) for model in self.model.parts)

    def segment(
        self,
        image: Image,
        tick: Tick | None = None,
        sink: SinkMaker | None = None,
        prompt: Prompt | None = None,
    ) -> Segmentation:
        """Segments one image. prompt: networks have no use for it."""
        start = time.monotonic()
        lead = self.agree(image.geometry)
        prepared = [part.prepared(image) for part in self.parts]
        ready = time.monotonic()
        skips = [part.air(image, one) for part, one in zip(self.parts, prepared)]
        count = sum(part.windows(one) for part, one in zip(self.parts, prepared))
        counter = Counter(tick, count) if tick else None
        streams = [
            planes_of(part, one, lead, counter, skip)
            for part, one, skip in zip(self.parts, prepared, skips, strict=True)
        ]
        plan, given = self.model.plan, sink and sink(prepared[0])
        painter = painter_of(prepared[0], plan, lead, given, kept_background(self.settings, plan))
        look = _Look(self.model.plan, prepared[0].kept.shape, lead)
        for index, planes in enumerate(zip(*streams, strict=True)):
            mean = planes[0].clone()
            for plane in planes[1:]:
                mean += plane.to(mean.device)
            mean /= len(planes)
            look.take(index, planes, mean)
            painter.put(index, mean)
        self.confidence = summary([info.name for info in self.model.classes], look.seen, look.differing)
        labels, regions = self.painted(painter)
        self.engine = f"mean of probabilities of {len(self.parts)} configurations: " + "; ".join(
            part.engine for part in self.parts
        )
        facts = {
            "windows": count,
            "windows_of_air": sum(len(skip.windows) for skip in skips),
            "seconds_prepare": round(ready - start, 3),
            "seconds_windows": round(time.monotonic() - ready, 3),
        }
        return self.concluded(image, prepared[0], labels, regions, facts)

    def agree(self, geometry: Geometry) -> int:
        """Makes all parts walk along one axis of the case, that which keeps the fewest logits open. Returns it."""
        grids = [grid_of(geometry, part.model.plan) for part in self.parts]
        costs = [0.0] * geometry.ndim
        for part, shape in zip(self.parts, grids):
            padded, patch = part.cut.padded(shape), part.cut.patch
            for axis in range(geometry.ndim):
                costs[axis] += (part.summed or part.model.plan.out_channels) * part.accumulators * (
                    prod(padded) / padded[axis] * patch[axis]
                )  # fmt: skip
        lead = costs.index(min(costs))
        for part in self.parts:
            part.along, part.half_sums = lead, self.half_sums
        return lead


def grid_of(geometry: Geometry, plan: Plan) -> tuple[int, ...]:
    """The shape of an uncropped case on the grid of a plan, axes in RAS+ order."""
    return plan.grid_of(geometry.reoriented()[0]).shape


def planes_of(
    part: Predictor, prepared: PreparedImage, lead: int, counter: Counter | None, skip: Skip
) -> Iterator[Tensor]:
    """Probabilities (K, *S) of one plane of the case after the other along axis `lead`, as one part alone gives them."""
    finished: deque[Tensor] = deque()

    def keep(_: tuple[slice, ...], chances: Tensor) -> None:
        finished.append(chances.squeeze(lead + 1))

    painter = painter_of(prepared, part.model.plan, lead, keep)
    for slab in part.slabs(part.opened(prepared), counter, skip):
        for piece in _pieces(slab):
            painter.take(piece)
            while finished:
                yield finished.popleft()


def _pieces(slab: Slab) -> Iterator[Slab]:
    """A slab in pieces of few planes, so that few planes of the case wait for the other parts."""
    for start in range(slab.start, slab.stop, PIECE):
        stop = min(start + PIECE, slab.stop)
        logits = slab.logits.narrow(slab.lead + 1, start - slab.start, stop - start)
        yield Slab(slab.lead, start, stop, logits)


class _Look:
    """How sure the mean is and how far the configurations differ, taken on the planes of the case."""

    def __init__(self, plan: Plan, shape: Sequence[int], lead: int) -> None:
        self.lead, self.overlapping = lead, plan.overlapping
        kind = (plan.out_channels, plan.background, plan.overlapping)
        self.seen, self.differing = Confidence(shape, lead, *kind), Disagreement(*kind)

    def take(self, index: int, planes: Sequence[Tensor], mean: Tensor) -> None:
        parts = [self.differing.labels(self._logits(one)) for one in planes]
        logits = self._logits(mean)
        self.differing.take(parts, self.differing.labels(logits))
        self.seen.take(Slab(self.lead, index, index + 1, logits.unsqueeze(self.lead + 1)))

    def _logits(self, chances: Tensor) -> Tensor:
        clear = chances.clamp(LEAST, 1 - LEAST)
        return clear.logit_() if self.overlapping else clear.log_()


def together(needs: Sequence[Estimate], predictor: MixedPredictor, geometry: Geometry) -> Estimate:
    """What a case takes when all parts walk in step, each with its own prepared image and its own open planes.

    Planes of the case that wait: as many of each part as a piece of its slab gives, their mean, and two at work.
    """
    lead = predictor.agree(geometry)
    turned, _, _ = geometry.reoriented()
    ratios = [turned.shape[lead] / grid_of(geometry, part.model.plan)[lead] for part in predictor.parts]
    waiting = sum(ceil(PIECE * ratio) + 3 for ratio in ratios) + 4
    own = 4 * predictor.model.plan.out_channels * (prod(turned.shape) // turned.shape[lead]) * waiting
    return replace(
        needs[0],
        prepared=sum(need.prepared for need in needs),
        sums=sum(need.sums for need in needs),
        windows=max(need.windows for need in needs),
        planes=sum(need.planes for need in needs) + own,
        labels=sum(need.labels for need in needs) + needs[0].labels,
        borders=max(need.borders for need in needs),
    )


def each(predictor: Predictor) -> list[Predictor]:
    """A predictor, the parts that it averages, and their earlier stages."""
    inside = [*predictor.parts, *([predictor.earlier] if predictor.earlier else [])]
    return [predictor, *(one for part in inside for one in each(part))]
