"""The page of a benchmark, and the ranks that `medseg show` names; both are made from the entry files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bench.baselines import BASELINES
from medseg.bench.entries import dims_of, key_of, read_all, systems_for, why_not
from medseg.bench.recipe import Recipe
from medseg.core.atomic import read_json, write_json, write_text
from medseg.zoo.catalog import cards

Entry = Mapping[str, Any]

LEARNING_CHECK = "learns"
"""Folder beside the entries: what `benchmarks/zoo_learns.py` writes."""

HEAD = ("#", "system", "size", "Dice", "mIoU", "above baselines", "learns", "steps", "s/step", "s/image",
        "peak GB", "parameters M", "GFLOP")  # fmt: skip


def above_baselines(entry: Entry, all_entries: Mapping[str, Entry]) -> float | None:
    """How far a system lies above the better baseline, in Dice or in mIoU, whichever is less; None without both."""
    held = [all_entries.get(name) for name in BASELINES]
    if entry["state"] != "done" or any(base is None or base["state"] != "done" for base in held):
        return None
    return min(float(entry[m]) - max(float(base[m]) for base in held if base) for m in ("dice", "miou"))


def learns(entry: Entry, all_entries: Mapping[str, Entry], margin: float) -> bool | None:
    """Whether a system beats both baselines by the margin in Dice and in mIoU; None where that is not known."""
    above = above_baselines(entry, all_entries)
    return None if above is None else above >= margin


def ranked(all_entries: Mapping[str, Entry]) -> list[Entry]:
    """The measured systems, best Dice first; without baselines."""
    found = [e for name, e in all_entries.items() if e["state"] == "done" and name not in BASELINES]
    return sorted(found, key=lambda e: (-e["dice"], -e["miou"], e["system"]))


def page(recipe: Recipe, out: Path) -> str:
    """The whole page in Markdown."""
    lines = [
        "# The bench of the zoo",
        "",
        "Printed from the files beside this page by `medseg bench zoo --table`; one file is one entry, made by",
        "",
        "```",
        f"medseg bench {recipe.name} --data FOLDER",
        "```",
        "",
        f"Every network of the catalog is trained from a random start by the one recipe of `configs/bench/{recipe.name}.yaml`:"
        f" {recipe.minutes:g} min of one thread's own time with the same cases, patches, loss, optimiser and seed, nothing tuned"
        " for any of them. The tables say which mechanism gets somewhere in so short a time at so small a size. They do"
        " not say which is best after a night on a GPU, and ranks that lie close together are noise: one seed, few cases.",
        *_on_rates(recipe),
        "",
        "- Dice: mean over classes of the mean over cases, without background. mIoU: over the voxels of all scored cases"
        " together, mean over classes.",
        f"- above baselines: what lies between a system and the better of two baselines, in Dice or in mIoU, whichever is"
        f" less. learns: that is at least {recipe.margin:g}. The baselines, trained and scored on the same cases:"
        f" {'; '.join(f'`{name}` ({what})' for name, what in BASELINES.items())}.",
        "- s/step: processor seconds of one optimiser step, reading its batch included. s/image: those to predict one whole"
        " case, reading and preparing included. peak GB: largest resident memory of the entry's own process, libraries and"
        " data included. GFLOP: one forward pass of one patch, a multiplication and an addition counting two.",
    ]
    for name in recipe.data_sets:
        lines += _section(recipe, name, out)
    return "\n".join(lines) + "\n"


def _section(recipe: Recipe, data_set: str, out: Path) -> list[str]:
    facts, found = recipe.data_set(data_set), read_all(out, data_set)
    train = recipe.settings(data_set)["train"]
    patch = "x".join(str(n) for n in train["patch_size"])
    lines = [
        "",
        f"## {data_set}",
        "",
        f"{facts.title}. Patches of {patch}, {train.get('batch_size')} a step.",
    ]
    names = [card.name for card in systems_for(recipe, data_set)]
    known = {name: entry for name, entry in found.items() if name in names or name in BASELINES}
    lines += _measured_on(known)
    done = ranked(known)
    if done or any(name in known for name in BASELINES):
        lines += ["", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
        lines += [_row(str(place), entry, known, recipe) for place, entry in enumerate(done, 1)]
        lines += [
            _row("", known[b], known, recipe) for b in BASELINES if b in known and known[b]["state"] == "done"
        ]
    failed = {name: entry["error"] for name, entry in sorted(known.items()) if entry["state"] == "failed"}
    if failed:
        lines += ["", "Failed:", "", *(f"- `{name}`: {_plain(error)}" for name, error in failed.items())]
    lines += (
        _at_other_rates(done)
        + _for_more_minutes(recipe, done)
        + _learn_elsewhere(recipe, data_set, known, out)
        + _outdated(recipe, data_set, known)
    )
    still = [name for name in names if name not in known]
    if still:
        lines += ["", f"Not run yet ({len(still)}): {', '.join(f'`{name}`' for name in still)}."]
    alike = [entry for entry in done if entry["system"] not in facts.systems]
    return [
        *lines,
        *_own_settings(recipe, data_set, done),
        *_other_patches(alike, train["patch_size"]),
        *_left_out(recipe, data_set),
    ]


def _on_rates(recipe: Recipe) -> list[str]:
    if not recipe.more_rates:
        return []
    rates = ", ".join(f"{rate:g}" for rate in recipe.more_rates)
    return [
        "",
        f"A system that does not learn (see below) is trained once more at a learning rate of {rates}, from the start and"
        f" for the same minutes, and its better result stands: narrow layers need larger steps than wide ones.{_for_longer(recipe)}",
    ]


def _for_longer(recipe: Recipe) -> str:
    if recipe.more_minutes is None:
        return ""
    return (
        f" One that still does not learn gets {recipe.more_minutes:g} min at each rate, which the table names: its place"
        " among those that had less is no comparison, only that it learns."
    )


def _at_other_rates(done: Sequence[Entry]) -> list[str]:
    named = ", ".join(f"`{e['system']}` {e['rate']:g}" for e in done if e.get("rate"))
    return ["", f"At another learning rate than the first: {named}."] if named else []


def _for_more_minutes(recipe: Recipe, done: Sequence[Entry]) -> list[str]:
    """What was given more than the recipe's minutes, by an entry of today's recipe."""
    longer = [e for e in done if recipe.more_minutes and e["minutes"] == recipe.more_minutes]
    tried = [e for e in done if e.get("tried_minutes", 0) > e["minutes"]]
    named, vain = (", ".join(f"`{e['system']}`" for e in some) for some in (longer, tried))
    lines = ["", f"Trained for {recipe.more_minutes:g} min: {named}."] if named else []
    return lines + (["", f"Tried for longer as well, with a lower Dice: {vain}."] if vain else [])


def _learn_elsewhere(recipe: Recipe, data_set: str, known: Mapping[str, Entry], out: Path) -> list[str]:
    """What does not learn here but in the learning check beside the page, on shapes of a network's own size."""
    place, dims = out / LEARNING_CHECK, dims_of(recipe, data_set)
    checked = {name: read_json(place / f"{name}-{dims}d.json") for name, entry in sorted(known.items())
               if learns(entry, known, recipe.margin) is False and (place / f"{name}-{dims}d.json").is_file()}  # fmt: skip
    named = ", ".join(
        f"`{name}` (Dice {facts['dice']:.3f}, by intensity alone {facts['baseline']:.3f})"
        for name, facts in checked.items()
        if facts["learns"]
    )
    return (
        [
            "",
            f"Do not learn here but in the [learning check]({out.name}/{LEARNING_CHECK}/README.md): {named}.",
        ]
        if named
        else []
    )


