"""Every random change by name, and the presets. Probabilities and ranges of "default" are nnU-Net's (Isensee et al.
2021, doi:10.1038/s41592-020-01008-z, as its package has them), with an elastic change beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from medseg.ingest.augment.artefacts import MONAI_NAMES, Artefact
from medseg.ingest.augment.blur import Blur
from medseg.ingest.augment.brightness import Brightness
from medseg.ingest.augment.contrast import Contrast
from medseg.ingest.augment.elastic import Elastic
from medseg.ingest.augment.flip import Flip
from medseg.ingest.augment.gamma import Gamma
from medseg.ingest.augment.low_resolution import LowResolution
from medseg.ingest.augment.noise import Noise
from medseg.ingest.augment.rotate import Rotate
from medseg.ingest.augment.scale import Scale
from medseg.ingest.augment.shear import Shear
from medseg.ingest.augment.swap_sides import SwapSides
from medseg.ingest.augment.truncate import Truncate

TRANSFORMS: dict[str, Callable[..., Any]] = {
    "rotate": Rotate.draw,
    "scale": Scale.draw,
    "shear": Shear.draw,
    "elastic": Elastic.draw,
    "flip": Flip.draw,
    "swap_sides": SwapSides.draw,
    "truncate": Truncate.draw,
    "noise": Noise.draw,
    "blur": Blur.draw,
    "brightness": Brightness.draw,
    "contrast": Contrast.draw,
    "low_resolution": LowResolution.draw,
    "gamma_inverted": partial(Gamma.draw, inverted=True),
    "gamma": Gamma.draw,
    **{name: partial(Artefact.draw, name=name) for name in MONAI_NAMES},
}
"""name -> draw(rng, frame, **ranges), in the order in which they are applied."""

PROBABILITIES = {
    "rotate": 0.2,
    "scale": 0.2,
    "shear": 0.2,
    "elastic": 0.1,
    "flip": 1.0,
    "swap_sides": 0.5,
    "truncate": 0.2,
    "noise": 0.1,
    "blur": 0.2,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.25,
    "gamma_inverted": 0.1,
    "gamma": 0.3,
    "bias_field": 0.15,
    "gibbs": 0.1,
    "rician": 0.1,
    "spikes": 0.05,
}
"""Probability of each where a pipeline names it without one."""

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    "light": {
        "rotate": {"probability": 0.15, "degrees": 10.0, "free_degrees": 15.0},
        "scale": {"probability": 0.15, "factor": (0.9, 1.1)},
        "flip": {},
        "noise": {"sd": (0.0, 0.05)},
        "brightness": {"factor": (0.9, 1.1)},
        "gamma": {"probability": 0.15, "exponent": (0.85, 1.2)},
    },
    "default": {
        "rotate": {},
        "scale": {},
        "elastic": {},
        "flip": {},
        "noise": {},
        "blur": {},
        "brightness": {},
        "contrast": {},
        "low_resolution": {},
        "gamma_inverted": {},
        "gamma": {},
    },
}

LIMITS: dict[str, tuple[float, float]] = {
    "each": (0, 1),
    "share": (0, 1),
    "degrees": (0, 180),
    "free_degrees": (0, 180),
    "factor": (0.01, 100),
    "anisotropic": (0, 0.9),
    "slope": (0, 10),
    "displacement": (0, 1),
    "points": (2, 64),
    "sd": (0, 1e6),
    "sigma": (0.01, 100),
    "shift": (-1e6, 1e6),
    "exponent": (0.01, 100),
}
"""Between which numbers each range makes sense: what lies outside would make images empty or not finite."""
