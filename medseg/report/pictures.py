"""The picture of one case: its image is read again, its mask from the predictions, its label if there is one."""

from __future__ import annotations

from medseg.config import Pipeline
from medseg.core import Segmentation, UserError
from medseg.core.segmentation import ClassInfo
from medseg.data.cohort import load_cohort, open_case
from medseg.report.gather import Sheet
from medseg.report.overlay import draw, planes
from medseg.score.cases import read_prediction


def picture_of(pipeline: Pipeline, sheet: Sheet, case: str) -> bytes:
    """A PNG with contours of prediction and reference. Raises UserError where the files are gone."""
    cohort = load_cohort(sheet.folder.root)
    row = next((r for r in cohort.rows if r.case == case), None)
    if row is None:
        raise UserError("is not in this run's table of cases", f"case {case}")
    opened = open_case(row, pipeline.data, cohort.classes)
    image = opened.image()
    classes = classes_of(sheet)
    overlapping = sheet.plan is not None and sheet.plan.overlapping
    prediction = read_prediction(sheet.places[case], sheet.predictions[case], classes, overlapping)
    reference = opened.label(image.geometry) if opened.has_label else None
    if reference is not None and not reference.geometry.same_grid(image.geometry):
        reference = None
    if reference is not None:
        reference = _in_order(reference, classes)
    found = planes(image.array, image.geometry, prediction, reference)
    return draw(found, classes, _window(sheet))


def classes_of(sheet: Sheet) -> tuple[ClassInfo, ...]:
    """The classes of the plan, in order."""
    return tuple(ClassInfo.from_json(facts) for facts in (sheet.plan.classes if sheet.plan else []))


def _in_order(reference: Segmentation, classes: tuple[ClassInfo, ...]) -> Segmentation | None:
    """The reference with the prediction's classes; None where they do not match by name."""
    names = [info.name for info in reference.classes]
    if any(info.name not in names for info in classes):
        return None
    if reference.regions is None:
        return Segmentation(
            reference.labels,
            reference.geometry,
            tuple(reference.classes[names.index(i.name)] for i in classes),
        )
    order = [names.index(info.name) for info in classes]
    return Segmentation(reference.labels, reference.geometry, classes, reference.regions[order])


def _window(sheet: Sheet) -> tuple[float, float] | None:
    """Grey levels to show: the plan's fixed window where it has one, else by the slice."""
    first = sheet.plan.intensity[0] if sheet.plan and sheet.plan.intensity else None
    if first is None or first.scheme not in ("window", "ct") or first.low is None or first.high is None:
        return None
    return first.low, first.high
