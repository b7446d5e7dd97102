"""The verbs that look things up: systems, the schema, a first pipeline file, MLflow's pages, shell completion."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from medseg.cli_door import SOME_FAILED

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.command("list")
@click.option("--dims", type=click.Choice(["2", "3"]), help="Only systems that work in 2D or in 3D.")
@click.option("--task", help="Only this task: semantic, instance, panoptic ...")
@click.option("--family", help="Only this family: encoder_decoder, attention, classical ...")
@AS_JSON
def list_systems(dims: str | None, task: str | None, family: str | None, as_json: bool) -> None:
    """All systems: name, dimensions, year, parameters, title."""
    from medseg.zoo.catalog import cards

    found = [
        card for card in cards()
        if (dims is None or int(dims) in card.dims) and (task in (None, card.task)) and (family in (None, card.family))
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps([card.as_json() for card in found]))
        return
    for card in found:
        size = "" if card.params is None else f"{card.params / 1e6:.2f} M"
        dimensions = "/".join(f"{d}D" for d in card.dims)
        click.echo(
            f"{card.name:<20} {dimensions:<6} {card.family:<16} {card.year:<5} {size:>10}  {card.title}"
        )
    if not found:
        click.echo("no system matches; `medseg list` without filters shows all", err=True)


@click.command()
@click.argument("name")
@click.option("--dims", type=click.Choice(["2", "3"]), help="Count parameters in 2D or 3D.")
@click.option(
    "--input",
    "shape",
    metavar="B,C,...",
    help="Count operations for this input. Default: 1,3,256,256 and 1,1,96,96,96.",
)
@AS_JSON
def show(name: str, dims: str | None, shape: str | None, as_json: bool) -> None:
    """One system's card: paper, arguments with defaults, sizes, parameters, operations, rank in the bench."""
    from medseg.zoo.describe import describe, text_of
    from medseg.zoo.effort import parse_input

    facts = describe(name, int(dims) if dims else None, parse_input(shape) if shape else None)
    click.echo(json.dumps(facts) if as_json else text_of(facts))


@click.command()
@AS_JSON
def schema(as_json: bool) -> None:
    """The JSON schema of the pipeline file, for editors that complete and check it."""
    from medseg.config import Pipeline

    click.echo(json.dumps(Pipeline.model_json_schema(), indent=None if as_json else 1))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("pipeline.yaml"),
    show_default=True,
    help="File to write.",
)
@AS_JSON
def init(folder: Path, out: Path, as_json: bool) -> None:
    """Look at a data folder and write a commented pipeline file for it."""
    from medseg.check.init import draft_pipeline
    from medseg.core.atomic import write_text
    from medseg.core.errors import UserError

    if not folder.is_dir():
        raise UserError("is no folder", str(folder), "give the folder your images lie in")
    if out.exists():
        raise UserError("exists already", str(out), "choose another name with --out")
    write_text(out, draft_pipeline(folder))
    click.echo(
        json.dumps({"pipeline": str(out)}) if as_json else f"wrote {out}: read it, then `medseg run {out}`"
    )


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path), metavar="[RUN]", required=False)
@click.option("--port", default=5000, show_default=True, help="Port on 127.0.0.1.")
def ui(run_folder: Path | None, port: int) -> None:
    """MLflow's pages on the run's store, on this computer only (127.0.0.1)."""
    import subprocess

    from medseg.core.atomic import read_json
    from medseg.track.mlflow_store import default_uri, ui_command

    kept = (run_folder or Path("runs")) / "tracking.json"
    uri = read_json(kept)["uri"] if kept.exists() else default_uri(run_folder or Path("runs"))
    command, environment = ui_command(uri, port)
    click.echo(f"MLflow opens on http://127.0.0.1:{port}  (Ctrl-C ends it)")
    try:
        sys.exit(subprocess.call(command, env=environment))
    except KeyboardInterrupt:
        sys.exit(0)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """The line that switches on completion of verbs, options and files in your shell."""
    lines = {
        "bash": 'eval "$(_MEDSEG_COMPLETE=bash_source medseg)"   # put this into ~/.bashrc',
        "zsh": 'eval "$(_MEDSEG_COMPLETE=zsh_source medseg)"   # put this into ~/.zshrc',
        "fish": "_MEDSEG_COMPLETE=fish_source medseg | source   # put this into ~/.config/fish/completions/medseg.fish",
    }
    click.echo(lines[shell])


@click.command()
@click.argument("what", type=click.Choice(["zoo"]))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with one folder a data set (or MEDSEG_DATA)."
)
@click.option("--systems", help="Only these systems, with commas between. Default: every network.")
@click.option("--data-sets", help="Only these data sets of the recipe, with commas between.")
@click.option(
    "--minutes", type=float, help="Training minutes of a system on a data set. Default: the recipe's, 2."
)
@click.option(
    "--shard", metavar="I/N", help="Only every N-th entry, beginning with the I-th; for several machines."
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Entries measured at once."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("docs/zoo"),
    show_default=True,
    help="Folder of the results, one JSON file an entry; the page is written beside it.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("runs/bench-zoo"),
    show_default=True,
    help="Prepared cases and logs.",
)
@click.option("--recipe", type=click.Path(path_type=Path), help="Another recipe than configs/bench/zoo.yaml.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the recipe."
)
@click.option("--again", is_flag=True, help="Measure also what has not changed.")
@click.option("--retry", is_flag=True, help="Measure also what failed before.")
@click.option("--no-track", is_flag=True, help="Write nothing to MLflow.")
@click.option(
    "--table", is_flag=True, help="Measure nothing; write the page from the results that are there."
)
@AS_JSON
def bench(what: str, data: Path | None, systems: str | None, data_sets: str | None, minutes: float | None,
          shard: str | None, workers: int, out: Path, work: Path, recipe: Path | None, overrides: tuple[str, ...],
          again: bool, retry: bool, no_track: bool, table: bool, as_json: bool) -> None:  # fmt: skip
    """Train every network of the catalog by one short recipe on the same data, and write the tables."""
    from medseg.bench.recipe import load_recipe
    from medseg.bench.run import Wish
    from medseg.bench.run import run as run_bench
    from medseg.bench.table import text_of, write_page

    read = load_recipe(recipe, minutes, overrides)
    names = [
        [part.strip() for part in (text or "").split(",") if part.strip()] for text in (systems, data_sets)
    ]
    if table:
        page = write_page(read, out)
        click.echo(json.dumps({"page": str(page)}) if as_json else f"wrote {page}")
        return
    done = run_bench(Wish(read, out, work, data, *names, shard, workers, again, retry, not no_track))
    page = write_page(load_recipe(recipe, None, overrides), out)
    if as_json:
        click.echo(json.dumps({**done.as_json(), "page": str(page)}))
    else:
        click.echo(f"{text_of(done.measured, done.failed)}\n{done.kept} entries kept, page {page}")
    if done.failed:
        sys.exit(SOME_FAILED)


TOOLS = (list_systems, show, schema, init, bench, ui, completion)
