"""What only a person can decide is asked on a terminal; a script gets an error with the choices to write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click

T = TypeVar("T")


def asked(work: Callable[[tuple[str, ...]], T], overrides: tuple[str, ...], as_json: bool) -> T:
    """Does `work(overrides)`; a question on the way is put to the person, and the answer joins the overrides.

    Raises the question itself where nobody can answer: with --json, or without a terminal.
    """
    from medseg.core.errors import Question

    while True:
        try:
            return work(overrides)
        except Question as question:
            if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise
            overrides = (*overrides, _answer(question.what, question.faults, question.choices))


def _answer(what: str, faults: tuple[str, ...], choices: tuple[tuple[str, str], ...]) -> str:
    click.echo(what, err=True)
    for line in faults:
        click.echo(f"  {line}", err=True)
    for number, (meaning, _) in enumerate(choices, 1):
        click.echo(f"  {number}  {meaning}", err=True)
    picked = int(click.prompt("Which", type=click.IntRange(1, len(choices)), err=True))
    setting = choices[picked - 1][1]
    click.echo(f"next time without asking: --set {setting}", err=True)
    return setting
