"""Which methods have an entry on which set, what the baselines are, and by what an entry is known to be current."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import medseg
from medseg.bench.classical.recipe import ClassicalRecipe, ImageSet
from medseg.bench.classical.rules import BOXED, SEEDED
from medseg.bench.sources import digest_of
from medseg.zoo.build import find
from medseg.zoo.card import Card
from medseg.zoo.catalog import cards

EVERYTHING, BOX, ONE, GRID, PEOPLE = (
    "baseline-all", "baseline-box", "baseline-one-region", "baseline-grid", "people",
)  # fmt: skip
BASELINES = {
    EVERYTHING: "the whole image is the object",
    BOX: "the whole box is the object",
    ONE: "the whole image is one region",
    GRID: "16 equal rectangles, whatever the image",
    PEOPLE: "each person's segmentation against those of the others",
}
"""What any method has to beat, and what people reach."""

MEASURING = (
    "bench/classical/images.py",
    "bench/classical/rules.py",
    "bench/classical/measure.py",
    "metrics/regions.py",
    "metrics/boundaries.py",
)
"""Files of which every entry is made; a changed line in them makes all entries run again."""

TIMING = ("bench/classical/speed.py", "bench/classical/peers.py")
"""Files of which entries of speed are made besides."""


def methods() -> list[Card]:
    """The classical methods of the catalog, in its order."""
    return [card for card in cards() if card.kind == "classical"]


def why_not(card: Card, images: ImageSet) -> str:
    """Why a method has no entry on a set; empty when it has one."""
    if images.systems is not None and not any(fnmatch(card.name, pattern) for pattern in images.systems):
        return "is not for such images"
    if images.dims not in card.dims:
        return f"has no {images.dims}D form"
    lacking = [need for need in card.needs if need != "prompt" and need not in images.gives]
    if lacking:
        return f"needs {', '.join(lacking)}"
    if images.prompts == "drawn":
        return "" if card.name in (*SEEDED, *BOXED) else "takes no seeds and no box"
    if "prompt" in card.needs and images.prompts == "none":
        return "needs a prompt"
    if "prompt" in card.needs and card.name in BOXED and images.prompts == "seeds":
        return "starts from one box around one object"
    return ""


def baselines_of(images: ImageSet) -> list[str]:
    """The baselines that a set has."""
    if images.measures == "speed":
        return []
    if images.measures == "regions":
        return [PEOPLE, ONE, GRID]
    return [EVERYTHING, BOX] if images.prompts in ("drawn", "seeds_and_boxes") else [EVERYTHING]


def prompted(card: Card, images: ImageSet) -> bool:
    """Whether a method is given a prompt on a set."""
    return images.prompts == "drawn" or "prompt" in card.needs


def rule_of(card: Card, images: ImageSet) -> str:
    """The rule by which a method's labels become the object on a set."""
    named = set(card.needs) & {"hu", "frames"}
    return "own" if prompted(card, images) or named else images.rule


def wanted(
    recipe: ClassicalRecipe, data_sets: Sequence[str], systems: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(data set, name) of every entry asked for; baselines always. UserError for names that do not exist."""
    asked = {name if name in BASELINES else find(name).name for name in systems}
    for data_set in data_sets or list(recipe.data_sets):
        images = recipe.data_set(data_set)
        for name in baselines_of(images):
            yield data_set, name
        for card in methods():
            if not why_not(card, images) and (not asked or card.name in asked):
                yield data_set, card.name


def key_of(recipe: ClassicalRecipe, data_set: str, name: str) -> str:
    """Changes with the method's code, its settings, the set's part of the recipe and the code that measures."""
    images = recipe.data_set(data_set)
    plain = images.model_dump(
        mode="json", exclude={"title", "remark", "arguments", "sweeps", "systems", "gives"}
    )
    facts = {
        "name": name,
        "images": plain,
        "settings": images.settings_of(name),
        "code": "" if name in BASELINES else digest_of(find(name)),
        "object": "" if name in BASELINES else [rule_of(find(name), images), prompted(find(name), images)],
        "measuring": measuring_digest((*MEASURING, *TIMING) if images.measures == "speed" else MEASURING),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def measuring_digest(files: Sequence[str] = MEASURING) -> str:
    """Changes with any line of the code that entries are made of."""
    root = Path(medseg.__file__).parent
    digest = hashlib.sha256()
    for name in files:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()[:16]
