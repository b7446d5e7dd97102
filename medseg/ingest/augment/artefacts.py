"""Artefacts of MR scanners, by MONAI: bias field, Gibbs ringing, Rician noise, spikes in k-space.

MONAI's transforms take one sample at a time and cost tens of milliseconds, so they are offered by name and are in no
preset.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import UserError, did_you_mean
from medseg.ingest.augment.frame import Frame

MONAI_NAMES = {
    "bias_field": "RandBiasField",
    "gibbs": "RandGibbsNoise",
    "rician": "RandRicianNoise",
    "spikes": "RandKSpaceSpikeNoise",
}


def require_known(name: str, arguments: Mapping[str, Any], where: str) -> None:
    """Raises UserError for what MONAI's transform of an artefact does not take."""
    import monai.transforms

    transform = getattr(monai.transforms, MONAI_NAMES[name])
    known = [key for key in inspect.signature(transform).parameters if key != "prob"]
    for key in arguments:
        if key not in known:
            raise UserError(
                f"no range {key!r}{did_you_mean(key, known)}", where, f"it takes {', '.join(known)}"
            )
    try:
        transform(prob=1.0, **arguments)
    except (TypeError, ValueError, RuntimeError, AttributeError) as err:
        listed = ", ".join(f"{key}: {value!r}" for key, value in arguments.items())
        raise UserError(f"MONAI's {MONAI_NAMES[name]} refuses {listed} ({err})", where) from err


@dataclass(frozen=True)
class Artefact:
    """name: of MONAI_NAMES. seed: of MONAI's own draw. arguments: of MONAI's transform."""

    name: str
    seed: int
    arguments: tuple[tuple[str, Any], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, frame: Frame, name: str, **arguments: Any) -> Artefact:
        """A seed; what it means is MONAI's business and the same at every replay."""
        return cls(name, int(rng.integers(2**31)), tuple(sorted(arguments.items())))

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> with the artefact; runs on the CPU."""
        import monai.transforms

        change = getattr(monai.transforms, MONAI_NAMES[self.name])(prob=1.0, **dict(self.arguments))
        change.set_random_state(seed=self.seed)
        changed = change(image.detach().cpu().clone())
        return torch.as_tensor(np.asarray(changed), dtype=image.dtype).to(image.device)
