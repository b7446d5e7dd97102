"""The form in which MLflow stores a model: `mlflow.pyfunc.load_model(uri).predict(array)`, or `.predict(paths)`.

The model folder is stored as an artifact and loaded by our own loader; nothing of the network is pickled.

Paths of images (a file, or the folder of a DICOM series) come as a vector of objects, which is the one form besides
arrays that MLflow lets through a signature of tensors: `predict(np.array(["a.nii.gz", "series"], dtype=object))`, or
`predict(frame["path"].to_numpy(dtype=object))`. Each gives labels on its own grid, in the file's own order of axes.
MLflow refuses a bare string, a list and a DataFrame before they come here; `unwrap_python_model().predict(None, PATH)`
takes the first two.

Methods that are pointed at something take `predict(array, params={"prompt": TEXT})`, where TEXT is the JSON that files
of prompts hold (`medseg.io.prompts`): one object for all images of the batch, or a list with one object (or null) an
image. A prepared array has no place in the patient, so places are in mm along the array's own axes from the centre of
its first voxel, and in px for photographs. With paths they are in mm of the patient, in the prompt's own frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Predict
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.prompt import Prompt

WHERE = 'params["prompt"]'
ARTIFACT = "medseg_model"

SCRIPT = """from mlflow.models import set_model

from medseg.predict.pyfunc import wrapped

set_model(wrapped())
"""
"""What MLflow runs to load the model."""


class ArrayModel:
    """Prepared arrays (B, C, *S) float32 -> labels (B, *S) uint8.

    The arrays are on the network's grid in RAS+ order with the network's intensities (`medseg.ingest`); labels are
    the classes' own values. Where classes overlap the painted view is returned.
    """

    def __init__(self, folder: Path, settings: Predict | None = None) -> None:
        from medseg.model.folder import load_model
        from medseg.predict.mixed import predictor_of

        self.model = load_model(Path(folder))
        self.predictor = predictor_of(self.model, settings or Predict())

    def predict(self, arrays: npt.ArrayLike, prompt: str = "") -> npt.NDArray[np.uint8]:
        """Labels of a batch. prompt: JSON, see the module; "" for none.

        Raises UserError for a batch whose shape does not fit the model, for a prompt that a model has no use for or
        that cannot be read, and for a model that needs one and gets none.
        """
        batch = np.asarray(arrays, dtype=np.float32)
        plan = self.model.plan
        if self.model.parts:
            raise UserError(
                f"the model is the mean of {len(self.model.parts)} configurations that are prepared in different ways",
                hint="give paths of images",
            )
        if batch.ndim != plan.dims + 2 or batch.shape[1] != plan.in_channels:
            raise UserError(
                f"got an array of shape {batch.shape}, expected (batch, {plan.in_channels}, "
                f"{', '.join('XYZ'[: plan.dims])})",
                hint="prepared arrays: batch and channels first",
            )
        prompts = self._prompts(prompt, len(batch), batch.shape[2:])
        return np.stack([self._labels(image, one) for image, one in zip(batch, prompts, strict=True)])

    def predict_paths(self, paths: Sequence[str | Path], prompt: str = "") -> npt.NDArray[np.object_]:
        """Labels of images that are read here: a vector of arrays (*S) uint8, each on its image's own grid.

        prompt: JSON, see the module; "" for none. Raises UserError for what is no path, for an image that cannot be
        read or does not fit the model, and for prompts as `predict` does.
        """
        from medseg.predict.api import as_image

        for number, path in enumerate(paths):
            if not isinstance(path, str | Path):
                raise UserError(
                    f"image {number} of the batch is a {type(path).__name__}, expected a path",
                    hint="give paths of image files or DICOM folders, or one array (batch, channels, ...)",
                )
        given = self._documents(prompt, len(paths))
        found = np.empty(len(paths), dtype=object)
        for number, (path, document) in enumerate(zip(paths, given, strict=True)):
            image = as_image(path)
            asked = None if document is None else self._read(document, image.geometry)
            found[number] = as_bytes(self.predictor.segment(image, prompt=asked).labels)
        return found

    def _grid(self, shape: Sequence[int]) -> Geometry:
        plan = self.model.plan
        pixels = plan.spacing_mm is None
        return Geometry.pixels(shape) if pixels else Geometry.from_spacing(shape, plan.spacing_mm or ())

    def _prompts(self, text: str, count: int, shape: Sequence[int]) -> list[Prompt | None]:
        """One prompt, or None, an image of the batch, in mm (px) along the axes of an array of `shape`."""
        given = self._documents(text, count)
        return [None if one is None else self._prompt(one, self._grid(shape)) for one in given]

    def _documents(self, text: str, count: int) -> list[dict[str, Any] | None]:
        """One document of prompts, or None, an image, after it is known that the model takes, or can do without, it."""
        from medseg.predict.prompts import takes_prompts

        method = self.model.classical
        if text.strip() and not takes_prompts(self.model):
            name = "this model's network" if method is None else method.name
            raise UserError(f"{name} has no use for a prompt", WHERE, "leave the prompt out")
        given = documents_of(text, count)
        if None in given and getattr(method, "needs_prompt", False):
            raise UserError(
                f"{method.name} needs a prompt, and image {given.index(None)} of the batch has none",
                WHERE,
                'give JSON such as {"points": [{"class": NAME, "at": [...]}]}, with boxes or scribbles likewise',
            )
        return given

    def _prompt(self, document: dict[str, Any], grid: Geometry) -> Prompt:
        from medseg.predict.classical import on_grid

        if str(document.get("frame", "RAS")).upper() != "RAS":
            raise UserError(
                f"the prompt's frame is {document['frame']!r}, and a prepared array has no place in the patient",
                WHERE,
                "give places in mm along the array's axes, without a frame",
            )
        return on_grid(self._read(document, grid), grid)

    def _read(self, document: dict[str, Any], grid: Geometry) -> Prompt:
        from medseg.io.prompts import Coding, of_json

        return of_json(document, grid, Coding(tuple(self.model.classes)), WHERE)

    def _labels(self, image: npt.NDArray[np.float32], prompt: Prompt | None) -> npt.NDArray[np.uint8]:
        from medseg.ingest.prepare import PreparedImage
        from medseg.predict.classical import in_values_of, translate

        plan, shape = self.model.plan, image.shape[1:]
        if self.model.net is None:
            method = self.model.classical
            if prompt is not None:
                method = method.counting(len(self.model.classes))
                prompt = in_values_of(prompt, method, self.model.classes)
            own = method.segment(image, plan.spacing_mm or [1.0] * plan.dims, prompt)
            return as_bytes(translate(own, method, self.model.classes)[0])
        grid, zeros = self._grid(shape), (0,) * plan.dims
        prepared = PreparedImage(image, grid, grid, tuple(range(plan.dims)), (), zeros, shape)
        return as_bytes(self.predictor.segment_prepared(prepared)[0])


def documents_of(text: str, count: int) -> list[dict[str, Any] | None]:
    """One document of prompts, or None, an image. UserError for text that is no JSON and for too many or too few."""
    if not text.strip():
        return [None] * count
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as err:
        raise UserError(
            f"the prompt is not JSON ({err})", WHERE, "give an object, or a list of them"
        ) from err
    given = found if isinstance(found, list) else [found] * count
    if len(given) != count:
        raise UserError(f"{len(given)} prompts for {count} images", WHERE, "one an image, null for none")
    for one in given:
        if one is not None and not isinstance(one, dict):
            raise UserError(
                f"the prompt is {one!r}", WHERE, "write an object with points, boxes or scribbles"
            )
    return given


def paths_of(given: Any) -> list[Any] | None:
    """The paths that a batch consists of, or None for one of voxels."""
    if isinstance(given, str | Path):
        return [given]
    if isinstance(given, np.ndarray):
        return list(given) if given.ndim == 1 and given.dtype.kind in "OU" else None
    return (
        list(given) if isinstance(given, list) and any(isinstance(one, str | Path) for one in given) else None
    )


def as_bytes(labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The labels as uint8. Raises UserError for values above 255, which the model's signature cannot hold."""
    if labels.size and int(labels.max()) > np.iinfo(np.uint8).max:
        raise UserError(
            f"a class has the value {int(labels.max())}, and this form of the model gives values up to 255",
            hint="predict with medseg itself, or give the class a smaller value",
        )
    return labels.astype(np.uint8)


