"""Draws one picture a classical method, and writes the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bench.classical.fit import methods
from medseg.bench.classical.images import Sample
from medseg.bench.classical.rules import box_around, prompt_for
from medseg.core.atomic import write_text
from medseg.core.errors import UserError
from medseg.core.progress import Progress
from medseg.core.prompt import Prompt
from medseg.gallery.inputs import DEFAULT, INPUTS, SHOWN, Shown, middle_slice, own_input
from medseg.gallery.page import page
from medseg.gallery.paint import as_picture, save_pair, turned, with_box, with_labels, with_prompt
from medseg.zoo.build import build, find
from medseg.zoo.card import Card


@dataclass
class Made:
    """What a call drew: method -> file, method -> why not, and the page."""

    pictures: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    page: Path = Path()

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        pictures = {name: str(path) for name, path in self.pictures.items()}
        return {"pictures": pictures, "failed": self.failed, "page": str(self.page)}

    def lines(self) -> list[str]:
        """What a person reads of the failures."""
        return [f"  {name}: {reason}" for name, reason in self.failed.items()]


def draw(out: Path, data: Path | None = None, systems: Sequence[str] = ()) -> Made:
    """Draws the methods asked for (none: all) into `out`, and OUT.md with those whose pictures are there.

    data: a person's own image; methods that have no form for it fail by name. UserError for unknown names.
    """
    wanted = [find(name) for name in systems] or methods()
    own = None if data is None else own_input(data)
    made = Made(page=out.parent / f"{out.name}.md")
    with Progress("gallery", len(wanted), "pictures") as bar:
        for card in wanted:
            try:
                made.pictures[card.name] = draw_one(card, out, own)
            except UserError as err:
                made.failed[card.name] = err.what
            bar.advance(note=card.name)
    write_text(made.page, page(out, shown_of))
    return made


def shown_of(card: Card) -> Shown:
    """What a method is shown on."""
    return SHOWN.get(card.name, DEFAULT)


def draw_one(card: Card, out: Path, own: Sample | None) -> Path:
    """One method's picture."""
    shown = shown_of(card)
    sample = INPUTS[shown.on]() if own is None else own
    if own is not None and sample.image.ndim - 1 not in card.dims:
        sample = middle_slice(sample)
    arguments = dict(shown.arguments) if own is None else {}
    labels, prompt = labelled(card, sample, arguments)
    target = out / f"{card.name}.webp"
    save_pair(target, *sides(card, sample, labels, prompt))
    return target


def labelled(card: Card, sample: Sample, arguments: dict[str, Any]) -> tuple[Any, Prompt | None]:
    """(labels, prompt) of a method on a sample; methods that need a prompt get a simulated one."""
    method = build(card.name, dims=sample.image.ndim - 1, in_channels=1, classes=2)
    prompt = prompt_for(card, sample) if "prompt" in card.needs else None
    if card.name == "edge-serial" and sample.truth is not None:
        box = box_around(sample.truth)
        prompt = None if box is None else _corners(box)
    return method.segment(sample.image, sample.spacing_mm, prompt, **arguments), prompt


def _corners(box: tuple[slice, ...]) -> Prompt:
    """Four points on the outline of an object: the middles of its tight box's sides."""
    rows, columns = ((s.start + 2, s.stop - 3) for s in box)
    middle = ((rows[0] + rows[1]) / 2, (columns[0] + columns[1]) / 2)
    points = [(rows[0], middle[1]), (middle[0], columns[1]), (rows[1], middle[1]), (middle[0], columns[0])]
    return Prompt(points=np.asarray(points, dtype=float), point_classes=np.ones(4, dtype=np.int64))


def sides(card: Card, sample: Sample, labels: Any, prompt: Prompt | None) -> tuple[Any, Any]:
    """(input with what was pointed at, result); of volumes and films the middle slice or frame."""
    film = "frames" in card.needs
    upright = sample.image.ndim == 4 and not film
    at = sample.image.shape[-1] // 2 if sample.image.ndim == 4 else None
    image, found = (sample.image, labels) if at is None else (sample.image[..., at], labels[..., at])
    base = as_picture(image, upright)
    left = with_prompt(base, prompt, upright, at)
    if prompt is not None and len(prompt.boxes):
        left = with_box(left, box_around(sample.truth), upright)
    return left, with_labels(base, turned(found, upright))
