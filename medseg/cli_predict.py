"""`medseg predict`: every case of a folder, a share of them, or a trial."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from medseg.cli_door import SOME_FAILED

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.command()
@click.argument("models", type=click.Path(path_type=Path), metavar="MODEL_FOLDER...", nargs=-1, required=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Image file, DICOM folder, folder of cases or manifest.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Where the masks are written, one a case, named after the case.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting, e.g. predict.overlap=0.25 or predict.write=[nifti,dicom_seg].",
)
@click.option("--only", type=click.Choice(["failed"]), help="Only the cases that failed before.")
@click.option(
    "--shard", default="", metavar="I/N", help="Only every N-th case from the I-th on, for job arrays."
)
@click.option(
    "--trial", default=0, metavar="N", help="Only N cases across the cohort, and what all would cost."
)
@AS_JSON
def predict(models: tuple[Path, ...], data: Path, out: Path, overrides: tuple[str, ...], only: str | None, shard: str,
            trial: int, as_json: bool) -> None:  # fmt: skip
    """Segment every case of a folder with a model folder, or with the mean of several. Downloads nothing."""
    from medseg.config import Pipeline
    from medseg.config_file import Source, apply_overrides, validate
    from medseg.core.errors import UserError
    from medseg.predict.folder import predict_folder
    from medseg.predict.share import Share

    if not data.exists():
        raise UserError("no such data", str(data), "give an existing file or folder to --data")
    source = Source({"name": "predict", "system": "from-model"})
    apply_overrides(source, overrides)
    settings = validate(Pipeline, source, "--set")
    stop_gently()
    result = predict_folder([model_folder(model) for model in models], data, out, settings,
                            Share(only or "", shard, trial))  # fmt: skip
    forecast = {"forecast": result.details["forecast"]} if "forecast" in result.details else {}
    say_result(result, as_json, {"out": str(out), **forecast})


def model_folder(path: Path) -> Path:
    """The model folder at a path, or that of the run there; UserError where neither is."""
    from medseg.core.errors import UserError

    for candidate in (path, path / "model"):
        if (candidate / "model.json").is_file():
            return candidate.resolve()
    raise UserError("is no model folder: it has no model.json", str(path), "give RUN/model of a finished run")


def stop_gently() -> None:
    """SIGTERM ends the run like Ctrl-C does: what is finished is kept, the training saves itself."""
    from medseg.core.errors import Interrupted

    def stop(*_: object) -> None:
        raise Interrupted("SIGTERM")

    signal.signal(signal.SIGTERM, stop)


def say_result(result: Any, as_json: bool, extra: dict[str, Any]) -> None:
    """Prints what a stage returned, for a person or as one JSON object; leaves with the exit code it stands for."""
    facts = {
        **extra,
        "line": result.line,
        "cases": result.counts(),
        "failed": result.failed,
        "skipped": result.skipped,
        "review": result.review,
    }
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
    else:
        click.echo(result.line)
        for state in ("failed", "skipped", "review"):
            for case, reason in facts[state].items():
                click.echo(f"  {state:<8} {case}: {reason}")
    if result.failed:
        sys.exit(SOME_FAILED)
