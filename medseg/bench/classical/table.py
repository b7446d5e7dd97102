"""The page of `medseg bench classical`, made from the entry files and the recipe alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bench.classical.fit import BASELINES, baselines_of, methods, why_not
from medseg.bench.classical.published import PUBLISHED
from medseg.bench.classical.recipe import ClassicalRecipe, ImageSet
from medseg.bench.classical.rules import RULES
from medseg.bench.entries import read_all
from medseg.core.atomic import write_text

Entry = Mapping[str, Any]
Rows = list[tuple[str, ...]]

SLOW_2D, SLOW_3D = 2.0, 10.0
"""Seconds that a method of at most n log n should stay below on the speed sets."""


def page(recipe: ClassicalRecipe, out: Path) -> str:
    """The whole page in Markdown."""
    lines = [
        "# The bench of the classical methods",
        "",
        "Printed from the files beside this page by `medseg bench classical --table`; one file is one entry, made by",
        "",
        "```",
        "medseg bench classical --data FOLDER",
        "```",
        "",
        "Every classical method of the catalog on the same images, with its defaults but for what"
        f" `configs/bench/{recipe.name}.yaml` says; nothing is fitted. Subsets are small and stated there, so ranks that"
        " lie close together are noise. [The guide](guides/classical.md) shows each method in a picture and says when it works.",
        "",
        "- s/image: seconds of processor time of one thread for one image (median), reading left out. Waiting for other"
        " programs does not count.",
        "- Where a method gives labels without names, a fixed rule of the set, which does not see the truth, makes them the"
        " object. *Dice, best labels* joins the labels that give the best Dice of each image with the truth at hand: what"
        " any rule could reach at most.",
        "- Baselines have no method in them: "
        + "; ".join(f"`{n}` ({what})" for n, what in BASELINES.items())
        + ".",
    ]
    for name, images in recipe.data_sets.items():
        lines += section(name, images, read_all(out, name))
    return "\n".join(lines) + "\n"


def section(name: str, images: ImageSet, found: Mapping[str, Entry]) -> list[str]:
    """The heading, the table and the remarks of one set."""
    fitting = [card.name for card in methods() if not why_not(card, images)]
    known = {n: e for n, e in found.items() if n in fitting or n in baselines_of(images)}
    done = {n: e for n, e in known.items() if e["state"] == "done"}
    lines = ["", f"## {name}", "", f"{images.title}. {conditions(images, done)}".rstrip()]
    if done:
        head, rows = TABLES[images.measures](images, done)
        lines += ["", *markdown(head, rows)]
    lines += _published(name)
    failed = {n: e["error"] for n, e in sorted(known.items()) if e["state"] == "failed"}
    if failed:
        lines += ["", "Failed:", "", *(f"- `{n}`: {plain(error)}" for n, error in failed.items())]
    still = [n for n in fitting if n not in known]
    if still:
        lines += ["", f"Not run yet ({len(still)}): {', '.join(f'`{n}`' for n in still)}."]
    if images.remark:
        lines += ["", images.remark]
    return [*lines, *left_out(images), *measured_on(done)]


def conditions(images: ImageSet, done: Mapping[str, Entry]) -> str:
    """How many images, which rule and which prompts."""
    counts = sorted({e["images"] for e in done.values()})
    parts = [f"{counts[0]} images." if len(counts) == 1 and images.measures != "speed" else ""]
    if images.measures == "object" and images.prompts != "drawn":
        parts.append(f"The object is {RULES[images.rule]}.")
    parts.append(
        {
            "none": "",
            "drawn": "Seeds are strokes that people drew; methods that start from a box get that of the set."
            " No other rule is needed: methods with a prompt name the object themselves.",
            "seeds": "Methods that need seeds get dots simulated from the labels (`*`).",
            "seeds_and_boxes": "Methods that need a prompt get dots, or a box, simulated from the labels (`*`).",
        }[images.prompts]
        if images.measures == "object"
        else ""
    )
    if images.shrink:
        parts.append(f"Means over {'x'.join(map(str, images.shrink))} voxels are segmented and scored.")
    return " ".join(part for part in parts if part)


def objects_table(images: ImageSet, done: Mapping[str, Entry]) -> tuple[tuple[str, ...], Rows]:
    """Best Dice first, baselines below."""
    head = ("#", "method", "Dice", "IoU", "worst Dice", "Dice, best labels", "s/image")
    rows = []
    for place, name in ranked(done, "dice"):
        entry = done[name]
        star = " *" if entry["prompted"] and images.prompts != "drawn" else ""
        best = "" if entry["rule"] == "own" else f"{entry['oracle_dice']:.3f}"
        rows.append(
            (place, f"`{name}`{star}", f"{entry['dice']:.3f}", f"{entry['iou']:.3f}", f"{entry['worst_dice']:.3f}", best,
             seconds(entry, name))
        )  # fmt: skip
    return head, rows


def regions_table(images: ImageSet, done: Mapping[str, Entry]) -> tuple[tuple[str, ...], Rows]:
    """Best covering first. One setting: ODS and OIS are one figure."""
    head = (
        "#",
        "method",
        "settings",
        "covering ODS",
        "OIS",
        "boundary F ODS",
        "OIS",
        "precision",
        "recall",
        "s/image",
    )
    rows = []
    for place, name in ranked(done, "covering_ods"):
        entry = done[name]
        figures = ("covering_ods", "covering_ois", "boundary_f_ods", "boundary_f_ois", "precision", "recall")
        rows.append(
            (place, f"`{name}`", swept(entry["settings"]), *(f"{entry[f]:.3f}" for f in figures), seconds(entry, name))
        )  # fmt: skip
    return head, rows


def swept(settings: Sequence[Mapping[str, Any]]) -> str:
    """The values that were tried, in words."""
    if len(settings) < 2:
        return "one"
    name = next(n for n in settings[0] if len({str(s[n]) for s in settings}) > 1)
    return f"{name} " + ", ".join(f"{s[name]:g}" for s in settings)


def speed_table(images: ImageSet, done: Mapping[str, Entry]) -> tuple[tuple[str, ...], Rows]:
    """In the catalog's order. The last two columns are of calls that took turns, ours with the arguments of the same work."""
    head = ("method", "s", "adds GB", "the library's own call", "its ms", "ours ms", "ours / its")
    rows = []
    for name, entry in done.items():
        theirs = entry.get("library_cpu_seconds")
        rows.append(
            (
                f"`{name}`",
                f"{entry['cpu_seconds']:.3f}",
                f"{entry['added_ram_bytes'] / 1e9:.2f}",
                f"`{entry['library']}`" if theirs is not None else "",
                f"{1000 * theirs:.2f}" if theirs is not None else "",
                f"{1000 * entry['same_work_cpu_seconds']:.2f}" if "ratio" in entry else "",
                ratio_of(entry),
            )
        )
    order = [f"`{card.name}`" for card in methods()]
    return head, sorted(rows, key=lambda row: order.index(row[0]))


