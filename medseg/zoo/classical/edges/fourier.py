"""Gaussian high-pass in the frequency domain. Gonzalez, Woods 2018, Digital Image Processing, ISBN:9780133356724.

Slow changes of grey value are low frequencies, edges are high ones. The spectrum is multiplied by H(u) = 1 -
exp(-|u|^2 / (2 D0^2)), which takes away the low ones without ringing. What comes back is large where the
image changes within a length of about 1 / D0.
Differs from the paper: a Gaussian of 1 mm goes before it unless `sigma_mm` is 0; the image is mirrored at its
borders, not repeated, so that opposite borders make no edge; the cosine transform is that mirrored image's
spectrum. Frequencies are in cycles a mm.
Oracle: `scipy.fft.fftn` of the mirrored image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector
from medseg.zoo.classical.grey import checked


@dataclass(frozen=True)
class FourierArguments(EdgeArguments):
    """cutoff: D0 as a share of the highest frequency of the coarsest axis, 0.05 to 0.15 as a rule."""

    cutoff: float = 0.15


class FourierHighpass(EdgeDetector):
    """Edges as what a high-pass filter leaves."""

    name = "edge-fourier-highpass"
    Arguments = FourierArguments

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        assert isinstance(options, FourierArguments)
        checked("cutoff", options.cutoff, self.where, least=1e-6)
        return np.abs(highpass(grey, spacing_mm, options.cutoff))


def highpass(grey: Strength, spacing_mm: Sequence[float], cutoff: float) -> Strength:
    """The image (*S) without its low frequencies."""
    from scipy.fft import dctn, idctn

    squared = np.zeros((1,) * grey.ndim)
    for axis, (n, s) in enumerate(zip(grey.shape, spacing_mm, strict=True)):
        frequency = np.arange(n) / (2 * n * s)
        squared = squared + (frequency**2).reshape([-1 if a == axis else 1 for a in range(grey.ndim)])
    d0 = cutoff / (2 * max(spacing_mm))
    spectrum = dctn(grey, type=2) * -np.expm1(-squared / (2 * d0**2))
    return np.asarray(idctn(spectrum, type=2))
