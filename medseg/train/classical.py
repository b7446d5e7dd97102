"""The training of classical methods: what a method learns from labelled cases, and the search for its arguments.

A search tries the values that the method's row of the catalog names (`Card.search`), alone and combined, and keeps those
of the best mean Dice over the training cases. One case is read at a time and every setting is tried on it, so that the
comparison is fair whenever `train.minutes` are over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medseg.config import Pipeline, Plan
from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.progress import Progress, duration, say
from medseg.core.prompt import Prompt
from medseg.core.run import Result, RunFolder
from medseg.core.segmentation import Segmentation

Opened = tuple[str, Callable[[], tuple[Image, Segmentation, Prompt | None]]]
"""A labelled case: its name, and what reads image, label and prompt."""


@dataclass
class Tried:
    """One setting: Dice of the cases in their order; why it could not be used, if so."""

    arguments: dict[str, Any]
    dice: list[float] = field(default_factory=list)
    reason: str = ""

    def mean(self, cases: int) -> float:
        """Mean Dice over the first `cases` cases; below 0 for a setting that failed or was not tried on them."""
        return -1.0 if self.reason or len(self.dice) < cases else float(np.mean(self.dice[:cases]))

    def as_json(self, cases: int) -> dict[str, Any]:
        mean = self.mean(cases)
        found = {"arguments": self.arguments, "dice": None if mean < 0 else round(mean, 5)}
        return {**found, "reason": self.reason} if self.reason else found


def train_classical(pipeline: Pipeline, folder: RunFolder, plan: Plan) -> Result:
    """Fits and searches where that is possible and asked for, and writes the model folder."""
    from medseg.model.folder import build_system, save_model
    from medseg.model.learnt import learnt_facts
    from medseg.train.stage import data_hash

    start = time.monotonic()
    system = pipeline.only_system
    method = build_system(system, plan)
    train, val = labelled_cases(pipeline, folder, method)
    facts: dict[str, Any] = {}
    words: list[str] = []
    if hasattr(getattr(method, "method", None), "fit") and train and pipeline.predict.prompt is None:
        learnt = method.fit([_lazy(name, read) for name, read in train])
        method.arguments.update(learnt)
        facts["fitted"] = len(train)
        words.append(f"{system.name} fitted to {len(train)} cases{f': {learnt}' if learnt else ''}")
    if pipeline.train.search and train:
        found = search(method, train, pipeline, plan)
        method.arguments.update(found["best"])
        facts["search"] = found
        words.append(in_words(found, time.monotonic() - start))
    scores = validated(method, val, plan) if facts and val else {}
    if scores:
        words.append(f"validation Dice {scores['dice']:.3f} on {scores['n']} cases")
    if not words:
        words.append(f"nothing to train: {system.name} is computed")
    own = {k: v for k, v in method.arguments.items() if k not in _of_size(system) or _of_size(system)[k] != v}
    training = {**facts, "seconds": round(time.monotonic() - start, 1), "seed": pipeline.compute.seed}
    digest = save_model(
        folder.model,
        method.state() if facts else None,
        system=system.model_copy(update={"arguments": {**system.arguments, **own}}),
        plan=plan,
        scores=scores,
        data_hash=data_hash(folder),
        extra={
            "training": {**training, "cases": len(train)},
            "learnt_from": learnt_facts(folder, [name for name, _ in train]),
        }
        if facts
        else {},
    )
    details = {"model": digest, **({"val_dice": scores["dice"], "val_iou": scores["iou"]} if scores else {})}
    return Result("train", ", ".join(words), len(train) if facts else 0, details=details)


def _of_size(system: Any) -> Mapping[str, Any]:
    """The arguments that the system's size has anyway."""
    from medseg.zoo.build import find

    return find(system.name).sizes.get(system.size, {})


