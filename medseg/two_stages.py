"""Both stages of a cascade in one run: the first on a coarse grid, the second with its out-of-fold masks.

In a list under `system`, an entry with `configuration: cascade` gets the masks of the entry with `configuration: lowres`
of the same name and size. Its folds begin when all folds of the first stage are there, so that each training case has a
mask by a model that has not seen it; which of both, or neither, is used, is chosen from cross-validation
(Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.config import Pipeline, System
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import RunFolder
from medseg.data.folds import fold_numbers

KEY = "system.configuration"


def first_stage(pipeline: Pipeline, system: System) -> System | None:
    """The system of the run whose masks a system gets; None where it gets none, or those of another run."""
    if system.configuration != "cascade" or pipeline.ingest.previous is not None:
        return None
    return next((one for one in pipeline.systems if one.slug == _lowres(system).slug), None)


def refuse_alone(pipeline: Pipeline) -> None:
    """Raises UserError for a cascade without a first stage, or whose first stage would have learnt the cases it draws."""
    for system in pipeline.systems:
        if system.configuration != "cascade" or pipeline.ingest.previous is not None:
            continue
        wanted = f"{{name: {system.name}, size: {system.size}, configuration: lowres}}"
        if first_stage(pipeline, system) is None:
            raise UserError(
                f"the cascade of {system.name} has no first stage",
                KEY,
                f"list {wanted} beside it, or name a finished run: ingest.previous",
            )
        if pipeline.train.folds is None:
            raise UserError(
                "a cascade in one run needs folds: its first stage may not have learnt the cases whose masks it draws",
                f"{KEY}, train.folds",
                "add --folds all",
            )


def settings_of(pipeline: Pipeline, system: System, root: RunFolder) -> Pipeline:
    """The journey of one system; that of a cascade names the run of its first stage."""
    one, first = pipeline.for_system(system), first_stage(pipeline, system)
    if first is None:
        return one
    place = str(root.system(first.slug).path)
    return one.model_copy(update={"ingest": one.ingest.model_copy(update={"previous": place})})


def in_turns(pipeline: Pipeline) -> list[list[System]]:
    """The systems that begin at once, then those that wait for a first stage."""
    second = [system for system in pipeline.systems if first_stage(pipeline, system) is not None]
    return [[system for system in pipeline.systems if system not in second], *([second] if second else [])]


def must_wait(pipeline: Pipeline, systems: Sequence[System], root: RunFolder) -> bool:
    """Whether a first stage of one of these systems lacks folds that are still to be trained; says so."""
    for system in systems:
        first = first_stage(pipeline, system)
        if first is None:
            continue
        base = root.system(first.slug)
        there = {folder.path.name for folder in base.finished_folds()}
        lacking = [str(k) for k in fold_numbers(base, "all") if f"fold-{k}" not in there]
        if lacking or not (base.model / "model.json").is_file():
            which = f"fold {', '.join(lacking)} of {first.slug}" if lacking else f"the model of {first.slug}"
            say(f"train    {system.slug} waits for {which}: the same command with --folds all goes on")
            return True
    return False


def _lowres(system: System) -> System:
    return system.model_copy(update={"configuration": "lowres"})
