"""One image in, one segmentation on the image's own grid out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.config import Predict
from medseg.core.case import Image
from medseg.core.segmentation import Segmentation, paint
from medseg.predict.stream import Painter, Sink
from medseg.predict.windows import Cut

if TYPE_CHECKING:
    from medseg.ingest.prepare import PreparedImage
    from medseg.model.folder import Model

Tick = Callable[[int, int], None]
"""Told how many windows of how many were computed."""

SinkMaker = Callable[["PreparedImage"], Sink]
"""Makes, for an image, what takes its probabilities."""


def predict_case(model: Model, image: Image, settings: Predict | None = None) -> Segmentation:
    """Segments an image (C, *S): labels on `image.geometry`, voxel for voxel.

    Raises UserError when the image does not fit the model, or when settings name classes that the model lacks.
    """
    return Predictor(model, settings or Predict()).segment(image)


@dataclass
class Predictor:
    """A loaded model with its settings; segments one image after the other.

    engine: what computed the windows, in words, known after the first case. Half precision is only used when it gives
    the same labels as float32 on a window of the first case. half_sums: see `windows.Cut`; set where memory is short.
    sums_in_ram: add up logits in main memory although the network runs on a GPU, because its memory is too small.
    """

    model: Model
    settings: Predict
    engine: str = ""
    half_sums: bool = False
    sums_in_ram: bool = False
    _run: Any = field(default=None, repr=False)

    @property
    def cut(self) -> Cut:
        settings = self.settings
        return Cut(tuple(self.model.plan.patch_size), settings.overlap, settings.batch_size, self.half_sums)

    @property
    def device(self) -> str:
        """Where the network runs."""
        net = self.model.net
        return "cpu" if net is None else str(next((p.device for p in net.parameters()), "cpu"))

    def windows(self, prepared: PreparedImage) -> int:
        """How many windows a prepared image is cut into."""
        return self.cut.count(prepared.geometry.shape)

    def segment(self, image: Image, tick: Tick | None = None, sink: SinkMaker | None = None) -> Segmentation:
        """Segments one image."""
        if self.model.net is None:
            return self._finished(*self._classical(image), image, {"windows": 0})
        from medseg.ingest.prepare import prepare_image

        start = time.monotonic()
        prepared = prepare_image(image, self.model.plan)
        ready = time.monotonic()
        labels, regions = self.segment_prepared(prepared, tick, sink and sink(prepared))
        facts = {
            "windows": self.windows(prepared),
            "seconds_prepare": round(ready - start, 3),
            "seconds_windows": round(time.monotonic() - ready, 3),
        }
        return self._finished(labels, regions, self.model.classes, image, facts)

    def segment_prepared(
        self, prepared: PreparedImage, tick: Tick | None = None, sink: Sink | None = None
    ) -> tuple[Any, Any]:
        """Label values (*S) on the source's grid, and regions where classes overlap."""
        import torch

        from medseg.ingest.targets import decode
        from medseg.predict.windows import stream_logits

        plan, cut = self.model.plan, self.cut
        array = torch.from_numpy(prepared.array)
        if self._run is None:
            self._choose_engine(array)
        self._run.blend_on = "cpu" if self.sums_in_ram else self.device
        painter = _painter(prepared, plan, cut.lead(prepared.geometry.shape), sink)
        counter = _Counter(tick, cut.count(prepared.geometry.shape)) if tick else None
        for slab in stream_logits(self._run, array, cut, plan.out_channels, counter):
            painter.take(slab)
        positions, regions = painter.finish()
        if regions is not None:
            return paint(regions, self.model.classes), regions
        return _decoded(positions, decode, plan), None

    def _choose_engine(self, array: Any) -> None:
        """Eager PyTorch in the number type asked for; automatic half precision has to pass on this very image."""
        from medseg.predict.engines.eager import Eager
        from medseg.predict.precision import PARITY, number_type, parity

        net = self.model.net
        assert net is not None
        flips = self.model.plan.mirror_axes if self.settings.flips else ()
        device = Eager(net).device
        dtype, why = number_type(self.settings.precision, device)
        if dtype is not None and self.settings.precision == "auto":
            plan = self.model.plan
            dice = parity(net, _middle(array, self.cut.patch), dtype, plan.background, plan.overlapping)
            why += f", Dice {dice:.5f} against fp32"
            if dice < PARITY:
                dtype, why = None, f"fp32: half precision has a Dice of only {dice:.5f} against it"
        self._run = Eager(net, autocast=dtype, flips=flips)
        self.engine = f"torch {why}"

    def _classical(self, image: Image) -> tuple[Any, None, Any]:
        from medseg.predict.classical import segment_classical, translate

        self.engine = "classical method"
        method = self.model.classical
        labels, classes = translate(segment_classical(method, image), method, self.model.classes)
        return labels, None, classes

    def _finished(self, labels: Any, regions: Any, classes: Any, image: Image, facts: dict) -> Segmentation:
        from medseg.predict.postprocess import tidy

        notes = tidy(labels, regions, classes, self.settings.keep_largest, self.settings.fill_holes)
        if regions is not None and notes:
            labels = paint(regions, classes)
        provenance = {
            "system": self.model.system.slug,
            "model": self.model.hash,
            "engine": self.engine,
            "notes": tuple(notes),
            **facts,
        }
        return Segmentation(labels, image.geometry, tuple(classes), regions, provenance=provenance)


@dataclass
class _Counter:
    """Adds up windows as they are computed."""

    tick: Tick
    total: int
    done: int = 0

    def __call__(self, windows: int) -> None:
        self.done += windows
        self.tick(self.done, self.total)


def _painter(prepared: PreparedImage, plan: Any, lead: int, sink: Sink | None) -> Painter:
    if prepared.straight:
        return Painter(prepared, plan, lead, sink)
    from medseg.predict.slanted import SlantedPainter

    return SlantedPainter(prepared, plan, lead, sink)


def _decoded(positions: Any, decode: Any, plan: Any) -> Any:
    """Positions -> label values; nothing is copied where they are the same."""
    wanted = [info["index"] for info in plan.classes]
    if wanted == [position + plan.background for position in range(len(wanted))]:
        return positions
    # Look-ups keep the memory order of a contiguous array only, so the planes are done in that order.
    axes = np.argsort([-s for s in positions.strides], kind="stable")
    return decode(positions.transpose(axes), plan).transpose(np.argsort(axes))


def _middle(array: Any, patch: tuple[int, ...]) -> Any:
    """The window in the middle of an image (C, *S), padded with 0 where the image is smaller."""
    from torch.nn.functional import pad

    starts = [max(0, (n - p) // 2) for n, p in zip(array.shape[1:], patch)]
    window = array[(slice(None), *(slice(s, s + p) for s, p in zip(starts, patch)))]
    missing = [p - n for n, p in zip(window.shape[1:], patch)]
    return pad(window, [n for m in reversed(missing) for n in (0, m)])
