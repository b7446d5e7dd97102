"""The verbs. A room is imported only when its verb is called."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from medseg import __version__
from medseg.cli_ask import asked
from medseg.cli_bench import bench, gallery
from medseg.cli_compare import compare
from medseg.cli_door import SOME_FAILED, run_safely
from medseg.cli_model import model
from medseg.cli_place import alone, run_place
from medseg.cli_predict import model_folder, predict, stop_gently
from medseg.cli_tools import AS_JSON, TOOLS


class Verbs(click.Group):
    """Verbs in the order of the road, and the nearest one for a mistyped name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as err:
            from medseg.core.errors import did_you_mean

            raise click.UsageError(f"no verb '{args[0]}'{did_you_mean(args[0], self.commands)}", ctx) from err


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="medseg")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Medical image segmentation, from cases to evidence.

    \b
    medseg run pipelines/ct_lung.yaml                 the whole road on a synthetic cohort
    medseg run pipelines/ct_lung.yaml --data FOLDER   the same on your own cases
    medseg init FOLDER                                writes a pipeline file for a data folder

    Exit codes: 0 done, 2 your input needs a correction, 3 some cases failed, 1 a fault of medseg,
    130 stopped by Ctrl-C, 75 stopped by SIGTERM (start again with --resume).
    """
    ctx.obj = {"debug": debug}


def _options(*options: Callable) -> Callable:
    def add(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return add


JOURNEY = _options(
    click.argument("pipeline_file", type=click.Path(path_type=Path), metavar="PIPELINE"),
    click.option("--data", type=click.Path(path_type=Path), help="Folder or manifest with your own cases."),
    click.option(
        "--model", type=click.Path(path_type=Path), help="Model folder (or run folder) to predict with."
    ),
    click.option("--out", type=click.Path(path_type=Path), help="Run folder. Default: runs/NAME-1, -2 ..."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a setting, e.g. train.minutes=3.",
    ),
    click.option(
        "--folds",
        metavar="all|0,2",
        help="Cross-validation: all folds, or some now and others in other jobs.",
    ),
    click.option("--resume", is_flag=True, help="Continue the newest run of this pipeline."),
    AS_JSON,
)


def _load(
    pipeline_file: Path,
    data: Path | None,
    model: Path | None,
    overrides: tuple[str, ...],
    folds: str | None = None,
) -> Any:
    from medseg.config_file import load_pipeline
    from medseg.core.errors import UserError

    extra: dict[str, Any] = {}
    if data is not None:
        if not data.exists():
            raise UserError("no such data folder or manifest", str(data), "give an existing path to --data")
        extra["data"] = {"root": str(data.resolve()), "phantom": None}
    if model is not None:
        extra["predict"] = {"model": str(model_folder(model))}
    if folds is not None:
        extra["train"] = {"folds": folds}
    return load_pipeline(pipeline_file, overrides, extra)


def _walk(pipeline_file: Path, data: Path | None, model: Path | None, out: Path | None, overrides: tuple[str, ...],
          resume: bool, as_json: bool, steps: tuple[str, ...] | None = None, force: tuple[str, ...] = (),
          folds: str | None = None) -> None:  # fmt: skip
    from medseg import closing
    from medseg.pipeline import ROAD, run

    def walked(overrides: tuple[str, ...]) -> Any:
        pipeline = _load(pipeline_file, data, model, overrides, folds)
        with alone(pipeline, place):
            return run(pipeline, place, steps=steps or ROAD, force=force)

    stop_gently()
    with run_place(_load(pipeline_file, data, model, overrides, folds), out, resume) as place:
        walk = asked(walked, overrides, as_json)
    if as_json:
        click.echo(json.dumps(closing.summary(walk), allow_nan=False))
    else:
        click.echo(closing.text(walk))
    if closing.counts(walk)["failed"]:
        sys.exit(SOME_FAILED)


@cli.command()
@JOURNEY
@click.option(
    "--until",
    type=click.Choice(["check", "plan", "ingest", "train", "predict", "score", "report"]),
    help="Stop after this step.",
)
@click.option("--again", multiple=True, metavar="STEP", help="Do this step again although nothing changed.")
@click.option(
    "--only",
    type=click.Choice(["failed"]),
    help="Do the steps again in which cases failed; the rest is kept.",
)
def run(pipeline_file: Path, data: Path | None, model: Path | None, out: Path | None, overrides: tuple[str, ...],
        resume: bool, as_json: bool, until: str | None, again: tuple[str, ...], only: str | None,
        folds: str | None) -> None:  # fmt: skip
    """Walk the whole road: check, plan, ingest, train, predict, score, report."""
    from medseg.pipeline import ROAD

    steps = ROAD[: ROAD.index(until) + 1] if until else ROAD
    if only:
        from medseg.closing import failed_steps

        with run_place(_load(pipeline_file, data, model, overrides), out, resume=True) as place:
            again, out = (*again, *failed_steps(place)), place
    _walk(pipeline_file, data, model, out, overrides, resume, as_json, steps, again, folds)


@cli.command()
@click.argument("target", type=click.Path(path_type=Path), metavar="PIPELINE|DATA")
@click.option("--data", type=click.Path(path_type=Path), help="Folder or manifest with your own cases.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@AS_JSON
def check(
    target: Path, data: Path | None, out: Path | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Find what is wrong with the data of a pipeline, or of a bare folder or table, before it costs a week."""
    if _holds_data(target):
        from medseg.check.folder import check_folder, settings_from

        if data is not None:
            raise click.UsageError(
                "give the data folder once: it stands in the place of the pipeline already"
            )
        found = asked(lambda more: check_folder(target, settings_from(more), out), overrides, as_json)
        facts = {**found, "cases": found["counts"]}
        if as_json:
            click.echo(json.dumps(facts, allow_nan=False))
        else:
            _print_check(facts)
        if facts["failed"]:
            sys.exit(SOME_FAILED)
        return
    _walk(target, data, None, out, overrides, False, as_json, ("check",))


