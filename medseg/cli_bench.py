"""The verbs that measure and show the systems themselves: `bench zoo`, `bench classical`, `gallery classical`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medseg.cli_door import SOME_FAILED
from medseg.cli_tools import AS_JSON

if TYPE_CHECKING:
    from medseg.bench.coordinator import Done, Facts

DATA = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with one folder a data set (or MEDSEG_DATA)."
)

NO_TRACK = click.option("--no-track", is_flag=True, help="Write nothing to MLflow.")


def _folder(name: str, default: str, text: str) -> Callable:
    return click.option(
        name, type=click.Path(path_type=Path), default=Path(default), show_default=True, help=text
    )


def _shared(kind: str) -> Callable:
    """The options that every benchmark has."""
    options = (
        DATA,
        click.option("--systems", help="Only these systems, with commas between. Default: all that fit."),
        click.option("--data-sets", help="Only these data sets of the recipe, with commas between."),
        click.option(
            "--workers", default=1, show_default=True, type=click.IntRange(1), help="Entries measured at once."
        ),
        _folder("--out", f"docs/{kind}", "Folder of the results, one JSON file an entry; the page is written beside it."),
        _folder("--work", f"runs/bench-{kind}", "Prepared cases and logs."),
        click.option(
            "--recipe", type=click.Path(path_type=Path), help=f"Another recipe than configs/bench/{kind}.yaml."
        ),
        click.option("--again", is_flag=True, help="Measure also what has not changed."),
        click.option("--retry", is_flag=True, help="Measure also what failed before."),
        click.option(
            "--table", is_flag=True, help="Measure nothing; write the page from the results that are there."
        ),
        AS_JSON,
    )  # fmt: skip

    def add(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


@click.group()
def bench() -> None:
    """Measure all systems by one recipe on the same data, and write the tables."""


@bench.command()
@_shared("zoo")
@click.option(
    "--minutes",
    type=float,
    help="Training minutes of a system on a data set; none gets more, not even one that does not learn. Default: the recipe's.",
)
@click.option(
    "--shard", metavar="I/N", help="Only every N-th entry, beginning with the I-th; for several machines."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the recipe."
)
@NO_TRACK
def zoo(data: Path | None, systems: str | None, data_sets: str | None, minutes: float | None,
        shard: str | None, workers: int, out: Path, work: Path, recipe: Path | None, overrides: tuple[str, ...],
        again: bool, retry: bool, no_track: bool, table: bool, as_json: bool) -> None:  # fmt: skip
    """Train every network of the catalog by one short recipe on the same data, and write the tables."""
    from medseg.bench.coordinator import Wish
    from medseg.bench.recipe import load_recipe
    from medseg.bench.run import line_of
    from medseg.bench.run import run as run_bench
    from medseg.bench.table import write_page

    read = load_recipe(recipe, minutes, overrides)
    if table:
        _say_page(write_page(read, out), as_json)
        return
    names = _names(systems), _names(data_sets)
    done = run_bench(Wish(read, out, work, data, *names, shard, workers, again, retry, not no_track))
    _say_done(done, line_of, write_page(load_recipe(recipe, None, overrides), out), as_json)


@bench.command()
@_shared("classical")
@NO_TRACK
def classical(data: Path | None, systems: str | None, data_sets: str | None, workers: int, out: Path, work: Path,
              recipe: Path | None, again: bool, retry: bool, no_track: bool, table: bool,
              as_json: bool) -> None:  # fmt: skip
    """Run every classical method on the same images: quality, speed and memory, and write the tables."""
    from medseg.bench.classical.recipe import load_recipe
    from medseg.bench.classical.run import line_of
    from medseg.bench.classical.run import run as run_bench
    from medseg.bench.classical.table import write_page
    from medseg.bench.coordinator import Wish

    read = load_recipe(recipe)
    if table:
        _say_page(write_page(read, out), as_json)
        return
    names = _names(systems), _names(data_sets)
    done = run_bench(Wish(read, out, work, data, *names, None, workers, again, retry, not no_track))
    _say_done(done, line_of, write_page(read, out), as_json)


def _say_done(done: Done, line_of: Callable[[Facts], str], page: Path, as_json: bool) -> None:
    """What a call measured, and the exit code when something failed."""
    if as_json:
        click.echo(json.dumps({**done.as_json(), "page": str(page)}))
    else:
        lines = [f"  {line_of(entry)}" for entry in (*done.measured, *done.failed)]
        click.echo("\n".join([*lines, f"{done.kept} entries kept, page {page}"]))
    if done.failed:
        sys.exit(SOME_FAILED)


def _say_page(page: Path, as_json: bool) -> None:
    click.echo(json.dumps({"page": str(page)}) if as_json else f"wrote {page}")


@click.group()
def gallery() -> None:
    """Pictures of what systems do, and the page that shows them."""


@gallery.command("classical")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("gallery"),
    show_default=True,
    help="Folder of the pictures; classical.md is written beside it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    help="A photograph, slice or volume of your own. Default: pictures that need no download.",
)
@click.option("--systems", help="Only these methods, with commas between. Default: every one.")
@AS_JSON
def gallery_classical(out: Path, data: Path | None, systems: str | None, as_json: bool) -> None:
    """One picture a classical method: the input, and what the method made of it."""
    from medseg.gallery.classical import draw

    made = draw(out, data, _names(systems))
    if as_json:
        click.echo(json.dumps(made.as_json()))
    else:
        click.echo("\n".join([*made.lines(), f"{len(made.pictures)} pictures in {out}, page {made.page}"]))
    if made.failed:
        sys.exit(SOME_FAILED)
