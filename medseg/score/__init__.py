"""From predictions to tables: `stage` for a run, `folders` for any two folders of masks, `compare` for two systems."""

from collections.abc import Callable
from typing import Any

from medseg.core.door import make_callable


def _door() -> Callable[..., Any]:
    from medseg.metrics.case import score_case

    return score_case


make_callable(__name__, _door)
