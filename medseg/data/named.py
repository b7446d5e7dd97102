"""Settings that name classes: every name has to be one, and that is asked before anything is read or trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from medseg.config import Pipeline
from medseg.config_file import with_place
from medseg.core.errors import UserError, did_you_mean

BACKGROUND = "background"


def require_class_names(pipeline: Pipeline, classes: Collection[str]) -> None:
    """Raises UserError with every setting that names what is none of `classes` (names, without background).

    With a given model nothing is trained, so that the settings of the training do not count.
    """
    faults = [
        f"{with_place(pipeline, key)}: no class named {name!r}{did_you_mean(name, known)}"
        for key, name, known in _named(pipeline, list(classes))
        if name not in known
    ]
    weights = pipeline.train.class_weights
    if (
        isinstance(weights, dict)
        and pipeline.predict.model is None
        and not any(weights.get(name, 1.0) for name in _weighted(pipeline, classes))
    ):
        faults.append(f"{with_place(pipeline, 'train.class_weights')}: all are 0, so nothing would be learnt")
    if faults:
        raise UserError(
            f"{len(faults)} setting{'s' * (len(faults) > 1)} of classes cannot be meant so",
            f"pipeline {pipeline.name}",
            f"the classes are {', '.join(classes)}",
            faults,
        )


def _named(pipeline: Pipeline, classes: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(setting, name, names it may have) of every class that a setting names."""
    weights, predict = pipeline.train.class_weights, pipeline.predict
    if isinstance(weights, dict) and predict.model is None:
        for name in weights:
            yield f"train.class_weights.{name}", name, _weighted(pipeline, classes)
    for key in ("keep_largest", "fill_holes", "smallest_part_ml", "part_median"):
        said = getattr(predict, key)
        for name in () if said == "auto" else said:
            yield f"predict.{key}", name, classes
    for union, parts in pipeline.score.merge.items():
        for name in parts:
            yield f"score.merge.{union}", name, classes


def _weighted(pipeline: Pipeline, classes: Collection[str]) -> list[str]:
    """What `train.class_weights` may name: one softmax has the background beside the classes."""
    softmax = pipeline.data.background is not None and not pipeline.data.overlapping
    return [*([BACKGROUND] if softmax else []), *classes]
