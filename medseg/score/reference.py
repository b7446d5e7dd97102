"""What predictions are compared with: the case's label, or the masks of a classical system (agreement, not truth)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Segmentation, default_colour
from medseg.predict.classical import segment_classical

LABEL = "label"


def reference_of(case: Case, reference: str) -> Segmentation:
    """The mask that a case's prediction is compared with, on the grid of the image.

    reference: "label", or the name of a classical system. Raises UserError for a case without a label and for a
    system that needs training.
    """
    if reference == LABEL:
        return case.label()
    return classical_mask(reference, case.image())


def require_reference(reference: str, dims: int) -> None:
    """Refuses a reference that cannot be, before any case is opened."""
    if reference != LABEL:
        _method(reference, dims)


def classical_mask(system: str, image: Image) -> Segmentation:
    """Segments an image by a classical system, on the image's own grid."""
    method = _method(system, image.geometry.ndim)
    labels = segment_classical(method, image)
    classes = tuple(
        ClassInfo(name, value, default_colour(position))
        for position, (value, name) in enumerate(sorted(method.classes.items()))
    )
    return Segmentation(labels, image.geometry, classes, provenance={"system": system})


@lru_cache(maxsize=4)
def _method(system: str, dims: int) -> Any:
    """The classical method of a name; UserError for any other kind of system."""
    from medseg.zoo.build import build, find

    card = find(system)
    if card.kind != "classical":
        raise UserError(
            f"{card.name} needs training, so it cannot be a reference",
            "score.reference",
            "give `label` or a classical system: medseg list --family classical",
        )
    return build(card.name, dims=dims, in_channels=1, classes=2)
