"""One entry in a process of its own: `python -m medseg.bench.classical.one JOB.json RESULT.json`."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.bench.classical.measure import measure
from medseg.bench.classical.recipe import ImageSet
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError


def main(job: Path, result: Path) -> int:
    """Measures the entry of a job file; what went wrong is written like a result.

    The job's `cpu_seconds` of processor time are a limit that the system holds: the process is ended after them.
    """
    import traceback

    facts: Mapping[str, Any] = read_json(job)
    limit = int(facts["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    root = Path(facts["root"]) if facts["root"] else None
    try:
        figures = measure(facts["system"], ImageSet.model_validate(facts["images"]), root)
        write_json(result, {"state": "done", **figures})
    except Exception as err:  # whatever a method may raise is its own entry's business
        traceback.print_exc()
        write_json(result, {"state": "failed", "error": reason_of(err)})
        return 1
    return 0


def reason_of(err: BaseException) -> str:
    """The first line of what went wrong."""
    text = err.what if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
    return text.splitlines()[0][:300] if text.strip() else type(err).__name__


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
