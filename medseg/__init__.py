"""medseg: medical image segmentation, from cases to evidence.

import medseg
net = medseg.build("3d-u-net", in_channels=1, classes=3)
segmentation = medseg.predict("runs/ct_lung/model", "case.nii.gz")
rows = medseg.score(segmentation, reference)
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "build", "load_pipeline", "predict", "run", "score"]


def __getattr__(name: str) -> Any:
    """The doors of the API, opened when used, so that `import medseg` costs nothing."""
    if name in __all__:
        import importlib

        if name in ("predict", "score"):  # these rooms are called as they are
            return importlib.import_module(f"medseg.{name}")
        return getattr(importlib.import_module("medseg.pipeline"), name)
    raise AttributeError(f"module 'medseg' has no attribute '{name}'")