def labelled_cases(pipeline: Pipeline, folder: RunFolder, method: Any) -> tuple[list[Opened], list[Opened]]:
    """The labelled training and validation cases, not yet read."""
    from medseg.data.cohort import cases_of, load_cohort, open_case
    from medseg.predict.prompts import find_hints

    cohort = load_cohort(folder)
    prompted = getattr(method, "takes_prompt", False)

    def opened(row: Any) -> Opened:
        def read() -> tuple[Image, Segmentation, Prompt | None]:
            case = open_case(row, pipeline.data, cohort.classes)
            image = case.image()
            label = case.label(image.geometry)
            hints = find_hints(row, pipeline.data, pipeline.predict.prompt, cohort.classes)
            return image, label, hints.read(image) if prompted else None

        return row.case, read

    train, val = (
        [opened(row) for row in cases_of(cohort, split) if row.labels]
        for split in ("train", "val")  # type: ignore[arg-type]
    )
    return train, val


def _lazy(name: str, read: Callable[[], tuple[Image, Segmentation, Prompt | None]]) -> Case:
    return Case(name, name, lambda: read()[0], lambda: read()[1])


# --- the search ---------------------------------------------------------------------------------------------------


def search(method: Any, cases: Sequence[Opened], pipeline: Pipeline, plan: Plan) -> dict[str, Any]:
    """Tries settings on cases until all were seen or `train.minutes` are over.

    Returns {"best": arguments, "dice", "published": Dice of the setting as it was, "cases", "tried": table}. Raises
    UserError for a method without anything to search, and where no setting worked.
    """
    settings = [Tried(arguments) for arguments in candidates(method, pipeline)]
    rng = np.random.default_rng(pipeline.compute.seed)
    order = [cases[i] for i in rng.permutation(len(cases))]
    until = time.monotonic() + 60 * (pipeline.train.minutes or np.inf)
    done = 0
    with Progress("search", len(order)) as bar:
        for name, read in order:
            bar.set(done, f"case {name}")
            if not _try_all(method, settings, read(), plan, until, bar, done):
                break
            done += 1
    # A first case that was not finished still compares the settings that were tried on it.
    seen = max(done, 1)
    best = max(settings, key=lambda one: one.mean(seen))
    if best.mean(seen) < 0:
        raise UserError(
            f"no setting of {method.name} could be used: {settings[0].reason or 'the time was over before the first'}",
            "train.search",
            "give it other arguments, or more train.minutes",
        )
    return {
        "best": best.arguments,
        "dice": round(best.mean(seen), 5),
        "published": settings[0].as_json(seen)["dice"],
        "cases": seen,
        "of": len(order),
        "tried": [one.as_json(seen) for one in settings if one.reason or len(one.dice) >= seen],
    }


def candidates(method: Any, pipeline: Pipeline) -> list[dict[str, Any]]:
    """Settings to try: the method as it is, then its row's values combined, drawn at random where there are too many.

    Arguments that a person set stay as they are.
    """
    from sklearn.model_selection import ParameterGrid, ParameterSampler

    space = dict(method.card.search) if method.card is not None else {}
    space = {name: list(v) for name, v in space.items() if name not in method.arguments}
    if not space:
        raise UserError(
            f"{method.name} has no arguments left to search",
            "train.search",
            "set fewer of them under system.arguments, or leave out train.search",
        )
    grid, most = ParameterGrid(space), pipeline.train.search - 1
    drawn = (
        list(grid)
        if len(grid) <= most
        else list(ParameterSampler(space, most, random_state=pipeline.compute.seed))
    )
    published = _defaults(method, space)
    return [{}, *(one for one in drawn if one != published)]


