"""The trainings of a cross-validation, each in a member folder of the run: folds, seeds, or both.

All members share check, plan and prepared cases. The plan is made from the cases of all folds, so that members see the
same windows of the same grid and can be averaged; no label of a validation case reaches a training by it, but its
grid, intensities and sizes are counted, as nnU-Net does it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from medseg.config import Pipeline
from medseg.core.atomic import atomic_path, read_json, write_json
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.data.folds import fold_numbers, has_test_cases, write_fold_cases, write_pooled_cases
from medseg.score.folds import settings_digest

MEMBER_STEPS = ("train", "predict", "score")
"""What each member does for itself."""


@dataclass(frozen=True)
class Member:
    """One training: the fold that validates (None: the split as it is), the seed, and where it lies."""

    fold: int | None
    seed: int
    folder: RunFolder

    @property
    def label(self) -> str:
        """`fold-0`, or `v-net/fold-0` in a comparison."""
        parent = self.folder.parent
        inside = parent is not None and parent.parent is not None
        return f"{parent.path.name}/{self.folder.path.name}" if inside and parent else self.folder.path.name


def refuse_contradictions(pipeline: Pipeline) -> None:
    """Raises UserError for settings that make no sense together with several trainings."""
    if pipeline.predict.model is not None:
        raise UserError(
            "folds and seeds are trained, but a trained model is given",
            "train.folds, train.seeds, predict.model",
            "leave out one of them",
        )
    if pipeline.predict.cases in ("all", "train"):
        raise UserError(
            f"predict.cases is {pipeline.predict.cases}, but in a cross-validation every case is predicted by the model "
            "that has not seen it",
            "predict.cases, train.folds",
            "use auto",
        )


def plain(pipeline: Pipeline) -> Pipeline:
    """The journey of one training: what folds and seeds are asked for changes nothing in it."""
    return pipeline.model_copy(
        update={"train": pipeline.train.model_copy(update={"folds": None, "seeds": 1})}
    )


def members_of(pipeline: Pipeline, base: RunFolder) -> list[Member]:
    """The trainings that this call asks for, fold by fold. Raises UserError for folds that do not exist."""
    folds: list[int | None] = [None]
    if pipeline.train.folds is not None:
        folds = list(fold_numbers(base, pipeline.train.folds))
    first = pipeline.compute.seed
    found = []
    for fold in folds:
        for seed in range(first, first + pipeline.train.seeds):
            name = "split" if fold is None else f"fold-{fold}"
            found.append(Member(fold, seed, base.fold(name if seed == first else f"{name}-seed-{seed}")))
    return found


def prepare(base: RunFolder) -> None:
    """The cases that the shared plan is made from."""
    write_pooled_cases(base)


def begin(pipeline: Pipeline, member: Member) -> Pipeline:
    """Makes the member's folder ready: its own cases, the shared plan; returns its settings."""
    base = member.folder.parent
    assert base is not None
    member.folder.path.mkdir(parents=True, exist_ok=True)
    write_fold_cases(member.folder, member.fold)
    for name in ("plan.yaml", "prepared.json"):
        if (base.path / name).is_file():
            with atomic_path(member.folder.path / name) as part:
                shutil.copyfile(base.path / name, part)
    known = read_json(member.folder.member) if member.folder.member.exists() else {}
    if known and known != _facts(pipeline, member):
        # Until its steps are done again it must not be joined with the others.
        member.folder.member.unlink()
    return settings_of(pipeline, member)


def settings_of(pipeline: Pipeline, member: Member) -> Pipeline:
    """The member's own journey: its seed, and the validation cases to predict."""
    one = plain(pipeline)
    return one.model_copy(
        update={
            "compute": one.compute.model_copy(update={"seed": member.seed}),
            "predict": one.predict.model_copy(update={"cases": "val"}),
        }
    )


def finish(pipeline: Pipeline, member: Member) -> None:
    """Writes down that the member is complete, so that it counts in the join."""
    write_json(member.folder.member, _facts(pipeline, member))


def _facts(pipeline: Pipeline, member: Member) -> dict[str, Any]:
    base = member.folder.parent
    assert base is not None
    return {"fold": member.fold, "seed": member.seed, "settings": settings_digest(pipeline, base)}


def is_tested(base: RunFolder) -> bool:
    """Whether the joined model predicts cases that were set aside from all folds."""
    return has_test_cases(base)
