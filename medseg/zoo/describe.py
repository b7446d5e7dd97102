"""One system for people: its card, its paper's place in the file, its arguments with defaults, its size."""

from __future__ import annotations

import inspect
from typing import Any

from medseg.core.errors import UserError
from medseg.zoo.build import arguments_of, factory_of, find, parameter_count
from medseg.zoo.card import Card


def describe(name: str, dims: int | None = None) -> dict[str, Any]:
    """Everything `medseg show` prints. Counts are for one image channel and two output channels.

    dims: count in 2D or 3D; None: every form the system has. Raises UserError for an unknown name or form.
    """
    card = find(name)
    if dims is not None and dims not in card.dims:
        raise UserError(
            f"{card.name} has no {dims}D form", hint=f"its forms: {', '.join(f'{d}D' for d in card.dims)}"
        )
    arguments = {n: None if d is inspect.Parameter.empty else _plain(d) for n, d in arguments_of(card)}
    module = inspect.getmodule(factory_of(card))
    return {
        **card.as_json(),
        "kind": card.kind,
        "params_source": card.params_source,
        "arguments": arguments,
        "sizes": {size: {k: _plain(v) for k, v in values.items()} for size, values in card.sizes.items()},
        "counted": counts(card, [dims] if dims else list(card.dims)),
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
    lines += ["", "arguments (system.arguments.NAME in a pipeline file)"]
    lines += [
        f"  {name} = {'given by the plan' if default is None else default}"
        for name, default in facts["arguments"].items()
    ]
    if facts["needs"]:
        lines += ["", f"needs: {', '.join(facts['needs'])}"]
    return "\n".join(lines)
