"""Cases prepared by the workers of `compute.cluster`: other processes, batch jobs, pods.

The coordinator sends rows of cases and gets back what became of them; a worker prepares one case at a time, whole or
not at all, so that a worker that dies loses nothing: its case is begun again by another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Plan
from medseg.core.errors import UserError
from medseg.core.progress import be_quiet
from medseg.core.segmentation import ClassInfo
from medseg.ingest.cache import remove_leftovers
from medseg.ingest.previous import Mask
from medseg.jobs.executor import Outcome, map_cases, open_workers, worker_count

HERE = ("processes", "dask")
"""Kinds of workers that share this computer's memory."""


@dataclass(frozen=True)
class Order:
    """What every worker has to know. place: the folder of prepared cases; key: what `cache.plan_key` says of them."""

    pipeline: Pipeline
    plan: Plan
    classes: tuple[ClassInfo, ...]
    place: Path
    key: str

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` makes the same order of them."""
        return {
            "pipeline": self.pipeline.model_dump(mode="json"),
            "plan": self.plan.model_dump(mode="json"),
            "classes": [info.as_json() for info in self.classes],
            "place": str(self.place.absolute()),
            "key": self.key,
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Order:
        classes = tuple(ClassInfo.from_json(info) for info in facts["classes"])
        pipeline, plan = (
            kind.model_validate(facts[name]) for kind, name in ((Pipeline, "pipeline"), (Plan, "plan"))
        )
        return cls(pipeline, plan, classes, Path(facts["place"]), facts["key"])


def by_workers(
    order: Order, rows: Sequence[Any], masks: Mapping[str, Mask], most: int
) -> Iterator[Outcome[Any, str]]:
    """What became of each row: "made" or "kept", or why it failed. masks: of a cascade's earlier stage.

    most: how many workers this computer's memory holds. Raises UserError when the workers cannot be had, and what stops
    every case.
    """
    cluster = order.pipeline.compute.cluster
    if cluster.kind in HERE and cluster.address is None:
        cluster = cluster.model_copy(update={"workers": min(worker_count(cluster), most)})
    facts, known = order.as_json(), {row.case: row for row in rows}
    asked = [{"order": facts, "row": row.as_json(), "mask": _mask_facts(masks.get(row.case))} for row in rows]
    # One thread a worker: cases are small pieces of work, and there are many of them.
    with open_workers(cluster, {"OMP_NUM_THREADS": "1"}) as pool:
        for outcome in map_cases(
            prepare_row, asked, "ingest", workers=worker_count(cluster), name=_name, pool=pool
        ):
            answer = outcome.value or {}
            if "stop" in answer:
                raise UserError(**answer["stop"])
            row = known[outcome.item["row"]["case"]]
            if "failed" in answer:
                yield Outcome(row, error=UserError(answer["failed"]))
            else:
                yield Outcome(row, answer.get("made"), outcome.error)
    remove_leftovers(order.place)  # of workers that were killed while they wrote


def _name(asked: Mapping[str, Any]) -> str:
    return f"case {asked['row']['case']}"


def _mask_facts(mask: Mask | None) -> dict[str, Any] | None:
    return None if mask is None else {"path": str(mask.path.absolute()), "seen": mask.seen}


# --- in a worker --------------------------------------------------------------------------------------------------


def prepare_row(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Prepares one case of an order: {"made": "made" or "kept"}, {"failed": why}, or what stops all cases as {"stop"}."""
    from threadpoolctl import threadpool_limits

    from medseg.data.rows import CaseRow
    from medseg.ingest.stage import prepare_case

    be_quiet()
    order, row, mask = _opened(json.dumps(asked["order"])), CaseRow.from_json(asked["row"]), asked["mask"]
    earlier = None if mask is None else Mask(Path(mask["path"]), mask["seen"])
    try:
        with threadpool_limits(1):
            return {"made": prepare_case(row, order, earlier)}
    except UserError as err:
        return {"stop": err.as_json()} if "disk is full" in err.what else {"failed": err.what}
    except Exception as err:
        return {"failed": Outcome(row, error=err).reason}


@lru_cache(maxsize=1)
def _opened(order: str) -> Order:
    return Order.from_json(json.loads(order))
