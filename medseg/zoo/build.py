"""From a system's name to the thing itself."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from medseg.core.errors import UserError, did_you_mean, nearest
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG, cards, names_of

GIVEN = ("self", "dims", "in_channels", "classes")
"""Arguments that come from the data, not from the pipeline file."""


def find(name: str) -> Card:
    """The card of a system by its name or an alias; UserError offers the nearest names on a miss."""
    wanted = str(name).strip().lower()
    for rows in (CATALOG, cards):
        for card in rows if isinstance(rows, tuple) else rows():
            if wanted in names_of(card):
                return card
    # An alias may be what comes nearest; what is offered is the system's own name.
    own = {alias: card.name for card in cards() for alias in names_of(card)}
    close = list(dict.fromkeys(own[alias] for alias in nearest(wanted, own)))
    guess = f", did you mean {' or '.join(close)}?" if close else "."
    raise UserError(f"no system named {name!r}{guess} `medseg list` shows all", "system.name")


def factory_of(card: Card) -> Any:
    """The class or function a card points at, imported now."""
    module, _, maker = card.at.partition(":")
    try:
        return getattr(import_module(module), maker)
    except (ImportError, AttributeError) as err:
        raise UserError(
            f"the code of {card.name} at {card.at} cannot be loaded: {err}",
            f"system {card.name}",
            "install what is missing, or update the package that brings this system",
        ) from err


def arguments_of(card: Card) -> list[tuple[str, Any]]:
    """(name, default) of every argument that a pipeline file may set under `system.arguments`.

    Arguments without a default (a planned topology, say) have `inspect.Parameter.empty`.
    """
    factory = factory_of(card)
    options = getattr(factory, "Arguments", None)
    if options is not None:
        return [(f.name, _default(f)) for f in dataclasses.fields(options)]
    if card.kind == "classical":
        factory = getattr(factory, "segment", factory)
        skipped: tuple[str, ...] = ("self", "image", "spacing_mm", "prompt")
    else:
        skipped = GIVEN
    found = inspect.signature(factory).parameters.values()
    return [(p.name, p.default) for p in found if p.name not in skipped and p.kind is not p.VAR_KEYWORD]


def defaults_of(card: Card) -> list[tuple[str, Any]]:
    """(name, value) of every argument as a pipeline gets it that names neither size nor arguments: size "paper"."""
    own = card.sizes.get("paper", {})
    return [(name, own.get(name, default)) for name, default in arguments_of(card)]


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty


def resolved_arguments(card: Card, size: str, arguments: Mapping[str, Any], dims: int) -> dict[str, Any]:
    """The arguments of a size with a person's own on top, all names checked."""
    where = f"system {card.name}"
    if size not in card.sizes:
        raise UserError(
            f"{card.name} has no size {size!r}{did_you_mean(size, card.sizes)}",
            where,
            f"its sizes are {', '.join(card.sizes)}",
        )
    if dims not in card.dims:
        forms = " and ".join(f"{d}D" for d in card.dims)
        raise UserError(
            f"{card.name} works on {forms} images only, these are {dims}D",
            where,
            f"choose another: medseg list --dims {dims}",
        )
    known = [name for name, _ in arguments_of(card)]
    for name in arguments:
        if name not in known:
            close = nearest(name, known, 1)
            guess = f", did you mean {close[0]}?" if close else ""
            raise UserError(
                f"{card.name} has no argument {name!r}{guess}",
                f"{where}, system.arguments",
                f"it takes {', '.join(known) or 'none'}",
            )
    return {**card.sizes[size], **arguments}


def build(
    name: str, *, dims: int, in_channels: int, classes: int, size: str = "paper", **arguments: Any
) -> Any:
    """Builds a system: a torch module, or an object with `segment` for a classical one.

    dims: 2 or 3 axes. in_channels: channels of the image. classes: output channels K (background counted by the
    caller). size: a size of the card. arguments: override those of the size. Raises UserError for unknown names
    and for values the system refuses.
    """
    card = find(name)
    chosen = resolved_arguments(card, size, arguments, dims)
    for what, value in (("in_channels", in_channels), ("classes", classes)):
        if int(value) < 1:
            raise UserError(f"{what} is {value}", f"system {card.name}", "it is at least 1")
    factory = factory_of(card)
    if card.kind == "classical":
        from medseg.zoo.classical.method import Classical

        return Classical(card.name, factory, chosen, card)
    try:
        return factory(dims=dims, in_channels=int(in_channels), classes=int(classes), **chosen)
    except (TypeError, ValueError) as err:
        raise UserError(
            f"{card.name} cannot be built with {chosen}: {err}",
            f"system {card.name}",
            "see `medseg show NAME`",
        ) from err


def parameter_count(
    card: Card, size: str = "paper", *, dims: int, in_channels: int = 1, classes: int = 2, **arguments: Any
) -> int:
    """Number of trainable and frozen weights, counted on the meta device, so that no memory is used."""
    if card.kind == "classical":
        return 0
    from medseg.zoo.weightless import weightless

    with weightless():
        net = build(card.name, dims=dims, in_channels=in_channels, classes=classes, size=size, **arguments)
    return sum(p.numel() for p in net.parameters())
