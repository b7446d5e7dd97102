"""Training cases without a label, prepared like the others, for procedures that learn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import Pipeline, Plan
from medseg.core.atomic import read_json
from medseg.core.errors import UserError, about
from medseg.core.progress import say
from medseg.core.run import RunFolder
from medseg.train.sampler import IGNORED


def prepare_unlabelled(pipeline: Pipeline, folder: RunFolder, plan: Plan) -> dict[str, Path]:
    """Case -> prepared folder of every unlabelled training case; those that are current are left as they are.

    A case that cannot be prepared is named and left out.
    """
    from medseg.data.cohort import load_cohort
    from medseg.ingest import cache

    rows = unlabelled_rows(folder)
    if not rows:
        return {}
    classes = load_cohort(folder).classes
    key = read_json(folder.path / "prepared.json")["key"]
    place = cache.prepared_folder(folder, f"{key}-unlabelled")
    made = {}
    for row in rows:
        try:
            with about(row.case, "preparing"):
                made[row.case] = _prepare(row, pipeline, plan, classes, place / row.case)
        except UserError as err:
            say(f"train    the unlabelled case {row.case} is left out: {err.what}")
    return made


def unlabelled_rows(folder: RunFolder) -> list[Any]:
    """The rows that the check skipped for want of a label, but those set aside and those of held-out patients."""
    import pandas as pd

    from medseg.data.rows import CaseRow

    table = pd.read_parquet(folder.cases).set_index("case")
    held_out = set(table.loc[table["split"].isin(["val", "test"]), "patient"])
    found = []
    for facts in read_json(folder.sources)["rows"]:
        row = CaseRow.from_json(facts)
        if row.labels or row.trouble or table.at[row.case, "status"] != "skipped":
            continue
        if row.split in ("", "train") and row.patient not in held_out:
            found.append(row)
    return sorted(found, key=lambda row: row.case)


def _prepare(row: Any, pipeline: Pipeline, plan: Plan, classes: Any, target_path: Path) -> Path:
    from medseg.data.cohort import open_case
    from medseg.ingest import cache
    from medseg.ingest.prepare import prepare_image

    key = cache.case_key(target_path.parent.name, cache.content_of(row))
    if not cache.is_current(target_path, key):
        prepared = prepare_image(open_case(row, pipeline.data, classes).image(), plan)
        regions = (plan.out_channels,) if plan.overlapping else ()
        nothing = np.full((*regions, *prepared.geometry.shape), IGNORED, np.uint8)
        cache.store_case(
            target_path, prepared, nothing, {"key": key, "background": plan.background, "known": []}
        )
    return target_path