def _holds_data(target: Path) -> bool:
    """Whether it is a folder, a table of cases or an image, and no pipeline file; UserError where nothing is there."""
    from medseg.config_file import find_file
    from medseg.core.errors import UserError
    from medseg.io.names import READABLE, suffix_of

    if target.suffix not in (".yaml", ".yml") and not find_file(target).exists():
        raise UserError(
            "no such folder, table or pipeline file",
            str(target),
            "is the path right, and is the disk mounted?",
        )
    return target.is_dir() or (
        target.is_file() and suffix_of(target) in (".csv", ".parquet", ".pq", *READABLE)
    )


@cli.command()
@click.argument("pipeline_file", type=click.Path(path_type=Path), metavar="PIPELINE", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="Folder or manifest with your own cases.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option(
    "--fingerprint",
    type=click.Path(path_type=Path),
    help="Plan from a data set fingerprint (JSON) instead of a pipeline.",
)
@click.option(
    "--planner",
    default="nnunet",
    show_default=True,
    help="With --fingerprint: nnunet, nnunet-resenc-m, -l, -xl.",
)
@click.option("--memory", default=8.0, show_default=True, help="With --fingerprint: GPU memory target in GB.")
@click.option(
    "--measure", is_flag=True, help="Take dry steps: how much memory, and the largest batch that fits."
)
@AS_JSON
def plan(pipeline_file: Path | None, data: Path | None, out: Path | None, overrides: tuple[str, ...],
         fingerprint: Path | None, planner: str, memory: float, measure: bool, as_json: bool) -> None:  # fmt: skip
    """Decide spacing, patch, batch and topology; every decision with its reason."""
    from medseg.core.errors import UserError

    if fingerprint is not None:
        from medseg.core.atomic import read_json
        from medseg.plan.nnunet import plan_nnunet

        click.echo(
            json.dumps(plan_nnunet(read_json(fingerprint), planner, memory), indent=None if as_json else 1)
        )
        return
    if pipeline_file is None:
        raise UserError("plan needs a pipeline file or --fingerprint FILE")
    if measure:
        from medseg.cli_measure import plan_and_measure

        plan_and_measure(_load(pipeline_file, data, None, overrides), out, as_json)
        return
    _walk(pipeline_file, data, None, out, overrides, False, as_json, ("check", "plan"))


@cli.command()
@JOURNEY
def train(**arguments: Any) -> None:
    """Walk up to the trained model."""
    _walk(steps=("check", "plan", "ingest", "train"), **arguments)


cli.add_command(predict)


