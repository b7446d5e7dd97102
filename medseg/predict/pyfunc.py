"""The form in which MLflow stores a model: `mlflow.pyfunc.load_model(uri).predict(array)`.

The model folder is stored as an artifact and loaded by our own loader; nothing of the network is pickled.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Predict

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
        from medseg.predict.case import Predictor

        self.model = load_model(Path(folder))
        self.predictor = Predictor(self.model, settings or Predict())

    def predict(self, arrays: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Labels of a batch. Raises UserError for a batch whose shape does not fit the model."""
        from medseg.core.errors import UserError

        batch = np.asarray(arrays, dtype=np.float32)
        plan = self.model.plan
        if batch.ndim != plan.dims + 2 or batch.shape[1] != plan.in_channels:
            raise UserError(
                f"got an array of shape {batch.shape}, expected (batch, {plan.in_channels}, "
                f"{', '.join('XYZ'[: plan.dims])})",
                hint="prepared arrays: batch and channels first",
            )
        return np.stack([self._labels(image) for image in batch])

    def _labels(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        from medseg.core.geometry import Geometry
        from medseg.ingest.prepare import PreparedImage

        plan = self.model.plan
        if self.model.net is None:
            spacing = plan.spacing_mm or [1.0] * plan.dims
            return np.asarray(self.model.classical.segment(image, spacing), dtype=np.uint8)
        shape = image.shape[1:]
        pixels = plan.spacing_mm is None
        grid = Geometry.pixels(shape) if pixels else Geometry.from_spacing(shape, plan.spacing_mm or ())
        zeros = (0,) * plan.dims
        prepared = PreparedImage(image, grid, grid, tuple(range(plan.dims)), (), zeros, shape)
        labels, _ = self.predictor.segment_prepared(prepared)
        return labels.astype(np.uint8)


def save_pyfunc(model_dir: Path, target: Path, example: npt.NDArray[np.float32]) -> None:
    """Writes the MLflow model folder `target` around a copy of `model_dir`, with a signature.

    example: a prepared array (B, C, *S) float32; its axes but the channels may have any length in the signature.
    MLflow is given a script instead of an object ("models from code"), since it would pickle an object.
    """
    import tempfile

    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    anything = (-1,) * (example.ndim - 2)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, example.shape[1], *anything), "image")]),
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *anything), "labels")]),
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
                array = model_input["image"] if isinstance(model_input, dict) else model_input
                return self.inner.predict(array)

    return Wrapped()
