"""Pictures of the systems' shapes: boxes for the stages of a network, a row a stride, lines for what is handed on.

`python -m medseg.zoo.picture docs/systems/pictures [name ...]` draws them; the same code always gives the same file. A stage
stands where it first runs, and lines go forward only: what comes back to it later from a coarser one is not drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from medseg.zoo.card import Card
from medseg.zoo.shape import Shape, Stage, without_number

COLUMN, ROW, BOX, LEFT, TOP = 54, 48, (46, 22), 40, 22
FILLS = ("#cfe3f7", "#d9efd0", "#fbe3c4", "#ead9f3", "#f7d3d3", "#e4e4e4")
NO_MAP = 10**6
"""Sorts what is no map below all strides."""


def draw(shape: Shape, title: str) -> str:
    """An SVG of a shape, less than 8 kB for all systems of the catalog."""
    columns, rows = columns_of(shape.stages), rows_of(shape.stages)
    spots = [
        (LEFT + COLUMN * c, TOP + ROW * rows[row_of(s)]) for c, s in zip(columns, shape.stages, strict=True)
    ]
    width, height = LEFT + COLUMN * (max(columns) + 1), TOP + ROW * len(rows)
    sizes = " x ".join(str(n) for n in shape.image[2:])
    note = f"{title}, size {shape.size}; image {sizes}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="sans-serif" font-size="8" text-anchor="middle">',
        f"<title>{escape(note)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<g fill="#666" text-anchor="start"><text x="4" y="10">{escape(note)}</text>',
        *(f'<text x="4" y="{TOP + ROW * place + 14}">{row_name(row)}</text>' for row, place in rows.items()),
        '</g><g fill="none" stroke="#889" stroke-width="1">',
        *lines(shape.stages, spots),
        '</g><g stroke="#556" stroke-width=".6">',
        *boxes(shape.stages, spots),
        '</g><g fill="#222">',
        *labels(shape.stages, spots),
        "</g></svg>",
        "",
    ])  # fmt: skip


def columns_of(stages: Sequence[Stage]) -> list[int]:
    """A stage stands right of all that it reads, and of what stands in its row already."""
    columns: list[int] = []
    taken: dict[int, int] = {}
    for stage in stages:
        row = row_of(stage)
        column = max([columns[s] + 1 for s in stage.sources] + [taken.get(row, -1) + 1])
        columns.append(column)
        taken[row] = column
    return columns


def row_of(stage: Stage) -> int:
    """The row that a stage stands in: its stride, or the one for what is no map of the image."""
    return NO_MAP if stage.stride is None else stage.stride


def rows_of(stages: Sequence[Stage]) -> dict[int, int]:
    """Row -> its place from above, fine before coarse."""
    return {row: place for place, row in enumerate(sorted({row_of(s) for s in stages}))}


def row_name(row: int) -> str:
    """What stands beside a row: the share of the image's resolution, e.g. "1/4"."""
    return "no map" if row == NO_MAP else "1" if row == 1 else f"1/{row}"


def lines(stages: Sequence[Stage], spots: Sequence[tuple[int, int]]) -> list[str]:
    """A curve a source; those along a row pass above the boxes in between."""
    wide, high = BOX
    found = []
    for stage, (x, y) in zip(stages, spots, strict=True):
        for source in sorted(stage.sources):
            fx, fy = spots[source][0] + wide, spots[source][1] + high // 2
            ty, bend = y + high // 2, max(8, (x - fx) // 3)
            lift = 22 if fy == ty and x - fx > COLUMN else 0
            found.append(f'<path d="M{fx} {fy}C{fx + bend} {fy - lift} {x - bend} {ty - lift} {x} {ty}"/>')
    return found


def boxes(stages: Sequence[Stage], spots: Sequence[tuple[int, int]]) -> list[str]:
    """One colour a part of the network."""
    parts = list(dict.fromkeys(family_of(s.part) for s in stages))
    wide, high = BOX
    return [
        f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" fill="{FILLS[parts.index(family_of(s.part)) % len(FILLS)]}"/>'
        for s, (x, y) in zip(stages, spots, strict=True)
    ]


def labels(stages: Sequence[Stage], spots: Sequence[tuple[int, int]]) -> list[str]:
    """Channels in the box, below it the part's name and the number of its layers."""
    wide, high = BOX
    found = []
    for stage, (x, y) in zip(stages, spots, strict=True):
        middle = x + wide // 2
        name = f"{short(stage.part)} x{stage.layers}" if stage.layers > 1 else short(stage.part)
        found.append(
            f'<text x="{middle}" y="{y + 14}" font-size="10">{stage.channels}</text>'
            f'<text x="{middle}" y="{y + high + 8}">{escape(name)}</text>'
        )
    return found


def family_of(part: str) -> str:
    """`body.encoder.3` and `body.encoder.2` are of one colour."""
    return without_number(part)


def short(part: str) -> str:
    """The last name of a part with its number, at most ten letters."""
    base = without_number(part)
    number = part[len(base) :]
    return base.rpartition(".")[2].replace("_", " ")[: 10 - len(number)] + number


def picture_of(card: Card) -> str:
    """The SVG of a network in its first form."""
    from medseg.zoo.shape import shape_of

    return draw(shape_of(card, min(card.dims)), card.title)


def main(folder: Path, names: Sequence[str]) -> None:
    """Draws the named networks, or all."""
    from medseg.core.atomic import write_text
    from medseg.zoo.build import find
    from medseg.zoo.catalog import CATALOG

    for card in [find(n) for n in names] or [c for c in CATALOG if c.kind == "network"]:
        write_text(folder / f"{card.name}.svg", picture_of(card))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
