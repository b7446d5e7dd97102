"""What `medseg show` says in figures: arguments, weights and operations of every network of the catalog.

python benchmarks/zoo_figures.py [--systems a,b] [--again]

Counted without computing (meta device) for images of 3 x 256 x 256 pixels and 96 x 96 x 96 voxels. What is there for the
same code is not counted again. Writes medseg/zoo/figures.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from medseg.bench.sources import digest_of
from medseg.core.atomic import read_json, write_text
from medseg.zoo.build import find
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG
from medseg.zoo.describe import FIGURES, arguments_with_defaults
from medseg.zoo.effort import figures_of


def key_of(card: Card) -> str:
    """Changes with the code of a network, its sizes and the form that was published."""
    return f"{digest_of(card)[:16]} {json.dumps([card.dims, card.sizes, card.params_form], default=str)}"


def entry_of(card: Card) -> dict[str, Any]:
    return {"key": key_of(card), "arguments": arguments_with_defaults(card), **figures_of(card)}


def page(entries: dict[str, Any]) -> str:
    """The file: a network a line, sorted by name."""
    lines = [f"{json.dumps(name)}: {json.dumps(entries[name])}" for name in sorted(entries)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--systems", help="names, separated by commas; default: every network")
    asked.add_argument("--again", action="store_true")
    given = asked.parse_args()
    networks = {card.name: card for card in CATALOG if card.kind == "network"}
    wanted = [find(name).name for name in given.systems.split(",")] if given.systems else list(networks)
    kept = dict(read_json(FIGURES)) if FIGURES.is_file() else {}
    entries = {name: entry for name, entry in kept.items() if name in networks}
    for name in wanted:
        if given.again or entries.get(name, {}).get("key") != key_of(networks[name]):
            entries[name] = entry_of(networks[name])
            write_text(FIGURES, page(entries))
            print(name, flush=True)
    write_text(FIGURES, page(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
