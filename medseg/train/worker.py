"""One process of a training on several devices: `python -m medseg.train.worker JOB|RUN`.

`medseg run` starts it with a job file (`compute.devices`); torchrun, and through it SLURM, with a run folder in which
check, plan and ingest are done. RANK, LOCAL_RANK and WORLD_SIZE say which of how many it is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from medseg.core.errors import Interrupted, UserError


def work(place: Path) -> int:
    """Trains this process's share; the exit code."""
    from medseg.core.atomic import write_json
    from medseg.core.progress import be_quiet
    from medseg.train import several, stage

    if not several.is_first():
        be_quiet()
    try:
        pipeline, folder, key = several.read_job(place)
    except UserError as err:
        print(f"medseg: {err}", file=sys.stderr)
        return 2
    try:
        key = key or several.key_of(pipeline, folder, stage.inputs(pipeline, folder))
        result = stage.train_here(pipeline, folder)
    except Interrupted:
        return several.STOPPED
    except UserError as err:
        write_json(folder.path / several.PLACE / "error.json", err.as_json())
        if several.is_first():
            print(f"medseg: {err}", file=sys.stderr)
        return 2
    if several.is_first():
        several.leave(folder, key, result)
    return 0


def end_with_parent() -> None:
    """Asks this process to stop when the one that started it is gone, so that nothing runs on alone."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="medseg-parent").start()


def main() -> None:
    """The command; sets nothing in motion when it is imported."""
    if len(sys.argv) != 2:
        print("usage: python -m medseg.train.worker RUN", file=sys.stderr)
        sys.exit(2)
    end_with_parent()
    sys.exit(work(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
