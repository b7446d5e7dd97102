"""`medseg.predict(model, case)`: one image, in this process alone, nothing downloaded, no workers started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import Predict
from medseg.config_types import Prompts
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.prompt import Prompt
from medseg.core.segmentation import Segmentation


def predict(
    model: Any, case: Any, settings: Predict | None = None, prompt: Prompt | str | Path | None = None
) -> Segmentation:
    """Segments one image.

    model: path of a model folder, several paths (their ensemble), or a loaded `Model`. case: a path (file or DICOM
    folder), an `Image`, or a pair of array (*S) or (C, *S) and `Geometry`. prompt: for interactive methods, a file of
    prompts or a `Prompt` whose class 1 is the model's first. The result lies on the image's own grid.
    Raises UserError for an image that cannot be read or does not fit the model, and for a prompt outside the image.
    """
    from medseg.model.ensemble import load_models
    from medseg.predict.case import predict_case

    paths = [model] if isinstance(model, str | Path) else model
    loaded = load_models([Path(path) for path in paths]) if isinstance(paths, list | tuple) else model
    image = as_image(case)
    if isinstance(prompt, str | Path):
        from medseg.io.prompts import Coding, read_prompt

        prompts = (settings or Predict()).prompt or Prompts()
        coding = Coding(loaded.classes, prompts.background, prompts.box, Path(prompt).stem)
        prompt = read_prompt(Path(prompt), image.geometry, coding)
    return predict_case(loaded, image, settings, prompt)


def as_image(case: Any) -> Image:
    """What a caller has as an `Image`."""
    if isinstance(case, Image):
        return case
    if isinstance(case, str | Path):
        from medseg.io.doors import read_image

        return read_image(Path(case), channels=Path(case).is_file())
    if isinstance(case, tuple) and len(case) == 2 and isinstance(case[1], Geometry):
        array, geometry = np.asarray(case[0]), case[1]
        array = array[None] if array.ndim == geometry.ndim else array
        if array.ndim != geometry.ndim + 1 or array.shape[1:] != geometry.shape:
            raise UserError(
                f"an array of shape {array.shape} does not lie on a grid of shape {geometry.shape}",
                hint="give (*S) or (C, *S) with S in the order of the affine's columns",
            )
        return Image(array, geometry)
    raise UserError(
        f"cannot predict from a {type(case).__name__}",
        hint="give a path, an Image, or (array, Geometry)",
    )