def ratio_of(entry: Entry) -> str:
    """Ours by the library's; empty where no single call is wrapped."""
    if "ratio" not in entry:
        return ""
    return f"{entry['ratio']:.2f}" + (" (own code)" if entry["own"] else "")


TABLES = {"object": objects_table, "regions": regions_table, "speed": speed_table}


def ranked(done: Mapping[str, Entry], figure: str) -> Iterable[tuple[str, str]]:
    """(place, name): methods by a figure, then the baselines."""
    found = sorted((n for n in done if n not in BASELINES), key=lambda n: (-done[n][figure], n))
    yield from ((str(place), name) for place, name in enumerate(found, 1))
    yield from (("", name) for name in BASELINES if name in done)


def seconds(entry: Entry, name: str) -> str:
    """Seconds of an image; baselines take none."""
    return "" if name in BASELINES else f"{entry['cpu_seconds']:.2f}"


def markdown(head: Sequence[str], rows: Rows) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _published(name: str) -> list[str]:
    if name not in PUBLISHED:
        return []
    what, figures = PUBLISHED[name]
    rows: Rows = [(f.method, f.figures, f.source) for f in figures]
    return ["", f"Published elsewhere ({what}):", "", *markdown(("method", "figures", "source"), rows)]


def left_out(images: ImageSet) -> list[str]:
    """The methods without an entry, by reason."""
    reasons: dict[str, list[str]] = {}
    for card in methods():
        if reason := why_not(card, images):
            reasons.setdefault(reason, []).append(card.name)
    return [
        line
        for reason, names in reasons.items()
        for line in ("", f"Not in this table: {', '.join(f'`{n}`' for n in names)} ({reason}).")
    ]


def measured_on(done: Mapping[str, Entry]) -> list[str]:
    """Machine and versions."""
    places = list(dict.fromkeys(_machine(entry) for entry in done.values()))
    return ["", "Measured on " + "; and on ".join(places) + "."] if places else []


def _machine(entry: Entry) -> str:
    held = entry["machine"]
    libraries = ", ".join(
        f"{n} {held[n]}" for n in ("numpy", "scipy", "scikit-image", "scikit-learn", "SimpleITK")
    )
    return f"{held['cpu']}, one thread, {held['system']}, Python {held['python']}, {libraries}, medseg {held['medseg']}"


def plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return text.replace("|", "/").replace("<", "(").replace(">", ")")


def write_page(recipe: ClassicalRecipe, out: Path) -> Path:
    """Writes OUT.md beside the folder of entries; returns its path."""
    target = out.parent / f"{out.name}.md"
    write_text(target, page(recipe, out))
    return target
