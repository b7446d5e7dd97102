"""One system for people: its card, its paper's place in the file, its arguments with defaults, its size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError
from medseg.zoo.build import defaults_of, factory_of, find, parameter_count
from medseg.zoo.card import Card

RANKS = Path(__file__).with_name("bench_ranks.json")
"""Where `medseg bench zoo` leaves what `show` says about ranks."""


def describe(name: str, dims: int | None = None, shape: Sequence[int] | None = None) -> dict[str, Any]:
    """Everything `medseg show` prints. Counts are for one image channel and two output channels.

    dims: count in 2D or 3D; None: every form the system has. shape: the input (B, C, *S) that operations are counted
    for; None: `effort.DEFAULT_INPUT` of each form. Raises UserError for an unknown name or form.
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
    arguments = {n: None if d is inspect.Parameter.empty else _plain(d) for n, d in defaults_of(card)}
    module = inspect.getmodule(factory_of(card))
    return {
        **card.as_json(),
        "kind": card.kind,
        "params_source": card.params_source,
        "arguments": arguments,
        "sizes": {size: {k: _plain(v) for k, v in values.items()} for size, values in card.sizes.items()},
        "counted": counts(card, [dims] if dims else list(card.dims)),
        "effort": efforts(card, [dims] if dims else list(card.dims), shape),
        "bench": ranks_of(card.name),
        "about": inspect.getdoc(module) or "",
    }


def counts(card: Card, forms: list[int]) -> dict[str, int | None]:
    """`size 3D` -> number of weights; None where a size needs a planned topology first."""
    out: dict[str, int | None] = {}
    if card.kind == "classical":
        return out
    for size in card.sizes:
        for dims in forms:
            try:
                out[f"{size} {dims}D"] = parameter_count(card, size, dims=dims)
            except UserError:
                out[f"{size} {dims}D"] = None
    return out


def efforts(card: Card, forms: list[int], shape: Sequence[int] | None) -> dict[str, dict[str, Any]]:
    """`size 3D` -> input, parameters and operations of a forward pass; sizes that need a plan are left out."""
    from medseg.zoo.effort import DEFAULT_INPUT, count

    if card.kind == "classical":
        return {}
    found = {
        f"{size} {dims}D": count(card, size, shape or DEFAULT_INPUT[dims])
        for size in card.sizes
        for dims in forms
    }
    return {form: facts for form, facts in found.items() if facts is not None}


def ranks_of(name: str) -> dict[str, dict[str, Any]]:
    """Data set -> rank, number of systems, Dice, mIoU and size of the bench; empty where it was not measured."""
    import json

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


def text_of(facts: dict[str, Any]) -> str:
    """The card as a person reads it."""
    forms = "/".join(f"{d}D" for d in facts["dims"])
    published = (
        ""
        if facts["params"] is None
        else f"   published parameters: {facts['params']:,} ({facts['params_source']})"
    )
    lines = [
        f"{facts['name']}: {facts['title']}",
        f"  {forms} {facts['task']}, {facts['family']}, {facts['year']}, {facts['paper']}",
    ]
    lines += [published] if published else []
    lines += ["", facts["about"], "", "sizes"]
    for size, values in facts["sizes"].items():
        found = [
            f"{form.split()[1]} {n:,} weights"
            for form, n in facts["counted"].items()
            if form.startswith(f"{size} ") and n
        ]
        lines.append(
            f"  {size:<8} {', '.join(f'{k}={v}' for k, v in values.items()) or 'defaults'}   {'; '.join(found)}"
        )
    lines += _effort_lines(facts["effort"])
    lines += _bench_lines(facts["bench"])
    lines += ["", "arguments (system.arguments.NAME in a pipeline file)"]
    lines += [
        f"  {name} = {'given by the plan' if default is None else default}"
        for name, default in facts["arguments"].items()
    ]
    if facts["needs"]:
        lines += ["", f"needs: {', '.join(facts['needs'])}"]
    return "\n".join(lines)


def _effort_lines(efforts: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for form, found in efforts.items():
        shape = ",".join(str(n) for n in found["input"])
        lines.append(
            f"  {form:<11} {found['flops'] / 1e9:>10,.2f} GFLOP  {found['params']:>12,} weights   input {shape}"
        )
    head = "operations of one forward pass, two classes (--input B,C,... for another size)"
    return ["", head, *lines] if lines else []


def _bench_lines(bench: dict[str, dict[str, Any]]) -> list[str]:
    if not bench:
        return ["", "bench: not measured yet (docs/zoo.md; `medseg bench zoo`)"]
    lines = [
        f"  {data_set:<14} rank {f['rank']} of {f['of']}, size {f['size']}: Dice {f['dice']:.3f}, mIoU {f['miou']:.3f}"
        + ("" if f["learns"] is not False else ", does not beat the baselines")
        for data_set, f in bench.items()
    ]
    return ["", "bench (docs/zoo.md)", *lines]
