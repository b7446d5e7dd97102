"""The verbs that look things up: systems, the schema, a first pipeline file, MLflow's pages, shell completion."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import subprocess


def of_cards(fact: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What a shell completes an argument to: a fact of the systems' cards (name, task, family)."""

    def complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
        from medseg.zoo.catalog import cards

        found = dict.fromkeys(str(getattr(card, fact)) for card in cards())
        return [text for text in found if text.startswith(begun.lower())]

    return complete


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")


@click.command("list")
@click.option("--dims", type=click.Choice(["2", "3"]), help="Only systems that work in 2D or in 3D.")
@click.option(
    "--task", shell_complete=of_cards("task"), help="Only this task: semantic, instance, panoptic ..."
)
@click.option(
    "--family",
    shell_complete=of_cards("family"),
    help="Only this family: encoder_decoder, attention, classical ...",
)
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
@click.argument("name", shell_complete=of_cards("name"))
@click.option("--dims", type=click.Choice(["2", "3"]), help="Count parameters in 2D or 3D.")
@click.option(
    "--input",
    "shape",
    metavar="B,C,...",
    help="Count operations of one size for this input. Default: 1,3,256,256 and 1,1,96,96,96.",
)
@click.option("--size", help="The size to count. Default: with --input the one a pipeline gets, else all.")
@AS_JSON
def show(name: str, dims: str | None, shape: str | None, size: str | None, as_json: bool) -> None:
    """One system's card: paper, arguments with defaults, sizes, parameters, operations, rank in the bench."""
    from medseg.zoo.card_text import text_of
    from medseg.zoo.describe import describe
    from medseg.zoo.effort import parse_input

    facts = describe(name, int(dims) if dims else None, parse_input(shape) if shape else None, size)
    click.echo(json.dumps(facts) if as_json else text_of(facts))


@click.command()
@AS_JSON
def schema(as_json: bool) -> None:
    """The JSON schema of the pipeline file, for editors that complete and check it."""
    from medseg.config_schema import file_schema

    click.echo(json.dumps(file_schema(), indent=None if as_json else 1))


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
        json.dumps({"pipeline": str(out)})
        if as_json
        else f"wrote {out}: read it, then `medseg run {shlex.quote(str(out))}`"
    )


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path), metavar="[RUN]", required=False)
@click.option("--port", default=5000, show_default=True, help="Port on 127.0.0.1.")
@AS_JSON
def ui(run_folder: Path | None, port: int, as_json: bool) -> None:
    """MLflow's pages on the run's store, on this computer only (127.0.0.1)."""
    from medseg.track.mlflow_store import ui_command

    command, environment = ui_command(store_of(run_folder or Path("runs")), port)
    url = f"http://127.0.0.1:{port}"
    click.echo(json.dumps({"url": url}) if as_json else f"MLflow opens on {url}  (Ctrl-C ends it)")
    sys.exit(served(command, environment))


def store_of(folder: Path) -> str:
    """Where the figures of a run, or of all runs in a folder, are kept; a store that was moved with its run is found.

    Raises UserError where there is none: a server would make an empty one.
    """
    from medseg.core.atomic import read_json
    from medseg.core.errors import UserError
    from medseg.track.mlflow_store import default_uri

    if not folder.is_dir():
        raise UserError("no such run folder", str(folder), "give the folder that `medseg run` printed")
    kept = folder / "tracking.json"
    named = str(read_json(kept)["uri"]) if kept.exists() else default_uri(folder)
    uris = [named, default_uri(folder.resolve().parent)] if kept.exists() else [named]
    for uri in uris:
        if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file():
            return uri
    raise UserError(
        "there is no MLflow store of this run",
        str(folder),
        "it was made with track.enabled: false, or its mlflow.db was left behind: it lies beside the run folder",
    )


def served(command: list[str], environment: dict[str, str]) -> int:
    """Runs a server until it ends, or until Ctrl-C or SIGTERM end it with every process that it started."""
    import signal
    import subprocess

    asked: list[int] = []
    server: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        end_group(server)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    # Its own words go to standard error: with --json standard output holds the object alone. A session of its own
    # makes one group of all its processes; its workers would outlive it.
    server = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    if asked:
        end_group(server)
    code = server.wait()
    end_group(server)
    return 0 if asked else code


def end_group(server: subprocess.Popen[bytes] | None) -> None:
    """Ends a process and those that it started; where the system has no groups, the process alone."""
    import os
    import signal
    from contextlib import suppress

    if server is None:
        return
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(server.pid, signal.SIGKILL)
        else:
            server.kill()


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@AS_JSON
def completion(shell: str, as_json: bool) -> None:
    """The line that switches on completion of verbs, options and files in your shell."""
    lines = {
        "bash": 'eval "$(_MEDSEG_COMPLETE=bash_source medseg)"   # put this into ~/.bashrc',
        "zsh": 'eval "$(_MEDSEG_COMPLETE=zsh_source medseg)"   # put this into ~/.zshrc',
        "fish": "_MEDSEG_COMPLETE=fish_source medseg | source   # put this into ~/.config/fish/completions/medseg.fish",
    }
    click.echo(json.dumps({"line": lines[shell].split("   #")[0]}) if as_json else lines[shell])


TOOLS = (list_systems, show, schema, init, ui, completion)
