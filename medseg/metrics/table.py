"""Every metric, one row each: what it measures, in which unit, which direction is better, what empty masks give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from medseg.core.errors import UserError, did_you_mean
from medseg.metrics import objects, overlap, surface, volumes
from medseg.metrics.pair import Measure


@dataclass(frozen=True)
class MetricRow:
    """One metric of one class in one case.

    unit: "1" (a share), "mm", "ml" or "%". better: "high", "low", or None for what describes and does not judge.
    one_empty: what a missed or an invented structure gives, in words. in_mean: what a mean takes of each value.
    takes_tolerance: whether the measure reads the `tolerance` of the pipeline file.
    """

    name: str
    measure: Measure
    unit: Literal["1", "mm", "ml", "%"]
    better: Literal["high", "low"] | None
    range: tuple[float | None, float | None]
    one_empty: str
    meaning: str
    reference: str
    in_mean: Callable[[float], float] | None = None
    takes_tolerance: bool = False
    both_empty: str = "undefined"

    def mean_value(self, value: float) -> float:
        """What a mean takes of a value of this metric."""
        return value if self.in_mean is None else self.in_mean(value)

    def badness(self, value: float) -> float:
        """Larger is worse; only for metrics that judge."""
        return -self.mean_value(value) if self.better == "high" else self.mean_value(value)


ROWS = (
    MetricRow("dice", overlap.dice, "1", "high", (0, 1), "0", "overlap: 2 TP / (2 TP + FP + FN)", "Dice 1945, doi:10.2307/1932409"),
    MetricRow("iou", overlap.iou, "1", "high", (0, 1), "0", "overlap: TP / (TP + FP + FN)", "Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x"),
    MetricRow("precision", overlap.precision, "1", "high", (0, 1), "0", "share of the prediction that is right: TP / (TP + FP)", "Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z"),
    MetricRow("recall", overlap.recall, "1", "high", (0, 1), "0", "share of the reference that was found (sensitivity): TP / (TP + FN)", "Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z"),
    MetricRow("hd_mm", surface.hd, "mm", "low", (0, None), "diagonal of the image", "largest distance between the two surfaces", "Huttenlocher et al. 1993, doi:10.1109/34.232073"),
    MetricRow("hd95_mm", surface.hd95, "mm", "low", (0, None), "diagonal of the image", "larger of the two 95th percentiles of surface distances", "Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z"),
    MetricRow("assd_mm", surface.assd, "mm", "low", (0, None), "diagonal of the image", "mean of all surface distances, both ways", "Heimann et al. 2009, doi:10.1109/TMI.2009.2013851"),
    MetricRow("nsd", surface.nsd, "1", "high", (0, 1), "0", "share of both surfaces within the tolerance of the other (surface Dice)", "Nikolov et al. 2018, arXiv:1809.04430", takes_tolerance=True),
    MetricRow("lesion_f1", objects.lesion_f1, "1", "high", (0, 1), "0", "separate structures found, missed and invented; found from an IoU of 0.1 on", "Baumgartner et al. 2021, arXiv:2106.00817"),
    MetricRow("volume_ml", volumes.volume, "ml", None, (0, None), "0 if missed", "volume of the prediction", "voxels times the volume of one", both_empty="0"),
    MetricRow("reference_volume_ml", volumes.reference_volume, "ml", None, (0, None), "0 if invented", "volume of the reference", "voxels times the volume of one", both_empty="0"),
    MetricRow("volume_error_ml", volumes.volume_error, "ml", None, (None, None), "the whole volume, below 0 if missed", "predicted minus true volume; the mean is the bias", "Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8"),
    MetricRow("volume_error_percent", volumes.volume_error_percent, "%", "low", (-100, None), "-100 if missed, +100 if invented", "volume error in percent of the true volume; a mean takes the size of each error, at most 100", "Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x", in_mean=volumes.capped_size),
)  # fmt: skip

METRICS: Mapping[str, MetricRow] = {row.name: row for row in ROWS}

DEFAULT_METRICS = ("dice", "iou", "hd95_mm", "nsd", "volume_error_percent")

ALIASES: Mapping[str, str] = {
    "jaccard": "iou",
    "sensitivity": "recall",
    "hd95": "hd95_mm",
    "hd": "hd_mm",
    "hausdorff": "hd_mm",
    "assd": "assd_mm",
    "surface_dice": "nsd",
    "volume": "volume_ml",
    "volume_error": "volume_error_percent",
}


def find_metric(name: str, where: str = "score.metrics") -> MetricRow:
    """The row of a metric by name or alias; UserError with the nearest name on a miss."""
    key = name.strip().lower().replace("-", "_").replace(" ", "_")
    row = METRICS.get(ALIASES.get(key, key))
    if row is None:
        raise UserError(
            f"no metric named {name!r}{did_you_mean(key, [*METRICS, *ALIASES])}",
            where,
            "known: " + ", ".join(METRICS),
        )
    return row


def column_name(row: MetricRow, unit: str, ndim: int) -> str:
    """The column a metric is written to: its name, with the unit that its values really have on this grid.

    Distances on photographs are in px; what is a volume in 3D is an area in 2D.

    >>> column_name(METRICS["hd95_mm"], "px", 2), column_name(METRICS["volume_ml"], "mm", 2)
    ('hd95_px', 'area_mm2')
    """
    name = row.name
    if row.unit == "mm":
        return name.removesuffix("mm") + unit
    if ndim == 2 and row.unit == "ml":
        return name.replace("volume", "area").removesuffix("_ml") + {"px": "_px", "mm": "_mm2"}[unit]
    return name


def columns_of(names: tuple[str, ...], unit: str, ndim: int) -> dict[str, MetricRow]:
    """Column -> row for metric names on a grid."""
    return {column_name(row, unit, ndim): row for row in map(find_metric, names)}


def row_of_column(column: str) -> MetricRow | None:
    """The metric a written column belongs to; None for columns that hold no metric."""
    for row in ROWS:
        if column in {column_name(row, unit, ndim) for unit in ("mm", "px") for ndim in (2, 3)}:
            return row
    return None
