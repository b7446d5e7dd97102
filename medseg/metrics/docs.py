"""The page docs/metrics.md, printed from the table."""

from __future__ import annotations

from medseg.metrics.table import ROWS, MetricRow

HEAD = """\
# Metrics

Printed from `medseg/metrics/table.py` by `python docs/render.py`.

`score.metrics` in a pipeline file takes these names. Every metric compares two masks of one class in one case, on one
grid; grids that differ are refused.

| name | measures | unit | better | range | both masks empty | one mask empty | reference |
|---|---|---|---|---|---|---|---|
"""

TAIL = """
## Empty masks

| prediction | reference | value | reason in the table | in means |
|---|---|---|---|---|
| empty | empty | none | `absent in both` | left out, and counted as undefined |
| empty | holds the class | the metric's worst value | `missed: absent in the prediction` | counts, and shown as a miss |
| holds the class | empty | the metric's worst value | `invented: absent in the reference` | counts |
| any | class not labelled in this case | none | `not labelled in this case` | left out |

A missed structure is never better than a badly drawn one: turning a case into a miss can only worsen the mean of a
metric that judges. Every mean is written with its n, its misses and its undefined cases. Metrics without a "better"
describe; their means are plain means.

## Means and intervals

The mean of a class runs over its cases; the mean over classes is the mean of the class means, without unions asked for
by `score.merge`. Intervals hold 95 % of the means of 2000 cohorts, each drawn from the patients with replacement; with
fewer than two patients there is none. The mean of `volume_error_percent` takes the size of each error, at most 100.

## Surfaces

The surface of a mask is its voxels with a face neighbour outside the mask; the edge of the image counts as outside.
Distances run between voxel centres, in mm along the grid's true axes. Definitions that weigh surface elements by area
give other values: compare only figures made with one definition.

## Photographs and planes

On a photograph distances are in pixels: `hd95_mm` is written to the column `hd95_px`, and `volume_ml` to `area_px`. On
a plane with a spacing in mm, `volume_ml` is written to `area_mm2`.
"""


def render() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(_line(row) + "\n" for row in ROWS) + TAIL


def _line(row: MetricRow) -> str:
    unit = "" if row.unit == "1" else row.unit
    low, high = ("any" if end is None else f"{end:g}" for end in row.range)
    cells = (
        f"`{row.name}`",
        row.meaning,
        unit,
        row.better or "describes",
        f"{low} to {high}",
        row.both_empty,
        row.one_empty,
        row.reference,
    )
    return "| " + " | ".join(cells) + " |"
