"""plan.yaml: every decision with its reason beside it."""

from __future__ import annotations

from pathlib import Path

from medseg.config import Plan
from medseg.config_file import dump_yaml, read_yaml, validate
from medseg.core.atomic import write_text

HEAD = "# What the plan decided, and why. Overrule a value in the pipeline file, in the room where it acts:\n# ingest.spacing_mm, ingest.intensity, train.patch_size, train.batch_size.\n"


def save_plan(plan: Plan, path: Path) -> None:
    """Writes plan.yaml; the reasons stand as comments beside the lines, and as data so that they survive reading."""
    write_text(path, HEAD + dump_yaml(plan.model_dump(mode="json"), plan.reasons))


def load_plan(path: Path) -> Plan:
    """Reads plan.yaml; raises UserError with file, line and key when it was edited wrongly."""
    plan: Plan = validate(
        Plan, read_yaml(path), str(path), "undo the change, or make the plan again: `medseg plan`"
    )
    return plan
