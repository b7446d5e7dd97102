"""The results of a benchmark: one JSON file an entry, so that a table is completed piece by piece."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bench.baselines import BASELINES
from medseg.bench.recipe import Recipe
from medseg.bench.sources import digest_of
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.zoo.build import find
from medseg.zoo.card import Card
from medseg.zoo.catalog import cards

DIMS_OF_PATCH = "patch_size"


def path_of(out: Path, data_set: str, system: str) -> Path:
    """Where an entry lies: OUT/<data set>/<system>.json."""
    return out / data_set / f"{system}.json"


def read_entry(path: Path) -> dict[str, Any] | None:
    """An entry, or None where there is none or the file is damaged (it is then made again)."""
    try:
        facts = read_json(path)
    except UserError:
        return None
    return facts if isinstance(facts, dict) and "state" in facts and "key" in facts else None


def read_all(out: Path, data_set: str) -> dict[str, dict[str, Any]]:
    """System -> entry of one data set."""
    found = {path.stem: read_entry(path) for path in sorted((out / data_set).glob("[!.]*.json"))}
    return {name: entry for name, entry in found.items() if entry is not None}


def write_entry(out: Path, entry: Mapping[str, Any]) -> None:
    """Writes an entry, whole or not at all."""
    write_json(path_of(out, entry["data_set"], entry["system"]), dict(entry))


def dims_of(recipe: Recipe, data_set: str) -> int:
    """2 or 3, by the patch of the recipe."""
    patch = recipe.settings(data_set).get("train", {}).get(DIMS_OF_PATCH)
    if not isinstance(patch, Sequence) or len(patch) not in (2, 3):
        raise UserError(
            f"train.{DIMS_OF_PATCH} is {patch!r}; a benchmark states it, with 2 or 3 numbers",
            f"recipe {recipe.name}, data_sets.{data_set}",
        )
    return len(patch)


def why_not(card: Card, dims: int) -> str:
    """Why a system has no entry on a data set of so many axes; empty when it has one."""
    if card.kind != "network":
        return "is computed, not trained"
    if card.task != "semantic":
        return f"is for {card.task} segmentation"
    if dims not in card.dims:
        return f"has no {dims}D form"
    return f"needs {', '.join(card.needs)}" if card.needs else ""


def systems_for(recipe: Recipe, data_set: str) -> list[Card]:
    """The cards of the catalog that have an entry on a data set, in the catalog's order."""
    dims = dims_of(recipe, data_set)
    return [card for card in cards() if not why_not(card, dims)]


def key_of(recipe: Recipe, data_set: str, system: str) -> str:
    """Changes with the system's code, the arguments of its size, the recipe and the data set's own checksum."""
    facts: dict[str, Any] = {
        "system": system,
        "settings": recipe.settings(data_set, system),
        "cases": recipe.data_set(data_set).cases,
        "more_rates": recipe.more_rates,
        "checksum": _checksum(recipe.settings(data_set)),
    }
    if system in BASELINES:
        from medseg.bench import baselines

        facts["code"] = hashlib.sha256(Path(baselines.__file__).read_bytes()).hexdigest()
    else:
        card = find(system)
        size = recipe.size_of(card)
        facts |= {"size": size, "arguments": card.sizes[size], "code": digest_of(card)}
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(settings: Mapping[str, Any]) -> str:
    from medseg.data.description import is_description, load_description

    manifest = settings.get("data", {}).get("manifest")
    return load_description(manifest).checksum if is_description(manifest) else str(manifest)


def wanted(recipe: Recipe, data_sets: Sequence[str], systems: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(data set, system) of every entry asked for, baselines first; UserError for names that do not exist."""
    asked = [name if name in BASELINES else find(name).name for name in systems]
    for data_set in data_sets:
        fitting = [*BASELINES, *(card.name for card in systems_for(recipe, data_set))]
        for name in fitting:
            if not asked or name in asked or name in BASELINES:
                yield data_set, name


def of_shard(entries: Sequence[tuple[str, str]], shard: str) -> list[tuple[str, str]]:
    """The part `i/n` (1-based) of the entries: every n-th one. Raises UserError for another form."""
    number, slash, count = shard.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UserError(f"'{shard}' is no shard", "--shard", "write it like 1/4 ... 4/4")
    return list(entries[int(number) - 1 :: int(count)])


def machine_facts() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, memory, GPU, versions."""
    from importlib.metadata import version

    import medseg
    from medseg.core.machine import cores, ram_limit_bytes

    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "ram_gb": round(ram_limit_bytes() / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "medseg": medseg.__version__,
    }


def cpu_name() -> str:
    """The processor's name as the system has it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