def _outdated(recipe: Recipe, data_set: str, known: Mapping[str, Entry]) -> list[str]:
    """Entries that the recipe, or the system's code, has left behind."""
    names = [n for n, entry in sorted(known.items()) if entry["key"] != key_of(recipe, data_set, n)]
    if not names:
        return []
    named = ", ".join(f"`{name}` {known[name]['minutes']:g}" for name in names)
    return [
        "",
        f"By an earlier recipe or code, to be run again by the same command (with the minutes they had): {named}.",
    ]


def _measured_on(found: Mapping[str, Entry]) -> list[str]:
    """Machine and versions, once where all entries share them; else which entries were not measured on most's."""
    if not found:
        return []
    places: dict[str, list[str]] = {}
    for name, entry in found.items():
        places.setdefault(_machine(entry), []).append(f"`{name}`")
    most, *others = sorted(places, key=lambda place: -len(places[place]))
    lines = ["", f"Measured on {most}."]
    for place in others:
        lines += ["", f"Measured on {place}: {', '.join(places[place])}."]
    return lines


def _machine(entry: Entry) -> str:
    held = entry["machine"]
    beside = f", {entry['workers']} entries at once" if entry.get("workers", 1) > 1 else ""
    return (
        f"{held['cpu']}, {entry['threads']} of {held['cores']} cores an entry{beside}, {held['ram_gb']:g} GB,"
        f" {held['system']}, Python {held['python']}, torch {held['torch']}, medseg {held['medseg']}"
    )


