"""The verb `compare`: which of several finished runs is the best, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from medseg.cli_tools import AS_JSON


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the choice with all figures to this JSON file."
)
@AS_JSON
def compare(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Choose the best of several runs, or of the systems in one, by mean out-of-fold Dice."""
    from medseg.core.atomic import write_json
    from medseg.core.errors import UserError
    from medseg.score.choose import candidates_of, choose

    for run in runs:
        if not (run / "pipeline.yaml").is_file():
            raise UserError(
                "is no run folder: it has no pipeline.yaml", str(run), "give folders of finished runs"
            )
    facts = choose([candidate for run in runs for candidate in candidates_of(run.resolve())])
    if out is not None:
        write_json(out, facts)
    click.echo(json.dumps(facts, allow_nan=False) if as_json else text_of(facts))


def text_of(facts: Mapping[str, Any]) -> str:
    """The table a person reads."""
    lines = [f"{'system':<34} {'Dice':>7} {'sd folds':>9} {'cases':>6} {'seconds':>9}"]
    for row in facts["candidates"]:
        sd = "-" if row["sd_over_folds"] is None else f"{row['sd_over_folds']:.3f}"
        mark = "  chosen" if row["system"] == facts["chosen"] else ""
        lines.append(
            f"{row['system']:<34} {row['dice']:>7.3f} {sd:>9} {row['n']:>6} {row['seconds']:>9.0f}{mark}"
        )
    lines += [
        f"{row['a']} and {row['b']}: Dice differs by {row['difference']:.3f}: {row['sentence']}"
        for row in facts["differences"]
        if row["difference"] is not None
    ]
    lines += [
        f"{name}: {count} scores without a partner are left out"
        for name, count in facts["not_shared"].items()
    ]
    return "\n".join([*lines, f"rule: {facts['rule']}"])
