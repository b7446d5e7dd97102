"""`medseg check FOLDER`: what a bare folder holds, without a pipeline file or a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.check.failed import write_failed
from medseg.check.look import check_cohort
from medseg.config import Data, Pipeline
from medseg.config_file import Source, apply_overrides, validate
from medseg.core.atomic import write_json
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.data.cohort import cohort_key, find_cases, resolved, save_cohort


def check_folder(path: Path, data: Data | None = None, out: Path | None = None) -> dict[str, Any]:
    """Looks at every image and label below `path`; returns what check.json of a run would hold.

    data: settings; its root is `path`. out: a folder that gets check.json and cases.parquet, and, in its private part,
    the table that says which files a hashed name stands for.
    Raises UserError when there is no image at all. A case that cannot be used is counted and named, with its reason.
    """
    if not path.exists():
        raise UserError("no such folder", str(path), "give the folder that holds the images")
    data = (data or Data()).model_copy(update={"root": str(path)})
    folder = None if out is None else RunFolder(out)
    cohort = find_cases(data, path, None if folder is None else cohort_key(folder))
    checked = check_cohort(cohort, resolved(data, path), training=False)
    if folder is not None:
        save_cohort(checked.cohort, folder, checked.table)
        write_failed(checked.cohort, checked.states, folder)
        write_json(folder.check_json, checked.facts)
    return checked.facts


def settings_from(overrides: Sequence[str]) -> Data:
    """The data section that `--set data.KEY=VALUE` describes."""
    source = Source({"name": "check", "system": "threshold-otsu"})
    apply_overrides(source, tuple(overrides))
    return validate(Pipeline, source, "--set").data
