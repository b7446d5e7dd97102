"""The door of every classical method: inputs are checked here, once, so that a method sees clean arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt


class Classical:
    """A classical method with its arguments.

    segment(image, spacing_mm, prompt) -> labels. image: (C, *S) numbers on a grid in RAS+ order (volumes: indices
    grow towards the patient's right, front and head; photographs: rows, columns). spacing_mm: one value an axis.
    labels: (*S) uint8, 0 background. `classes` names the other values.
    """

    def __init__(self, name: str, method: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.method = method() if isinstance(method, type) else method
        self.arguments = dict(arguments or {})

    @property
    def classes(self) -> dict[int, str]:
        """What the label values mean."""
        return dict(self.method.classes_of(**self.arguments))

    def fit(self, cases: Any) -> None:
        """Lets a method that learns from labelled cases do so; the others have nothing to do."""
        if hasattr(self.method, "fit"):
            self.method.fit(cases)

    def segment(
        self,
        image: npt.ArrayLike,
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        **parameters: Any,
    ) -> npt.NDArray[np.uint8]:
        """Labels of one image; UserError for input the method cannot work on."""
        array = checked_image(image, spacing_mm, f"system {self.name}", tuple(self.method.dims))
        if prompt is not None and prompt.is_empty:
            prompt = None
        labels = self.method.segment(
            array, tuple(float(s) for s in spacing_mm), prompt, **{**self.arguments, **parameters}
        )
        return labels.astype(np.uint8, copy=False)


def checked_image(
    image: npt.ArrayLike, spacing_mm: Sequence[float], where: str, dims: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The image as (C, *S) with a number of axes the method knows; NaN and odd spacings are refused."""
    array = np.asarray(image)
    forms = " or ".join(f"{d}D" for d in dims)
    if array.ndim - 1 not in dims:
        raise UserError(
            f"an image of shape {array.shape} (channels first) has {array.ndim - 1} axes",
            where,
            f"this method works on {forms} images; split a series into its volumes first",
        )
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise UserError(f"an image holds real numbers, got {array.dtype}", where)
    if array.size == 0:
        raise UserError(f"the image is empty, shape {array.shape}", where)
    spacing = [float(s) for s in spacing_mm]
    if len(spacing) != array.ndim - 1 or not all(0 < s < float("inf") for s in spacing):
        raise UserError(
            f"spacing {spacing} for {array.ndim - 1} axes", where, "one positive number an axis, in mm"
        )
    if np.issubdtype(array.dtype, np.floating):
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UserError(
                f"{bad} of {array.size} voxels are NaN or infinite",
                where,
                "repair the image, or let `medseg check` name the case",
            )
    return array