def _defaults(method: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    from medseg.zoo.build import arguments_of

    return {name: value for name, value in arguments_of(method.card) if name in space}


def _try_all(
    method: Any, settings: Sequence[Tried], case: Any, plan: Plan, until: float, bar: Progress, done: int
) -> bool:
    """Every setting that still counts on one case; False where the time was over before the last."""
    for number, one in enumerate(settings):
        if time.monotonic() > until and (done or number):
            return False
        if one.reason:
            continue
        try:
            one.dice.append(mean_dice(method, one.arguments, case, plan))
        except UserError as err:
            one.reason = err.what
        bar.set(done + (number + 1) / len(settings))
    return True


def mean_dice(method: Any, arguments: Mapping[str, Any], case: Any, plan: Plan) -> float:
    """Mean Dice over the classes of a case that are in its label or were found."""
    found = class_dice(method, arguments, case, plan)
    return float(np.mean(list(found.values()))) if found else 1.0


def class_dice(method: Any, arguments: Mapping[str, Any], case: Any, plan: Plan) -> dict[str, float]:
    """Class -> Dice 2 |A and B| / (|A| + |B|) of what a setting finds; classes that neither has are left out.

    Voxels with the ignore value and classes that were not drawn in the case do not count. UserError where the
    setting's classes are none of the label's.
    """
    from medseg.predict.classical import partners, segment_as

    image, label, prompt = case
    tuned = _with(method, arguments)
    if prompt is None and not partners(tuned.classes, label.classes):
        raise UserError(
            f"its classes ({', '.join(tuned.classes.values())}) are none of the label's "
            f"({', '.join(info.name for info in label.classes)})",
            f"system {method.name}",
        )
    labels, _ = segment_as(tuned, image, label.classes, prompt)
    counted = np.ones(labels.shape, bool) if plan.ignore is None else label.labels != plan.ignore
    return _dice(labels, label, counted)


def _dice(labels: Any, label: Segmentation, counted: Any) -> dict[str, float]:
    known = label.provenance.get("known", tuple(info.name for info in label.classes))
    scores = {}
    for position, info in enumerate(label.classes):
        if info.name not in known:
            continue
        true, found = label.mask(position) & counted, (labels == info.index) & counted
        total = int(np.count_nonzero(true)) + int(np.count_nonzero(found))
        if total:
            scores[info.name] = 2 * int(np.count_nonzero(true & found)) / total
    return scores


def _with(method: Any, arguments: Mapping[str, Any]) -> Any:
    """The method with further arguments, sharing what it learnt."""
    return type(method)(method.name, method.method, {**method.arguments, **arguments}, method.card)


def validated(method: Any, cases: Sequence[Opened], plan: Plan) -> dict[str, Any]:
    """Means over validation cases as for networks: {"dice", "iou", "n", "per_class"}; failing cases count as 0."""
    rows: dict[str, list[float]] = {}
    means = []
    for name, read in cases:
        try:
            found = class_dice(method, {}, read(), plan)
        except UserError as err:
            say(f"train    validation case {name} failed and counts as 0: {err.what}")
            found = {info["name"]: 0.0 for info in plan.classes}
        means.append(float(np.mean(list(found.values()))) if found else 1.0)
        for kind, value in found.items():
            rows.setdefault(kind, []).append(value)
    per_class = {kind: _means(values) for kind, values in rows.items()}
    return {**_means(means), "n": len(means), "per_class": per_class}


def _means(values: Sequence[float]) -> dict[str, float]:
    """Mean Dice, and mean IoU = Dice / (2 - Dice)."""
    return {"dice": float(np.mean(values)), "iou": float(np.mean([v / (2 - v) for v in values]))}


def in_words(found: Mapping[str, Any], seconds: float) -> str:
    """What a search came to, in one sentence."""
    usable = sum(one["dice"] is not None for one in found["tried"])
    best = ", ".join(f"{name}={value}" for name, value in found["best"].items()) or "the published setting"
    before = "could not be used" if found["published"] is None else f"{found['published']:.3f}"
    left = "" if found["cases"] == found["of"] else f" of {found['of']} (the time was over)"
    return (
        f"{usable} settings tried on {found['cases']} cases{left} in {duration(seconds)}: best mean Dice "
        f"{found['dice']:.3f} with {best} (as published {before})"
    )