def _row(place: str, entry: Entry, found: Mapping[str, Entry], recipe: Recipe) -> str:
    base = entry["system"] in BASELINES
    above = None if base else above_baselines(entry, found)
    verdict = None if base else learns(entry, found, recipe.margin)
    cells = (
        place,
        f"`{entry['system']}`",
        entry["size"],
        f"{entry['dice']:.3f}",
        f"{entry['miou']:.3f}",
        "" if above is None else f"{above:+.3f}",
        "" if verdict is None else ("yes" if verdict else "**no**"),
        str(entry["steps"]) if not base else "",
        _number(entry.get("step_seconds"), 3),
        _number(entry.get("image_seconds"), 2),
        _number(entry["peak_ram_bytes"] / 1e9, 2),
        "" if base else f"{entry['parameters'] / 1e6:.2f}",
        "" if base else _number(entry.get("gflop"), 1),
    )
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("<", "(").replace(">", ")")


def _own_settings(recipe: Recipe, data_set: str, done: Sequence[Entry]) -> list[str]:
    own = recipe.data_set(data_set).systems
    named = "; ".join(
        f"`{e['system']}` {', '.join(_flat(own[e['system']]))}" for e in done if e["system"] in own
    )
    return ["", f"With settings of its own, the reason beside them in the recipe: {named}."] if named else []


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key} {value}"


def _other_patches(done: Sequence[Entry], patch: Sequence[int]) -> list[str]:
    other = [e for e in done if list(e["patch"]) != list(patch)]
    if not other:
        return []
    named = ", ".join(f"`{e['system']}` {'x'.join(str(n) for n in e['patch'])}" for e in other)
    return ["", f"Larger patches, because the network takes no smaller or other multiples: {named}."]


def _left_out(recipe: Recipe, data_set: str) -> list[str]:
    dims = dims_of(recipe, data_set)
    reasons: dict[str, list[str]] = {}
    for card in cards():
        if reason := why_not(card, dims):
            reasons.setdefault(reason, []).append(card.name)
    return [
        line
        for reason, names in reasons.items()
        for line in ("", f"Not in this table: {', '.join(f'`{n}`' for n in names)} ({reason}).")
    ]


# --- ranks --------------------------------------------------------------------------------------------------------


def ranks(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Data set -> {of, systems: {name: {rank, dice, miou, size, learns}}}; what the installed package keeps."""
    found: dict[str, Any] = {}
    for data_set in recipe.data_sets:
        names = {card.name for card in systems_for(recipe, data_set)} | set(BASELINES)
        held = {name: entry for name, entry in read_all(out, data_set).items() if name in names}
        order = ranked(held)
        if order:
            found[data_set] = {"of": len(order), "systems": {
                e["system"]: {"rank": place, "dice": round(e["dice"], 3), "miou": round(e["miou"], 3), "size": e["size"],
                              "learns": learns(e, held, recipe.margin)}
                for place, e in enumerate(order, 1)
            }}  # fmt: skip
    return found


def write_page(recipe: Recipe, out: Path) -> Path:
    """Writes OUT.md, and for the checkout's own results the ranks inside the package. Returns the page's path."""
    import medseg.zoo.describe

    target = out.parent / f"{out.name}.md"
    write_text(target, page(recipe, out))
    package = Path(medseg.zoo.describe.__file__).parent
    if out.resolve() == (package.parents[1] / "docs" / "zoo").resolve():
        write_json(package / "bench_ranks.json", ranks(recipe, out))
    return target
