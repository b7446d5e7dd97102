"""One image in, one segmentation on the image's own grid out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.config import Predict
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.core.segmentation import Segmentation, paint
from medseg.predict.as_made import guided_filter, kept_background, rule_of_parts
from medseg.predict.confidence import Confidence, Disagreement, summary
from medseg.predict.mirrors import mirrors_of
from medseg.predict.slanted import painter_of
from medseg.predict.stream import Painter, Sink
from medseg.predict.upright import mirrored_flags
from medseg.predict.windows import NOTHING_SKIPPED, Cut, Skip, window_size

if TYPE_CHECKING:
    from medseg.ingest.prepare import PreparedImage
    from medseg.model.folder import Model
    from medseg.predict.engines.choose import Choice
    from medseg.predict.shared import SharedPreparation

Tick = Callable[[int, int], None]
"""Told how many windows of how many were computed."""

SinkMaker = Callable[["PreparedImage"], Sink]
"""Makes, for an image, what takes its probabilities."""


def predict_case(
    model: Model, image: Image, settings: Predict | None = None, prompt: Prompt | None = None
) -> Segmentation:
    """Segments an image (C, *S): labels on `image.geometry`, voxel for voxel.

    prompt: for interactive methods, in mm of the patient or px, its class 1 being the first of the model's classes. Raises UserError when the image does not fit the model, or when settings name classes that the model lacks.
    """
    from medseg.predict.mixed import predictor_of

    return predictor_of(model, settings or Predict()).segment(image, prompt=prompt)


@dataclass
class Predictor:
    """A loaded model with its settings; segments one image after the other.

    engine: what computed the windows, in words, known after the first case; choice: the same with its figures. Half
    precision and converted networks are only used when they give the labels of float32 on a window of the first case.
    confidence: of the last case, see `confidence.summary`; empty for classical methods.
    before: the choice that earlier results of the same folder were made with. cases: how many images are to come,
    about. half_sums: see `windows.Cut`; set where memory is short. sums_in_ram: add up logits in main memory although
    the network runs on a GPU, because its memory is too small; only_in_ram: whatever is free. batch_size: windows
    computed at once, 0 for what the settings say; see `retreat`. along: see `windows.Cut`. drawn: the mask of a
    cascade's earlier stage for the image at hand, where it is there already; None: it is drawn.
    """

    model: Model
    settings: Predict
    engine: str = ""
    half_sums: bool = False
    sums_in_ram: bool = False
    only_in_ram: bool = False
    batch_size: int = 0
    along: int | None = None
    cases: int = 1
    before: Choice | None = None
    choice: Choice | None = None
    drawn: Segmentation | None = field(default=None, repr=False)
    prepare: SharedPreparation | None = field(default=None, repr=False)
    confidence: dict[str, Any] = field(default_factory=dict, repr=False)
    _run: Any = field(default=None, repr=False)
    _air_is_background: bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        from medseg.predict.engines.compared import require_answers

        require_answers(self.model, self.settings)

    @property
    def cut(self) -> Cut:
        settings = self.settings
        plan = self.model.plan
        window, batch_size = window_size(settings, plan), self.batch_size or settings.batch_size
        return Cut(window, settings.overlap, batch_size, self.half_sums, plan.margin, self.along, self.turned)

    @cached_property
    def turned(self) -> tuple[int, ...]:
        """Axes along which windows are laid out from the far end: the network was trained on them that way."""
        from medseg.model.turned import axes_of

        return axes_of(self.model.net)

    @cached_property
    def net(self) -> Any:
        """The network as it is run: without its last layer where blending features takes less memory than logits."""
        from medseg.predict.head import without_last_layer

        net, plan = self.model.net, self.model.plan
        if net is None or mirrors_of(self.settings, plan).pairs:
            return net  # classes can be exchanged in logits alone
        return without_last_layer(net, plan.in_channels, self.cut.patch)

    @cached_property
    def earlier(self) -> Predictor | None:
        """What draws the masks of a cascade's earlier stage, with the settings that those of training were made with."""
        earlier, first = self.model.previous, self.model.plan.previous
        if earlier is None or first is None:
            return None
        # No choice of engine by speed: it is not remembered, and all masks of a folder are made in one manner.
        precision = "auto" if self.settings.precision == "int8" else self.settings.precision
        own = {"engine": "torch", "precision": precision, "postprocessing": "none"}
        settings = Predict.model_validate({**first.settings, **own})
        from medseg.predict.mixed import predictor_of

        return predictor_of(earlier, settings, self.cases)

    @property
    def summed(self) -> int | None:
        """Channels that are summed up over windows where these are features with the mark of air; None for logits."""
        from medseg.predict.head import put_off

        head = put_off(self.net)
        return None if head is None else head.features + 1

    @property
    def parts(self) -> tuple[Predictor, ...]:
        """What is averaged on the case's own grid, one predictor a configuration; nothing but for `MixedPredictor`."""
        return ()

    @property
    def device(self) -> str:
        """Where the network runs."""
        net = self.model.net
        return "cpu" if net is None else str(next((p.device for p in net.parameters()), "cpu"))

    @property
    def members(self) -> int:
        """How many networks are averaged."""
        return len(getattr(self.model.net, "members", (None,)))

    @property
    def accumulators(self) -> int:
        """How many sums of logits are open at once: logits are averaged before they are summed up."""
        return self.members if self.settings.ensemble == "probabilities" else 1

    @property
    def answers_twice(self) -> bool:
        """Whether a network answers each window more than once: mirrored copies, passes with dropout."""
        return (
            self.settings.disagreement == "dropout"
            or len(mirrors_of(self.settings, self.model.plan).copies) > 1
        )

    def windows(self, prepared: PreparedImage) -> int:
        """How many windows a prepared image is cut into."""
        return self.cut.count(prepared.geometry.shape)

    def segment(
        self,
        image: Image,
        tick: Tick | None = None,
        sink: SinkMaker | None = None,
        prompt: Prompt | None = None,
    ) -> Segmentation:
        """Segments one image. prompt: for interactive methods; networks have no use for it."""
        if self.model.net is None:
            from medseg.predict.prompts import facts_of

            facts = {"windows": 0, "prompt": facts_of(prompt)}
            return self._finished(*self._classical(image, prompt), image, facts)
        start = time.monotonic()
        prepared = self.prepared(image)
        ready = time.monotonic()
        skip = self.air(image, prepared)
        labels, regions = self.segment_prepared(prepared, tick, sink and sink(prepared), skip)
        facts = {
            "windows": self.windows(prepared),
            "windows_of_air": len(skip.windows),
            "seconds_prepare": round(ready - start, 3),
            "seconds_windows": round(time.monotonic() - ready, 3),
        }
        return self.concluded(image, prepared, labels, regions, facts)

    def prepared(self, image: Image) -> PreparedImage:
        """The image as the network sees it; in a cascade with the masks of the earlier stage, which are drawn now."""
        from medseg.ingest.prepare import prepare_image

        drawn = self.drawn
        if drawn is None and self.earlier is not None:
            drawn = self.earlier.segment(image)
        prepared = (self.prepare or prepare_image)(image, self.model.plan)
        if drawn is None:
            return prepared
        from medseg.ingest.previous import with_previous

        return with_previous(prepared, drawn, self.model.plan)

    def concluded(
        self, image: Image, prepared: PreparedImage, labels: Any, regions: Any, facts: dict
    ) -> Segmentation:
        """The segmentation from labels on the image's own grid, with all that comes after the network."""
        grid = prepared.geometry
        mirrored = mirrored_flags(self.model.facts.get("upright"), prepared.array[0], grid.spacing)
        facts = {"mirrored": tuple(mirrored), "confidence": self.confidence, **facts}
        return self._finished(labels, regions, self.model.classes, image, facts)

    def segment_prepared(
        self,
        prepared: PreparedImage,
        tick: Tick | None = None,
        sink: Sink | None = None,
        skip: Skip = NOTHING_SKIPPED,
    ) -> tuple[Any, Any]:
        """Label values (*S) on the source's grid, and regions where classes overlap. skip: windows left out."""
        plan, cut = self.model.plan, self.cut
        array = self.opened(prepared)
        lead = cut.lead(prepared.geometry.shape)
        painter = painter_of(prepared, plan, lead, sink, kept_background(self.settings, plan))
        counter = Counter(tick, cut.count(prepared.geometry.shape)) if tick else None
        seen, differing = self._watched(prepared)
        for slab in self.slabs(array, counter, skip):
            seen.take(slab)
            painter.take(slab)
        self.confidence = summary([info.name for info in self.model.classes], seen, differing)
        return self.painted(painter)

    def painted(self, painter: Painter) -> tuple[Any, Any]:
        """Label values and regions of a painter that has taken every plane."""
        from medseg.ingest.targets import decode

        positions, regions = painter.finish()
        if regions is not None:
            return paint(regions, self.model.classes), regions
        return _decoded(positions, decode, self.model.plan), None

    def opened(self, prepared: PreparedImage) -> Any:
        """The prepared image as a tensor, with the engine ready for it."""
        import torch

        array = torch.from_numpy(prepared.array)
        self._open(array)
        self._run.blend_on = "cpu" if self.sums_in_ram or self.only_in_ram else self.device
        return array

    def _watched(self, prepared: PreparedImage) -> tuple[Confidence, Disagreement | None]:
        """What adds up, over the case that begins now, how sure the network is and how far several answers differ."""
        plan, shape = self.model.plan, prepared.geometry.shape
        kind = (plan.out_channels, plan.background, plan.overlapping)
        differing = None
        if self.members > 1 or self.settings.disagreement != "auto":
            differing = self._run.watch = Disagreement(*kind)
        return Confidence(shape, self.cut.lead(shape), *kind), differing

    def slabs(self, array: Any, counter: Counter | None, skip: Skip) -> Any:
        """Logits of the image in slabs; of an ensemble the mean of what `predict.ensemble` says."""
        from medseg.predict.ensemble import stream_mean_chances
        from medseg.predict.windows import stream_logits

        plan, cut = self.model.plan, self.cut
        if self.accumulators == 1:
            return stream_logits(self._run, array, cut, plan.out_channels, counter, skip)
        return stream_mean_chances(self._run, array, cut, plan.out_channels, plan.overlapping, counter, skip)

    def _open(self, array: Any) -> None:
        """Chooses the engine on the first image (C, *S). Raises UserError where a GPU is too small to compare them."""
        if self._run is not None:
            return
        import torch

        from medseg.predict.engines.choose import Wish, choose
        from medseg.predict.engines.gate import samples_of
        from medseg.predict.engines.several import engine_of
        from medseg.predict.head import put_off

        net, plan, settings = self.net, self.model.plan, self.settings
        mirrors = mirrors_of(settings, plan)
        windows = self.cases * self.cut.count(tuple(array.shape[1:])) * len(mirrors.copies)
        engine = "torch" if settings.disagreement == "dropout" else settings.engine
        wish = Wish(engine, settings.precision, self.device, windows, plan.background, plan.overlapping,
                    f"{self.model.hash}-features" if put_off(net) else self.model.hash, self.before)  # fmt: skip
        try:
            chosen = choose(net, samples_of(array, self.cut.patch, settings.precision), wish)
        except torch.OutOfMemoryError as err:
            hint = "take predict.precision: fp16, which is not compared with it, or compute.device: cpu"
            where = f"predict.precision: {settings.precision}"
            raise UserError("the GPU's memory does not hold a window in fp32", where, hint) from err
        self.choice = chosen.choice
        self._run = engine_of(
            net,
            autocast=chosen.autocast,
            forwards=chosen.forwards,
            mirrors=mirrors,
            compare=settings.disagreement,
        )
        several = "" if self.members == 1 else f", {self.members} members, mean of {settings.ensemble}"
        self.engine = f"{self.choice.why}{several}"

    def air(self, image: Image, prepared: PreparedImage) -> Skip:
        """Windows of air around the body, where `predict.skip_air` and the network allow to leave them out."""
        import torch

        from medseg.predict.air import air_windows, calls_air_background, pure_air
        from medseg.predict.head import logits_of

        plan = self.model.plan
        if not self.settings.skip_air or self._air_is_background is False:
            return NOTHING_SKIPPED
        skip = air_windows(image, prepared, plan, self.cut)
        if skip.windows and self._air_is_background is None:
            self._open(torch.from_numpy(prepared.array))
            answer = logits_of(self._run, pure_air(plan, self.cut.patch))
            self._air_is_background = calls_air_background(answer, plan)
        return skip if self._air_is_background else NOTHING_SKIPPED

    def _classical(self, image: Image, prompt: Prompt | None) -> tuple[Any, None, Any]:
        from medseg.predict.classical import segment_as
        from medseg.predict.prompts import require_prompt

        self.engine = "classical method"
        require_prompt(self.model, prompt)
        labels, classes = segment_as(self.model.classical, image, self.model.classes, prompt)
        return labels, None, classes

    def _finished(self, labels: Any, regions: Any, classes: Any, image: Image, facts: dict) -> Segmentation:
        from medseg.predict.postprocess import apply_steps, remove_small, remove_unlikely, tidy

        notes, torn = self._follow_edges(labels, regions, image), list[str]()
        settings, voxel_ml = self.settings, image.geometry.voxel_volume_ml
        notes += tidy(labels, regions, classes, settings.keep_largest, settings.fill_holes, torn)
        notes += remove_small(labels, regions, classes, self._rule("smallest_part_ml"), voxel_ml)
        notes += remove_unlikely(labels, regions, classes, self._rule("part_median"), image.array, torn)
        if self.settings.postprocessing == "auto":
            notes += apply_steps(labels, regions, classes, self.model.facts.get("postprocessing", ()), torn)
        if regions is not None and notes:
            labels = paint(regions, classes)
        provenance = {
            "system": self.model.system.slug,
            "model": self.model.hash,
            "engine": self.engine,
            "notes": tuple(notes),
            "torn": tuple(torn),
            **facts,
        }
        return Segmentation(labels, image.geometry, tuple(classes), regions, provenance=provenance)

    def _rule(self, name: str) -> dict[str, Any]:
        return rule_of_parts(self.settings, self.model.plan, name)

    def _follow_edges(self, labels: Any, regions: Any, image: Image) -> list[str]:
        """Borders on the image's own edges, where the pipeline or the model asks for it; says how many voxels moved."""
        from medseg.predict.guided_filter import follow_edges

        setting = guided_filter(self.settings, self.model.plan)
        if setting is None:
            return []
        spacing = image.geometry.spacing
        moved = follow_edges(labels, regions, image.array, spacing, setting, self.model.plan.intensity)
        return [f"borders follow the image's edges (guided filter): {moved} voxels changed"]


@dataclass
class Counter:
    """Adds up windows as they are computed."""

    tick: Tick
    total: int
    done: int = 0

    def __call__(self, windows: int) -> None:
        self.done += windows
        self.tick(self.done, self.total)


def _decoded(positions: Any, decode: Any, plan: Any) -> Any:
    """Positions -> label values; nothing is copied where they are the same."""
    wanted = [info["index"] for info in plan.classes]
    if wanted == [position + plan.background for position in range(len(wanted))]:
        return positions
    # Look-ups keep the memory order of a contiguous array only, so the planes are done in that order.
    axes = np.argsort([-s for s in positions.strides], kind="stable")
    return decode(positions.transpose(axes), plan).transpose(np.argsort(axes))
