"""The door of every classical method: inputs are checked here, once, so that a method sees clean arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.card import Card


class Classical:
    """A classical method with its arguments.

    segment(image, spacing_mm, prompt) -> labels. image: (C, *S) numbers on a grid in RAS+ order (volumes: indices
    grow towards the patient's right, front and head; photographs: rows, columns). spacing_mm: one value an axis.
    labels: (*S) uint8, 0 background. `classes` names the other values.
    """

    def __init__(
        self, name: str, method: Any, arguments: Mapping[str, Any] | None = None, card: Card | None = None
    ) -> None:
        self.name = name
        self.method = method() if isinstance(method, type) else method
        self.arguments = dict(arguments or {})
        self.card = card

    @property
    def classes(self) -> dict[int, str]:
        """What the label values mean."""
        return dict(self.method.classes_of(**self.arguments))

    @property
    def needs_prompt(self) -> bool:
        """Whether nothing can be segmented without a prompt: it says so in its row, and learnt nothing instead."""
        says = getattr(self.method, "needs_prompt", None)
        if says is not None:
            return bool(says(**self.arguments))
        return self.card is not None and "prompt" in self.card.needs

    @property
    def takes_prompt(self) -> bool:
        """Whether a prompt changes anything."""
        return self.card is not None and "prompt" in (*self.card.needs, *self.card.takes)

    def counting(self, classes: int) -> Classical:
        """The same for prompts of so many classes, where the method can be told their number and nobody did."""
        from medseg.zoo.build import arguments_of

        known = {name for name, _ in arguments_of(self.card)} if self.card is not None else set()
        told = {
            name: count for name, count in counts_of(classes).items() if name in known - set(self.arguments)
        }
        other = Classical(self.name, self.method, {**self.arguments, **told}, self.card)
        return other

    def fit(self, cases: Any) -> dict[str, Any]:
        """Lets a method that learns from labelled cases do so; the others have nothing to do.

        Returns arguments that were found. What else was learnt is in `state`.
        """
        return dict(self.method.fit(cases, **self.arguments) or {}) if hasattr(self.method, "fit") else {}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What the method learnt, as arrays; empty where it learns nothing."""
        return dict(self.method.state()) if hasattr(self.method, "state") else {}

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], names: Mapping[int, str]) -> None:
        """Gives a method back what it learnt. names: what its label values mean. UserError where it does not fit."""
        if not hasattr(self.method, "restore"):
            raise UserError(
                f"{self.name} learns nothing, and its model holds {len(arrays)} arrays", f"system {self.name}"
            )
        try:
            self.method.restore(arrays, names)
        except (KeyError, IndexError, ValueError) as err:
            raise UserError(
                f"what {self.name} learnt does not fit this version ({type(err).__name__}: {err})",
                f"system {self.name}",
                "train it again",
            ) from err

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


def counts_of(classes: int) -> dict[str, int]:
    """How methods call the number of classes: `objects` beside the background, `levels` and `classes` with it."""
    return {"objects": classes, "levels": classes + 1, "classes": classes + 1}


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
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(array, axis=None)
        # A finite sum has finite parts; another may also be too large to hold, so that the voxels are counted.
        bad = 0 if np.isfinite(total) else int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UserError(
                f"{bad} of {array.size} voxels are NaN or infinite",
                where,
                "repair the image, or let `medseg check` name the case",
            )
    return array
