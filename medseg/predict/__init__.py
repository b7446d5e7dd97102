"""From a model and an image to a segmentation on the image's own grid: windows, streaming, post-processing, files."""

from collections.abc import Callable
from typing import Any

from medseg.core.door import make_callable


def _door() -> Callable[..., Any]:
    from medseg.predict.api import predict

    return predict


make_callable(__name__, _door)