@cli.command()
@click.argument("prediction", type=click.Path(path_type=Path), metavar="PRED")
@click.argument("reference", type=click.Path(path_type=Path), metavar="[REF]", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Write scores.json and scores.csv here.")
@click.option(
    "--tolerance-mm",
    type=click.FloatRange(0, 1e6),
    default=2.0,
    show_default=True,
    help="Tolerance of the surface Dice.",
)
@click.option("--metrics", metavar="NAME,..", help="Measures, e.g. dice,assd_mm. Default: the usual five.")
@click.option("--ignore", type=int, metavar="VALUE", help="Label value of REF that counts nowhere.")
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="Score this class alone (repeatable)."
)
@AS_JSON
def score(prediction: Path, reference: Path | None, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Compare two folders of masks (or two files), or score a run folder again."""
    from medseg.core.errors import UserError

    if reference is None:
        if not (prediction / "pipeline.yaml").is_file():
            raise UserError("score needs two folders of masks, or one run folder", str(prediction))
        if asked["metrics"] or asked["ignore"] is not None or asked["classes"]:
            raise click.UsageError("a run is scored as its pipeline file says: score.metrics, data.ignore")
        _walk(
            prediction / "pipeline.yaml", None, None, prediction, (), False, as_json, ("score",), ("score",)
        )
        return
    from medseg.metrics.table import DEFAULT_METRICS
    from medseg.score.folders import score_folders, text_of

    names = [name.strip() for name in (asked["metrics"] or "").split(",") if name.strip()]
    facts = score_folders(
        prediction,
        reference,
        asked["classes"] or None,
        metrics=names or DEFAULT_METRICS,
        tolerance_mm=asked["tolerance_mm"],
        ignore=asked["ignore"],
        out=out,
    )
    click.echo(json.dumps(facts, allow_nan=False) if as_json else text_of(facts))
    if facts["cases"]["failed"]:
        sys.exit(SOME_FAILED)


@cli.command()
@click.argument("run_folder", type=click.Path(path_type=Path), metavar="RUN")
@AS_JSON
def report(run_folder: Path, as_json: bool) -> None:
    """Make the page of a run folder again."""
    _run_folder(run_folder)
    _walk(run_folder / "pipeline.yaml", None, None, run_folder, (), False, as_json, ("report",), ("report",))


@cli.command()
@click.argument("run_folder", type=click.Path(path_type=Path), metavar="RUN|MASKS")
@AS_JSON
def status(run_folder: Path, as_json: bool) -> None:
    """What is finished in a run folder or a folder of masks, and which cases failed or want a look."""
    from medseg.closing import status as status_of
    from medseg.closing import unfinished_lines

    if not (run_folder / "pipeline.yaml").is_file() and (run_folder / "manifest").is_dir():
        from medseg.cli_predict import say_status

        say_status(run_folder, as_json)
        return
    _run_folder(run_folder)
    facts = status_of(run_folder)
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    for system, steps in facts["steps"].items():
        for step, about in steps.items():
            click.echo(
                f"{step:<8} {system + ' ' if system else ''}{about['line']} ({about['seconds']:.0f} s)"
            )
    for case in facts["cases"]:
        click.echo(f"{case['state']:<8} {case['case']}: {case['reason']} ({case['step']})")
    for line in unfinished_lines(facts):
        click.echo(line)


def _run_folder(path: Path) -> None:
    from medseg.core.errors import UserError

    if not (path / "pipeline.yaml").is_file():
        raise UserError(
            "is no run folder: it has no pipeline.yaml",
            str(path),
            "give the folder that `medseg run` printed",
        )


def _print_check(facts: dict[str, Any]) -> None:
    counts = facts["cases"]
    click.echo(
        f"{facts['layout']}: {counts['done']} cases can be used, {counts['failed']} cannot, {counts['skipped']} left out"
    )
    for line in facts["notes"]:
        click.echo(f"  {line}")
    for state in ("failed", "skipped", "review"):
        for case, reason in facts[state].items():
            click.echo(f"  {state:<8} {case}: {reason}")
    for name, reason in (row.values() if isinstance(row, dict) else row for row in facts["left_out"]):
        click.echo(f"  left out {name}: {reason}")


for _tool in TOOLS:
    cli.add_command(_tool)
cli.add_command(compare)
cli.add_command(model)
cli.add_command(bench)
cli.add_command(gallery)


def main() -> None:
    """The command `medseg`: runs a verb; turns errors into one sentence and an exit code."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    return run_safely(cli, arguments)


if __name__ == "__main__":
    main()
