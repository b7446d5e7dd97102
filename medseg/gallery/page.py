"""The page of the gallery: a picture, the parameters, when it works and when it does not, method by method."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.bench.classical.fit import methods
from medseg.gallery.notes import NOTES
from medseg.zoo.build import arguments_of, factory_of
from medseg.zoo.card import Card
from medseg.zoo.docs import story_of

FAMILIES: tuple[tuple[str, str], ...] = (
    ("zoo.classical.thresholds", "Thresholds"),
    ("zoo.classical.edges", "Edges"),
    ("zoo.classical.regions", "Regions"),
    ("zoo.classical.clustering", "Clusters and superpixels"),
    ("zoo.classical.graphs", "Graphs and seeds"),
    ("zoo.classical.probabilistic", "Probabilistic models"),
    ("zoo.classical.contours", "Contours and others"),
    ("zoo.classical", "Thresholds"),
)
"""Where a method's file lies -> the heading it stands under; the first that fits counts."""


def page(out: Path, shown_of: Callable[[Card], Any]) -> str:
    """The whole page in Markdown; `out` is the folder of pictures beside it."""
    lines = [
        "# Classical methods in pictures",
        "",
        "Written by `medseg gallery classical --out docs/guides/classical`; `--data FILE` draws the same for an image of"
        " your own, `--systems NAME,NAME` only some.",
        "",
        "Every method runs by its name, on photographs and on volumes, like a network:",
        "",
        "```yaml",
        "system: {name: threshold-otsu, arguments: {dark: true}}",
        "```",
        "",
        "`train` has nothing to do for most of them. Which one is worth a try on which kind of image, in figures:"
        " [the bench](../classical.md). Papers and what differs from them: [the systems](../systems/classical.md).",
        "",
        "Pictures: on the left the input, with what was pointed at (green: object, red: background, yellow: box; simulated),"
        " on the right the result, a colour a label. Volumes show their middle slice, front above and the patient's right on the"
        " left. A column *tried* lists values that are worth a try; the bold one is the default.",
    ]
    by_family: dict[str, list[Card]] = {}
    for card in methods():
        by_family.setdefault(family_of(card), []).append(card)
    for family in dict.fromkeys(name for _, name in FAMILIES):
        lines += ["", f"## {family}"]
        for card in by_family.get(family, []):
            lines += entry(card, out, shown_of(card))
    return "\n".join(lines) + "\n"


def family_of(card: Card) -> str:
    """The heading a method stands under."""
    return next(name for place, name in FAMILIES if card.at.startswith(f"medseg.{place}"))


def entry(card: Card, out: Path, shown: Any) -> list[str]:
    """One method: title, picture, idea, parameters, when it works and when not."""
    forms = " and ".join(f"{d}D" for d in card.dims)
    lines = ["", f"### {card.title} (`{card.name}`)", ""]
    if (out / f"{card.name}.webp").is_file():
        told = ", ".join(f"{name}: {value}" for name, value in shown.arguments.items())
        text = f"{card.title} on {shown.on}" + (f", {told}" if told else "")
        lines += [f"![{text}]({out.name}/{card.name}.webp)", "", f"*{text}.*", ""]
    needs = f" Needs {', '.join(card.needs)}." if card.needs else ""
    lines += [f"{first_sentence(story_of(card).idea)} {forms}.{needs}"]
    if card.name in NOTES:
        works, fails = NOTES[card.name]
        lines += ["", f"- **Works** {works}", f"- **Fails** {fails}"]
    table = parameters(card)
    return [*lines, "", *table] if table else lines


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence."""
    found = re.match(r"(.+?[.])(\s+[A-Z]|$)", text)
    return found[1] if found else text


def parameters(card: Card) -> list[str]:
    """The table of a method's arguments: default, values that are tried, meaning from its docstring."""
    arguments = arguments_of(card)
    if not arguments:
        return []
    meanings = meanings_of(card, [name for name, _ in arguments])
    lines = ["| parameter | default | tried | meaning |", "|---|---|---|---|"]
    for name, default in arguments:
        tried = ", ".join(_value(v, v == default) for v in card.search.get(name, ()))
        lines.append(f"| `{name}` | `{default!r}` | {tried} | {meanings.get(name, '')} |")
    return lines


def _value(value: Any, bold: bool) -> str:
    return f"**{value}**" if bold else str(value)


def meanings_of(card: Card, names: list[str]) -> Mapping[str, str]:
    """Argument -> what the docstring of `segment` or of the arguments' class says of it.

    Both say `name: meaning.` or `name, other: meaning.` one after another.
    """
    method = factory_of(card)
    holders = [getattr(method, "segment", None), getattr(method, "Arguments", None)]
    bases = [base for base in getattr(holders[1], "__mro__", ()) if base is not object]
    text = " ".join(
        " ".join((inspect.getdoc(h) or "").split()) for h in (holders[0], *bases) if h is not None
    )
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w`])((?:{known})(?:, (?:{known}))*): ")
    marks = list(pattern.finditer(text))
    found: dict[str, str] = {}
    for mark, following in zip(marks, [*marks[1:], None]):
        meaning = text[mark.end() : following.start() if following else None]
        meaning = re.split(r"(?<=[.]) (?=UserError|A constant|With |Arguments|At the)", meaning)[0].strip()
        for name in mark[1].split(", "):
            found.setdefault(name, meaning.rstrip(".").replace("|", "/"))
    return found
