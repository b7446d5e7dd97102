"""The pages of docs/systems, printed from the catalog's rows and from what each paper's file says of itself.

Write them with `python -m medseg.zoo.docs docs/systems`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from medseg.core.atomic import write_text
from medseg.zoo.build import defaults_of
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG

DIFFERS = "Differs from the paper:"
ORACLE = "Oracle:"
PICTURES = "pictures"
"""Folder beside the pages; `python -m medseg.zoo.picture docs/systems/pictures` draws what lies in it."""


class Story(NamedTuple):
    """What a paper's file opens with: citation, idea, differences from the paper, what it is compared with."""

    citation: str
    idea: str
    differs: str
    oracle: str


def story_of(card: Card) -> Story:
    """Reads the docstring of the card's file without importing it."""
    spec = find_spec(card.at.partition(":")[0])
    source = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
    text = ast.get_docstring(ast.parse(source)) or ""
    opening, _, rest = text.partition(DIFFERS)
    differs, _, oracle = rest.partition(ORACLE)
    citation, _, idea = opening.partition("\n\n")
    return Story(*(" ".join(part.split()) for part in (citation, idea, differs, oracle)))


def render() -> dict[str, str]:
    """File name -> text of every page: a table of all systems and one page a family."""
    families = sorted({card.family for card in CATALOG})
    pages = {"README.md": _table(families)}
    for family in families:
        pages[f"{family}.md"] = _family(family, [card for card in CATALOG if card.family == family])
    return pages


def _table(families: list[str]) -> str:
    lines = [
        "# Systems",
        "",
        "Printed from the catalog by `python -m medseg.zoo.docs docs/systems`. Parameters are those published or, "
        "where the page of the family says so, counted from the published layers. The pages of the networks show their "
        "stages: a row a stride, in each box the channels, below it the part of the code and how many layers it has there; "
        "drawn from the code by `python -m medseg.zoo.picture docs/systems/pictures`.",
        "",
        "| name | title | dims | task | parameters | paper | sizes | family |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in CATALOG:
        forms = ", ".join(f"{d}D" for d in card.dims)
        sizes = "" if card.kind == "classical" else ", ".join(card.sizes)
        lines.append(
            f"| `{card.name}` | {card.title} | {forms} | {card.task} | {_millions(card.params)} | "
            f"{card.paper}, {card.year} | {sizes} | [{card.family}]({card.family}.md) |"
        )
    waived = [(card, *item) for card in CATALOG for item in card.waived.items()]
    if waived:
        lines += [
            "",
            "## Contracts that a system does not keep",
            "",
            "| name | contract | reason |",
            "|---|---|---|",
        ]
        lines += [f"| `{card.name}` | {contract} | {reason} |" for card, contract, reason in waived]
    return "\n".join(lines) + "\n"


def _millions(params: int | None) -> str:
    return "" if params is None else f"{params / 1e6:.2f} M"


def _family(family: str, cards: list[Card]) -> str:
    lines = [f"# {family.replace('_', ' ').capitalize()}", ""]
    for card in cards:
        story = story_of(card)
        lines += [f"## {card.title} (`{card.name}`)", "", story.citation, "", story.idea, ""]
        if card.kind == "network":
            lines += [f"![Stages of {card.title} by stride]({PICTURES}/{card.name}.svg)", ""]
        lines += [f"*Differs from the paper:* {story.differs}", "", f"*Compared with:* {story.oracle}", ""]
        if card.params is not None:
            lines += [f"*Parameters:* {card.params:,}; {card.params_source}.", ""]
        if card.needs:
            lines += [f"*Needs:* {', '.join(card.needs)}.", ""]
        if card.aliases:
            lines += [f"*Also called:* {', '.join(f'`{a}`' for a in card.aliases)}.", ""]
        lines += ["| argument | default |", "|---|---|"]
        lines += [f"| `{name}` | {_shown(default)} |" for name, default in defaults_of(card)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _shown(default: object) -> str:
    return "from the plan" if default is inspect.Parameter.empty else f"`{default!r}`"


def write(folder: Path) -> None:
    """Writes all pages into a folder."""
    for name, text in render().items():
        write_text(folder / name, text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