def save_pyfunc(model_dir: Path, target: Path, example: npt.NDArray[np.float32]) -> None:
    """Writes the MLflow model folder `target` around a copy of `model_dir`, with a signature.

    example: a prepared array (B, C, *S) float32; its axes but the channels may have any length in the signature.
    MLflow is given a script instead of an object ("models from code"), since it would pickle an object.
    """
    import tempfile

    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    anything = (-1,) * (example.ndim - 2)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, example.shape[1], *anything), "image")]),
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *anything), "labels")]),
        # Every model has it, since MLflow drops what a signature lacks without an error.
        ParamSchema([ParamSpec("prompt", DataType.string, "")]),
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "medseg_model.py"
        script.write_text(SCRIPT, encoding="utf-8")
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(script),
            artifacts={ARTIFACT: str(model_dir)},
            signature=signature,
            pip_requirements=["medseg"],
        )


def wrapped() -> Any:
    """The object that MLflow calls: it loads the model folder when MLflow says where it lies."""
    from mlflow.pyfunc import PythonModel

    # MLflow asks for type hints, which it would take for a schema of its own, and lets no filter silence it.
    with redirect_stderr(StringIO()):

        class Wrapped(PythonModel):
            def load_context(self, context: Any) -> None:
                self.inner = ArrayModel(Path(context.artifacts[ARTIFACT]))

            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                given = model_input["image"] if isinstance(model_input, dict) else model_input
                prompt = (params or {}).get("prompt") or ""
                paths = paths_of(given)
                return (
                    self.inner.predict(given, prompt)
                    if paths is None
                    else self.inner.predict_paths(paths, prompt)
                )

    return Wrapped()
