"""`medseg plan --measure`: the plan, and what its training step really takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


def plan_and_measure(pipeline: Any, out: Path | None, as_json: bool) -> None:
    """Walks to the plan, takes dry steps for each system, prints a line each and writes RUN/measured.json."""
    from medseg import pipeline as road
    from medseg.config_plan import load_plan
    from medseg.core.atomic import write_json
    from medseg.plan.dry_step import in_words, measure
    from medseg.zoo.build import find

    walk = road.run(pipeline, out or road.new_folder(pipeline.name, Path("runs")), steps=("check", "plan"))
    found: dict[str, Any] = {}
    for system in walk.pipeline.systems:
        if find(system.name).kind == "classical":
            continue
        several = len(walk.pipeline.systems) > 1
        folder = walk.folder.system(system.slug) if several else walk.folder
        plan = load_plan(folder.plan)
        measured = measure(walk.pipeline.for_system(system), plan)
        found[system.slug] = {**measured.as_json(), "planned_batch": plan.batch_size}
        if not as_json:
            click.echo(f"{system.slug}: {in_words(measured, plan)}")
    write_json(walk.folder.path / "measured.json", found)
    if as_json:
        click.echo(json.dumps({"run": str(walk.folder.path), "measured": found}))
