"""Every system, one row each; rows of other packages come by the entry-point group `medseg.systems`.

The rows stand in `zoo/rows/<family>.py`. A package adds one by an entry point that names a `Card`:

    [project.entry-points."medseg.systems"]
    my-net = "my_package.rows:MY_NET"
"""

from __future__ import annotations

from functools import cache

from medseg.core.errors import UserError
from medseg.zoo.card import Card
from medseg.zoo.rows import (
    attention,
    classical,
    classical_clustering,
    classical_contours,
    classical_edges,
    classical_graphs,
    classical_probabilistic,
    classical_regions,
    classical_thresholds,
    context,
    dilated,
    encoder_decoder,
    fcn,
    graphical,
    pyramid,
    realtime,
    transformer,
)

GROUP = "medseg.systems"

CATALOG: tuple[Card, ...] = (
    *classical.ROWS,
    *classical_thresholds.ROWS,
    *classical_edges.ROWS,
    *classical_regions.ROWS,
    *classical_clustering.ROWS,
    *classical_graphs.ROWS,
    *classical_probabilistic.ROWS,
    *classical_contours.ROWS,
    *fcn.ROWS,
    *graphical.ROWS,
    *encoder_decoder.ROWS,
    *attention.ROWS,
    *pyramid.ROWS,
    *dilated.ROWS,
    *context.ROWS,
    *realtime.ROWS,
    *transformer.ROWS,
)
"""The systems that medseg brings."""


def names_of(card: Card) -> tuple[str, ...]:
    """All names by which a card is found."""
    return (card.name, *card.aliases)


@cache
def cards() -> tuple[Card, ...]:
    """The catalog with the rows of installed packages; UserError names a package whose row is broken."""
    return (*CATALOG, *plugin_cards())


def plugin_cards() -> tuple[Card, ...]:
    """The rows of other packages. They may not take a name that medseg or another package has."""
    from importlib.metadata import entry_points

    taken = {name: "medseg" for card in CATALOG for name in names_of(card)}
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        package = entry.dist.name if entry.dist is not None else entry.value
        card = _load(entry, package)
        for name in names_of(card):
            if name in taken:
                raise UserError(
                    f"the system name {name!r} is already taken by {taken[name]}",
                    f"package {package}",
                    f"give the Card at {entry.value} another name, or uninstall {package}",
                )
            taken[name] = package
        found.append(card)
    return tuple(found)


def _load(entry: object, package: str) -> Card:
    """The Card of one entry point."""
    value = getattr(entry, "value", "")
    try:
        card = entry.load()  # type: ignore[attr-defined]
    except Exception as err:  # whatever a foreign module may raise at import
        raise UserError(
            f"its system {getattr(entry, 'name', '')!r} ({value}) cannot be loaded: {type(err).__name__}: {err}",
            f"package {package}",
            f"update or uninstall {package}",
        ) from err
    if not isinstance(card, Card):
        raise UserError(
            f"its entry point {value} gives {type(card).__name__}, not a medseg.zoo.card.Card",
            f"package {package}",
            f"update or uninstall {package}",
        )
    return card
