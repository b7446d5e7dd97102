"""Mistakes of a training that can be seen before cases are prepared: a start that is none, weights that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medseg.config import Pipeline, Plan, System
from medseg.core.errors import UserError
from medseg.core.progress import say

if TYPE_CHECKING:
    from medseg.core.run import RunFolder

KEY = "train.start_from"


def require_start(pipeline: Pipeline) -> None:
    """Raises UserError where `train.start_from` names nothing that holds weights of a network. Needs no data."""
    if pipeline.train.start_from is None or pipeline.predict.model is not None:
        return
    from medseg.model.facts import load_facts, require_network
    from medseg.train.nnunet_weights import require_known
    from medseg.train.start_from import source_of

    source = source_of(pipeline.train.start_from)
    if not source.exists():
        raise UserError(f"{source}: no such model", KEY, "give RUN/model of a finished run")
    try:
        if source.is_dir():
            require_network(load_facts(source), source)
        else:
            for system in pipeline.systems:
                require_known(system.name)
    except UserError as err:
        where = "" if err.where.startswith(KEY) else f"{err.where}: "
        raise UserError(where + err.what, KEY, err.hint) from err


def require_trainable(pipeline: Pipeline, folder: RunFolder) -> None:
    """Builds the network without memory and raises UserError for names of `train.freeze` that it lacks, and for a start
    that does not fit; says how much of the start is taken over, and which held-out cases it has learnt from.

    folder: where plan.yaml and cases.parquet lie.
    """
    from medseg.config_plan import load_plan
    from medseg.train.stage import with_deep_supervision
    from medseg.zoo.build import find

    system, train = pipeline.only_system, pipeline.train
    card = find(system.name)
    if pipeline.predict.model is not None or card.kind == "classical":
        return
    if train.start_from is None and not train.freeze:
        return
    plan = load_plan(folder.plan)
    full = with_deep_supervision(pipeline, card)
    net = _shapes(full, plan)
    if train.start_from is not None:
        from medseg.model.learnt import seen_before
        from medseg.train.start_from import compare_weights, source_of

        source = source_of(train.start_from)
        try:
            say(f"plan     {compare_weights(net, source, full, plan).line}")
        except UserError as err:
            raise UserError(f"{err.where}: {err.what}", KEY, err.hint) from err
        if words := seen_before(source, folder):
            say(f"plan     {words}")
    if train.freeze:
        from medseg.train.freeze import Frozen

        Frozen.of(net, train.freeze)


def _shapes(system: System, plan: Plan) -> Any:
    """The network of a plan with names and shapes, without memory where it can be built so."""
    from medseg.model.folder import build_system
    from medseg.zoo.weightless import weightless

    try:
        with weightless():
            return build_system(system, plan)
    except (NotImplementedError, RuntimeError):
        return build_system(system, plan)  # its constructor computes with values
