"""The mean of each two systems of a cross-validated comparison, as an entry of its own (`score.pairs: true`).

nnU-Net chooses among its configurations and all pairs of them (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
Here the folder `systems/A+B` holds, for every fold, a model folder of both systems' trainings on it, which predicts and
is scored like any other. Systems that see the same windows are averaged as `predict.ensemble` says, others (2D and 3D,
coarse and fine) as probabilities on the case's own grid. A pair costs what both systems cost, so that in a tie the
cheaper single system is chosen.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medseg import cross_validation, two_stages
from medseg.config import Pipeline
from medseg.core.atomic import atomic_path
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import RunFolder
from medseg.cross_validation import Member
from medseg.score.choose import pairs_of


@dataclass(frozen=True)
class Pair:
    """Two systems of a run. name: of their folder below systems/. pipeline: the settings of the first system."""

    name: str
    pipeline: Pipeline
    base: RunFolder
    first: RunFolder
    second: RunFolder


def refuse_alone(pipeline: Pipeline) -> None:
    """Raises UserError where pairs are asked for and there is nothing to compare, or no fold to decide it on."""
    if pipeline.score.pairs and (len(pipeline.systems) < 2 or not pipeline.train.several):
        raise UserError(
            "pairs are chosen from by validation over folds, and this run has "
            + ("one system" if len(pipeline.systems) < 2 else "no folds"),
            "score.pairs",
            "give several systems and train.folds (--folds all), or leave score.pairs out",
        )


def found_pairs(pipeline: Pipeline, root: RunFolder) -> Iterator[tuple[Pair, list[Member]]]:
    """Each pair that can be averaged, with the trainings of this call that both systems have finished.

    A pair that cannot is named with the reason, and what an earlier call made of it is removed.
    """
    systems = {system.slug: system for system in pipeline.systems}
    for name, first, second in pairs_of(pipeline):
        # A pair with a cascade predicts with its out-of-fold masks; the first and the second may be one.
        both = [two_stages.settings_of(pipeline, systems[each], root) for each in (first, second)]
        one = next((each for each in both if each.ingest.previous is not None), both[0])
        pair = Pair(name, one, root.system(name), root.system(first), root.system(second))
        members = [m for m in cross_validation.members_of(one, pair.base) if _is_ready(pair, m)]
        if not members:
            continue
        try:
            _require_alike(pair, members[0])
        except UserError as err:
            say(f"pairs    {name} is left out: {'; '.join(err.faults) or err.what}")
            shutil.rmtree(pair.base.path, ignore_errors=True)
            continue
        yield pair, members


def begin(pair: Pair, member: Member) -> Pipeline:
    """Makes a training's folder ready: its cases, the plan, the model folder of both systems; returns its settings."""
    from medseg.model.ensemble import ensemble_facts, save_ensemble
    from medseg.model.facts import load_facts

    pair.base.path.mkdir(parents=True, exist_ok=True)
    with atomic_path(pair.base.plan) as part:
        shutil.copyfile(pair.first.plan, part)
    cross_validation.prepare(pair.base)
    settings = cross_validation.begin(pair.pipeline, member)
    models = {folder.path.name: _model(folder, member) for folder in (pair.first, pair.second)}
    wanted = ensemble_facts({name: load_facts(path) for name, path in models.items()})["hash"]
    kept = member.folder.model
    if not (kept / "model.json").is_file() or load_facts(kept)["hash"] != wanted:
        save_ensemble(kept, models)
    return settings


def _is_ready(pair: Pair, member: Member) -> bool:
    """Whether both systems have finished the same training, and both are networks."""
    from medseg.model.facts import load_facts

    folders = [folder.fold(member.folder.path.name) for folder in (pair.first, pair.second)]
    finished = all(folder.member.is_file() and (folder.model / "model.json").is_file() for folder in folders)
    return finished and all(load_facts(folder.model)["kind"] == "network" for folder in folders)


def _require_alike(pair: Pair, member: Member) -> None:
    from medseg.model.ensemble import require_alike
    from medseg.model.facts import load_facts

    require_alike({one.path.name: load_facts(_model(one, member)) for one in (pair.first, pair.second)})


def _model(system: RunFolder, member: Member) -> Path:
    return system.fold(member.folder.path.name).model
