"""`medseg predict`: every case of a folder, a share of them, or a trial."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from medseg.cli_ask import asked
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
@click.option(
    "--each", is_flag=True, help="Several models: masks of each, in OUT/NAME. Each case is read once."
)
@click.option(
    "--cluster",
    metavar="KIND",
    help="Who does the cases: processes, dask, slurm, pbs, sge, lsf, kubernetes, or tcp://SCHEDULER.",
)
@AS_JSON
def predict(models: tuple[Path, ...], data: Path, out: Path, overrides: tuple[str, ...], only: str | None, shard: str,
            trial: int, each: bool, cluster: str | None, as_json: bool) -> None:  # fmt: skip
    """Segment every case of a folder with a model folder, or with the mean of several. Downloads nothing."""
    from medseg.config import Pipeline
    from medseg.config_file import Source, apply_overrides, validate
    from medseg.core.errors import UserError
    from medseg.io.nibabel_alone import import_nibabel_alone
    from medseg.predict.folder import predict_each, predict_folder
    from medseg.predict.share import Share

    if not data.exists():
        raise UserError("no such data", str(data), "give an existing file or folder to --data")

    def settings(overrides: tuple[str, ...]) -> Pipeline:
        source = Source({"name": "predict", "system": "from-model"})
        apply_overrides(source, (*cluster_settings(cluster), *overrides))
        return validate(Pipeline, source, "--set")

    settings(overrides)
    stop_gently()
    import_nibabel_alone()
    folders, share = [model_folder(model) for model in models], Share(only or "", shard, trial)
    if each:
        each_of = asked(lambda o: predict_each(folders, data, out, settings(o), share), overrides, as_json)
        say_results(each_of, as_json, out)
        return
    result = asked(lambda o: predict_folder(folders, data, out, settings(o), share), overrides, as_json)
    forecast = {"forecast": result.details["forecast"]} if "forecast" in result.details else {}
    say_result(result, as_json, {"out": str(out), **forecast})


def cluster_settings(cluster: str | None) -> tuple[str, ...]:
    """What --cluster stands for: the name of a kind, or the address of a Dask scheduler that runs already."""
    if cluster is None:
        return ()
    if "://" in cluster:
        return ("compute.cluster.kind=dask", f"compute.cluster.address={cluster}")
    return (f"compute.cluster.kind={cluster}",)


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


def say_results(results: dict[str, Any], as_json: bool, out: Path) -> None:
    """As `say_result`, for the models of --each: one JSON object, or a block of lines a model."""
    if as_json:
        click.echo(
            json.dumps({name: facts_of(one, {"out": str(out / name)}) for name, one in results.items()})
        )
    else:
        for name, one in results.items():
            click.echo(f"{name}: ", nl=False)
            print_result(one)
    if any(one.failed for one in results.values()):
        sys.exit(SOME_FAILED)


def say_result(result: Any, as_json: bool, extra: dict[str, Any]) -> None:
    """Prints what a stage returned, for a person or as one JSON object; leaves with the exit code it stands for."""
    if as_json:
        click.echo(json.dumps(facts_of(result, extra), allow_nan=False))
    else:
        print_result(result)
    if result.failed:
        sys.exit(SOME_FAILED)


def facts_of(result: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """The object for scripts."""
    return {
        **extra,
        "line": result.line,
        "cases": result.counts(),
        "failed": result.failed,
        "skipped": result.skipped,
        "review": result.review,
    }


def print_result(result: Any) -> None:
    """The lines for people: those to look at first."""
    click.echo(result.line)
    for state, title in (("review", "needs review"), ("failed", "failed"), ("skipped", "left out")):
        for case, reason in getattr(result, state).items():
            click.echo(f"  {title:<12} {case}: {reason}")


def say_status(out: Path, as_json: bool) -> None:
    """What became of the cases of a folder of masks so far."""
    from medseg.core.at_work import say_who_works, who_works
    from medseg.predict.manifest import states_of

    states, working = states_of(out), who_works(out)
    counts, not_begun = states.counts, states.not_begun
    if as_json:
        cases = [dict(zip(("case", "state", "reason"), row)) for row in states.named]
        facts = {"masks": str(out), "counts": counts, "at_work": working, "cases": cases}
        click.echo(json.dumps({**facts, "not_begun": not_begun}))
        return
    words = {"done": "done", "review": "to look at", "failed": "failed", "waiting": "waiting"}
    if counts["left_out"]:
        words["left_out"] = "left out"
    click.echo(", ".join(f"{counts[state]} {word}" for state, word in words.items()))
    for case, state, reason in states.named:
        click.echo(f"  {'needs review' if state == 'review' else state:<12} {case}: {reason}")
    call = "the same `medseg predict` call"
    begun = counts["waiting"] - len(not_begun)
    says = say_who_works(working, call) or (f"{call} goes on" if begun else "")
    if says:
        click.echo(says)
    if not_begun:
        click.echo(
            f"{len(not_begun)} of the waiting are in no call yet: another share, or all without --trial"
        )
