"""Which post-processing helps, decided on predictions of cases that their model had not seen.

The rule is nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): first the largest part of all classes
together, where the mean Dice rises and no class falls; then, class by class, the largest part where that class rises.
Holes are decided after it in the same way. Every choice is computed from counts that are taken once a case: the parts
of one class touch no other class, so no volume is written or read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Pipeline, Plan
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.metrics.matching import match_classes
from medseg.predict.postprocess import largest_part
from medseg.score.cases import read_prediction, sidecars
from medseg.score.reference import LABEL, reference_of

Mask = npt.NDArray[np.bool_]
Variant = tuple[bool, bool, bool]
"""Whether the largest part of all classes, the class's largest part, the class's filled holes were taken."""

RULE = (
    "kept where the mean out-of-fold Dice of the class rises and that of no class falls; "
    "all classes together: where the mean over classes rises and no class falls"
)
LEAST = 1e-9
"""A rise smaller than this is rounding."""

Table = dict[tuple[str, Variant], dict[str, float]]
"""(class, variant) -> case -> Dice; cases without the class in both masks are left out."""


@dataclass(frozen=True)
class Compared:
    """A prediction beside its reference, one mask a class, on one grid. valid: where labels count."""

    predicted: Mapping[str, Mask]
    true: Mapping[str, Mask]
    valid: Mask | None
    exclusive: bool


def choose_postprocessing(pipeline: Pipeline, plan: Plan, members: Sequence[RunFolder]) -> dict[str, Any]:
    """What postprocessing.json holds: `steps` in their order, `tried` with Dice before and after, `dice`, `n`, `rule`.

    members: folders with predictions of validation cases, one a fold. Cases that cannot be read are left out and
    counted.
    """
    from medseg.jobs.executor import map_cases

    classes = tuple(ClassInfo.from_json(facts) for facts in plan.classes)
    table: Table = {}
    failed: dict[str, str] = {}
    cases = list(_cases(members))
    for outcome in map_cases(
        lambda one: dice_of_variants(_compared(pipeline, plan, classes, *one)),
        cases,
        "choose",
        workers=pipeline.compute.workers,
        name=lambda one: f"case {one[1].case}",
    ):
        case = outcome.item[1].case
        if outcome.value is None:
            failed[case] = outcome.reason
            continue
        for key, dice in outcome.value.items():
            table.setdefault(key, {})[case] = dice
    steps, tried = decide(table, [info.name for info in classes])
    return {"rule": RULE, "n": len(cases) - len(failed), "left_out": failed, "steps": steps, "tried": tried,
            "dice": _before_and_after(table, steps, [info.name for info in classes])}  # fmt: skip


def _cases(members: Sequence[RunFolder]) -> Iterator[tuple[RunFolder, Any, Mapping[str, Any]]]:
    """Member, row and side-car of every predicted case that has a label."""
    from medseg.data.cohort import load_cohort

    for member in members:
        rows = {row.case: row for row in load_cohort(member).rows}
        for case, facts in sidecars(member.predictions).items():
            if case in rows and rows[case].labels:
                yield member, rows[case], facts


def _compared(
    pipeline: Pipeline,
    plan: Plan,
    classes: Sequence[ClassInfo],
    member: RunFolder,
    row: Any,
    facts: Mapping[str, Any],
) -> Compared:
    from medseg.data.cohort import open_case

    truth = reference_of(open_case(row, pipeline.data, tuple(classes)), LABEL)
    mask = read_prediction(member.predictions, facts, classes, plan.overlapping, truth.geometry)
    known = truth.provenance.get("known", row.known)
    pairs = [m for m in match_classes(mask.classes, truth.classes).matches if m.pred is not None]
    named = {
        mask.classes[m.pred].name: (m.pred, m.true)
        for m in pairs
        if m.true is not None and (known is None or truth.classes[m.true].name in known)
    }
    ignore = [] if pipeline.data.ignore is None else [pipeline.data.ignore]
    return Compared(
        {name: _mask(mask, places[0]) for name, places in named.items()},
        {name: _mask(truth, places[1]) for name, places in named.items()},
        ~np.isin(truth.labels, ignore) if ignore else None,
        exclusive=mask.regions is None,
    )


def _mask(segmentation: Segmentation, position: int) -> Mask:
    return np.asarray(segmentation.mask(position), dtype=np.bool_)


def dice_of_variants(case: Compared) -> dict[tuple[str, Variant], float]:
    """Dice of every class after every combination of steps; a class absent in both masks has none."""
    out: dict[tuple[str, Variant], float] = {}
    whole = np.logical_or.reduce(list(case.predicted.values())) if case.predicted else None
    if whole is None:
        return out
    kept = largest_part(whole) if whole.any() else whole
    for together in (False, True):
        masks = {name: mask & kept if together else mask for name, mask in case.predicted.items()}
        anything = whole & kept if together else whole
        for name, mask in masks.items():
            largest = largest_part(mask) if mask.any() else mask
            others = anything & ~mask if case.exclusive else None
            for keep, fill in ((False, False), (True, False), (False, True), (True, True)):
                result = largest if keep else mask
                result = _filled(result, others) if fill else result
                value = _dice(result, case.true[name], case.valid)
                if value is not None:
                    out[name, (together, keep, fill)] = value
    return out


def _filled(mask: Mask, others: Mask | None) -> Mask:
    """Enclosed holes are filled where no other class lies."""
    from scipy.ndimage import binary_fill_holes

    holes = binary_fill_holes(mask) & ~mask
    return np.asarray(mask | (holes if others is None else holes & ~others))


def _dice(pred: Mask, true: Mask, valid: Mask | None) -> float | None:
    if valid is not None:
        pred, true = pred & valid, true & valid
    total = int(np.count_nonzero(pred)) + int(np.count_nonzero(true))
    return None if total == 0 else 2 * int(np.count_nonzero(pred & true)) / total


def decide(table: Table, classes: Sequence[str]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The steps that are kept, in the order in which they are done, and everything that was tried with its figures."""
    seen = [name for name in classes if (name, (False, False, False)) in table]
    steps: list[dict[str, str]] = []
    tried: list[dict[str, Any]] = []
    state: dict[str, Variant] = dict.fromkeys(seen, (False, False, False))
    if len(seen) > 1:
        after: dict[str, Variant] = dict.fromkeys(seen, (True, False, False))
        before_mean, after_mean = (_mean_of_classes(table, which) for which in (state, after))
        fell = [name for name in seen if _mean(table, name, after) < _mean(table, name, state) - LEAST]
        kept = after_mean > before_mean + LEAST and not fell
        tried.append(
            {"step": "keep_largest_of_all", "class": "", "before": before_mean, "after": after_mean, "kept": kept,
             "fell": fell}
        )  # fmt: skip
        if kept:
            steps.append({"step": "keep_largest_of_all", "class": ""})
            state = after
    for position, step in ((1, "keep_largest"), (2, "fill_holes")):
        for name in seen:
            together, keep, fill = state[name]
            variant: Variant = (together, True, fill) if position == 1 else (together, keep, True)
            before, now = _mean(table, name, state), _mean(table, name, {name: variant})
            kept = now > before + LEAST
            fell = [name] if now < before - LEAST else []
            tried.append(
                {"step": step, "class": name, "before": before, "after": now, "kept": kept, "fell": fell}
            )
            if kept:
                steps.append({"step": step, "class": name})
                state[name] = variant
    return steps, tried


def _mean(table: Table, name: str, state: Mapping[str, Variant]) -> float:
    return float(np.mean(list(table[name, state[name]].values())))


def _mean_of_classes(table: Table, state: Mapping[str, Variant]) -> float:
    return float(np.mean([_mean(table, name, state) for name in state]))


def _before_and_after(
    table: Table, steps: Sequence[Mapping[str, str]], classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mean Dice of each class without and with the steps. The second flatters a little: it was chosen on these cases."""
    out = {}
    done = {(step["step"], step["class"]) for step in steps}
    for name in classes:
        if (name, (False, False, False)) not in table:
            continue
        last: Variant = (
            ("keep_largest_of_all", "") in done,
            ("keep_largest", name) in done,
            ("fill_holes", name) in done,
        )
        out[name] = {
            "before": _mean(table, name, {name: (False, False, False)}),
            "after": _mean(table, name, {name: last}),
        }
    return out
