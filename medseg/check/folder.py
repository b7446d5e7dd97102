"""`medseg check FOLDER`: what a bare folder holds, without a pipeline file or a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.check.look import check_cohort
from medseg.config import Data
from medseg.core.errors import UserError
from medseg.data.cohort import find_cases, resolved


def check_folder(path: Path) -> dict[str, Any]:
    """Looks at every image and label below `path`; returns what check.json of a run would hold.

    Raises UserError when there is no image at all. A case that cannot be used is counted and named, with its reason.
    """
    if not path.exists():
        raise UserError("no such folder", str(path), "give the folder that holds the images")
    data = Data(root=str(path))
    cohort = find_cases(data, path)
    return check_cohort(cohort, resolved(data, path), training=False).facts
