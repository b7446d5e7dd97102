"""A paragraph for the methods section, from what the run knows; what only people know is listed as missing."""

from __future__ import annotations

from medseg.config import Pipeline, Plan, Train
from medseg.report.gather import Sheet


def methods_text(pipeline: Pipeline, sheet: Sheet, cases: dict[str, int], version: str) -> str:
    """Plain sentences: data, split, preparation, system, training, prediction, measures."""
    plan, train = sheet.plan, pipeline.train
    parts = []
    if cases:
        parts.append(
            "Cases: "
            + ", ".join(f"{n} {name}" for name, n in cases.items() if n)
            + f"; split by {pipeline.data.split.by}, seed {pipeline.data.split.seed}."
        )
    learnt = sheet.model.get("kind") in ("network", "ensemble")
    if learnt and plan is not None:
        parts.append(_preparation(plan))
    count = (sheet.model.get("weights") or {}).get("parameters")
    size = f" with {count / 1e6:.2f} million parameters" if isinstance(count, int | float) and count else ""
    parts.append(f"System: {sheet.name}{size}.")
    if plan is not None and sheet.history:
        last = sheet.history[-1]
        rate = f"{train.optimizer.name}, learning rate {train.optimizer.rate:g}, {train.schedule} schedule"
        parts.append(
            f"Trained for {last.get('step', 0)} steps ({last.get('seconds', 0) / 60:.1f} minutes) on patches of "
            f"{' x '.join(str(p) for p in plan.patch_size)}, batch {plan.batch_size}, loss {_loss(train.loss)}, {rate}, "
            f"augmentation {train.augment if isinstance(train.augment, str) else 'as in the pipeline file'}." + _start(train)
        )  # fmt: skip
    if learnt:
        parts.append(
            f"Prediction: sliding windows with {pipeline.predict.overlap:.0%} overlap and Gaussian weights, on the cases' own grids."
        )
    if sheet.trainings:
        parts.append(_cross_validation(sheet))
    if sheet.scores:
        against = sheet.scores.get("reference", "label")
        what = "reference labels" if against == "label" else f"masks of {against} (agreement, not truth)"
        parts.append(
            f"Scored against {what}: {', '.join(pipeline.score.metrics)}; surface Dice tolerance {pipeline.score.tolerance_mm:g} mm; intervals by bootstrap over patients."
        )
    if prompted := _prompts(sheet):
        parts.append(prompted)
    parts.append(f"Software: medseg {version}.")
    return " ".join(parts)


def _start(train: Train) -> str:
    """Where the weights came from, and which of them stayed as they were; "" for a random start."""
    start = " The training began with the weights of another model." if train.start_from else ""
    kept = f" Weights named {', '.join(train.freeze)} were kept as they were." if train.freeze else ""
    return start + kept


def _prompts(sheet: Sheet) -> str:
    """Where the prompts of an interactive method came from; "" without prompts."""
    sources = {str(f["prompt"]["source"]) for f in sheet.predictions.values() if f.get("prompt")}
    if not sources:
        return ""
    told = any(source.startswith("simulated from the label") for source in sources)
    leak = (
        " The prompts know part of the answer, so the scores say nothing of prompts that people give."
        if told
        else ""
    )
    return f"Prompts: {'; '.join(sorted(sources))}.{leak}"


def _cross_validation(sheet: Sheet) -> str:
    """Folds and seeds, what the figures are of, and what was chosen on them."""
    folds = sheet.scores.get("folds", {})
    text = (
        f"Cross-validation: {len(folds.get('folds', []))} folds, {len(folds.get('seeds', []))} seeds, one plan for all, made "
        "from the cases of all folds."
    )
    seen = len(sheet.scores.get("trained_on", ()))
    if "of" in sheet.scores and seen:
        text += (
            f" {seen} of {sheet.scores.get('n')} cases were predicted by a model that had learnt from them."
        )
    elif "of" in sheet.scores:
        text += " Every case was predicted by a model that had not seen it."
    if sheet.model.get("kind") == "ensemble":
        text += " The model is the mean of all trainings."
    if sheet.postprocessing.get("steps"):
        text += " Post-processing was chosen on the same predictions; the scores are without it."
    return text


def _generous(background: float) -> str:
    if background == 0.5:
        return ""
    return f", from masks in which background counted as such where it was at least {background:.0%} likely beside a class"


def _preparation(plan: Plan) -> str:
    filtered = plan.guided_filter
    edges = (
        f" Borders of the masks were moved to the image's edges by a guided filter (radius {filtered.radius_mm:g} mm{_times(filtered.iterations)}{_generous(filtered.background)})."
        if filtered
        else ""
    )
    return _grid_and_scaling(plan) + _stages(plan) + _mirrored(plan) + edges + _parts(plan)


def _parts(plan: Plan) -> str:
    """Which connected parts of a class are no part of the mask."""
    small = [f"{name} below {smallest:g} ml" for name, smallest in plan.smallest_part_ml.items()]
    unlikely = [
        f"{name} with a median {_beyond(*limits)}"
        for name, limits in plan.part_median.items()
        if limits != (None, None)
    ]
    said = ", ".join(small + unlikely)
    return f" Connected parts were removed from the masks: {said}." if said else ""


def _beyond(low: float | None, high: float | None) -> str:
    """Limits as words for what lies beyond them."""
    below = "" if low is None else f"below {low:g}"
    above = "" if high is None else f"above {high:g}"
    return " or ".join(part for part in (below, above) if part)


def _stages(plan: Plan) -> str:
    """What a network gets beside the image, and where it sees slices alone."""
    masks = ", ".join(info["name"] for info in plan.previous.classes) if plan.previous else ""
    cascade = (
        f" Masks that a first stage had drawn ({masks}) were further channels of the image." if masks else ""
    )
    slices = plan.topology.get("slices")
    flat = (
        f" The network is two-dimensional and saw slices across the {'xyz'[slices]} axis."
        if slices is not None
        else ""
    )
    return cascade + flat


def _mirrored(plan: Plan) -> str:
    if not plan.flips:
        return ""
    swapped = (
        ", the classes of left and right exchanged in those mirrored left-right" if plan.swap_sides else ""
    )
    return f" Predictions are the mean over mirrored copies of each window{swapped}."


def _times(count: int) -> str:
    return f", applied {count} times" if count > 1 else ""


def _grid_and_scaling(plan: Plan) -> str:
    schemes = ", ".join(i.scheme for i in plan.intensity)
    if plan.spacing_px:
        step = " x ".join(f"{s:.3g}" for s in plan.spacing_px)
        return f"Images were brought to one pixel for {step} of theirs (spline order {plan.image_order}) and scaled ({schemes})."
    if not plan.spacing_mm:
        return f"Images were used at their own pixel size and scaled ({schemes})."
    grid = " x ".join(f"{s:.3g}" for s in plan.spacing_mm)
    return f"Images were oriented to RAS, resampled to {grid} mm (spline order {plan.image_order}) and scaled ({schemes})."


ONLY_PEOPLE_KNOW = (
    "who drew the reference labels, with which experience, and how often they agree",
    "how the cases were chosen and over which period",
    "scanners, protocols and the ethics approval",
    "what the result is meant for, and who would act on it",
)


def _loss(loss: object) -> str:
    return str(loss["name"]) if isinstance(loss, dict) else str(loss)
