"""One system for people: its card, its paper's place in the file, its arguments with defaults, its size."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError, did_you_mean
from medseg.zoo.build import defaults_of, find
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG

RANKS = Path(__file__).with_name("bench_ranks.json")
"""Where `medseg bench zoo` leaves what `show` says about ranks."""

FIGURES = Path(__file__).with_name("figures.json")
"""Arguments, weights and operations of every network of the catalog, as `python benchmarks/zoo_figures.py` counts them.

Large networks take seconds to build and to walk through, and `show` is to answer at once; a test holds file and code
together. Systems of other packages are counted when they are asked for.
"""


def describe(
    name: str, dims: int | None = None, shape: Sequence[int] | None = None, size: str | None = None
) -> dict[str, Any]:
    """Everything `medseg show` prints.

    dims: 2D or 3D; None: every form the system has. shape: an input (B, C, *S) for which the operations of one size
    are counted now; None: all sizes at `effort.DEFAULT_INPUT`, of which the weights are in any case. size: that size;
    None: the one a pipeline gets with a `shape`, all without. Two output channels. Raises UserError for an unknown
    name, form or size.
    """
    card = find(name)
    if shape is not None:
        dims = len(shape) - 2 if dims is None else dims
        if dims != len(shape) - 2:
            raise UserError(f"an input of {len(shape)} numbers is not {dims}D", "--input, --dims")
    if dims is not None and dims not in card.dims:
        raise UserError(
            f"{card.name} has no {dims}D form", hint=f"its forms: {', '.join(f'{d}D' for d in card.dims)}"
        )
    if size is not None and size not in card.sizes:
        hint = f"its sizes are {', '.join(card.sizes)}"
        raise UserError(f"{card.name} has no size {size!r}{did_you_mean(size, card.sizes)}", "--size", hint)
    figures = kept_figures(card)
    forms = {
        form: facts for form, facts in figures["forms"].items() if dims is None or form.endswith(f" {dims}D")
    }
    return {
        **card.as_json(),
        "kind": card.kind,
        "params_source": card.params_source,
        "params_form": {key: _plain(value) for key, value in card.params_form.items()},
        "params_here": figures["as_published"],
        "params_waived": card.waived.get("published_count"),
        "arguments": figures["arguments"],
        "sizes": {one: {k: _plain(v) for k, v in values.items()} for one, values in card.sizes.items()},
        "counted": {form: facts["params"] if facts else None for form, facts in forms.items()},
        "effort": efforts(card, forms, shape, size),
        "bench": ranks_of(card.name),
        "about": about(card),
    }


def kept_figures(card: Card) -> dict[str, Any]:
    """`arguments`, `forms` and `as_published` of a card: from the file, or counted now for what is not in it."""
    if card.kind == "classical":
        return {"arguments": arguments_with_defaults(card), "forms": {}, "as_published": None}
    if card in CATALOG and FIGURES.is_file():
        kept = json.loads(FIGURES.read_text(encoding="utf-8"))
        if card.name in kept:
            return dict(kept[card.name])
    from medseg.zoo.effort import figures_of

    return {"arguments": arguments_with_defaults(card), **figures_of(card)}


def arguments_with_defaults(card: Card) -> dict[str, Any]:
    """Argument -> value that a pipeline gets unasked; None where the plan gives it."""
    return {n: None if d is inspect.Parameter.empty else _plain(d) for n, d in defaults_of(card)}


def efforts(
    card: Card, forms: dict[str, Any], shape: Sequence[int] | None, size: str | None
) -> dict[str, dict[str, Any]]:
    """`size 3D` -> input, parameters and operations of a forward pass; what cannot be counted is left out."""
    if shape is None or card.kind == "classical":
        found = {form: facts for form, facts in forms.items() if size is None or form.split()[0] == size}
    else:
        from medseg.zoo.effort import count

        asked = size or "paper"
        found = {f"{asked} {len(shape) - 2}D": count(card, asked, shape)}
    return {form: facts for form, facts in found.items() if facts and facts["flops"] is not None}


def about(card: Card) -> str:
    """What the card's file says of itself; read without importing it."""
    spec = find_spec(card.at.partition(":")[0])
    source = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
    return ast.get_docstring(ast.parse(source)) or ""


def ranks_of(name: str) -> dict[str, dict[str, Any]]:
    """Data set -> rank, number of systems, Dice, mIoU and size of the bench; empty where it was not measured."""
    if not RANKS.is_file():
        return {}
    tables = json.loads(RANKS.read_text(encoding="utf-8"))
    return {
        data_set: {**table["systems"][name], "of": table["of"]}
        for data_set, table in tables.items()
        if name in table["systems"]
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
