"""Display colours: sRGB of 8 bits <-> the CIELab integers that DICOM writes (PS3.3 C.10.7.1.1; CIE 15, D65)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# sRGB (IEC 61966-2-1) to XYZ, D65 white.
_XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _XYZ_OF_RGB.sum(axis=1)
_KNEE = 6.0 / 29.0


def to_cielab(rgb: Sequence[int]) -> tuple[int, int, int]:
    """sRGB 0..255 -> L* 0..100 and a*, b* -128..127, each scaled to 0..65535.

    >>> to_cielab((255, 255, 255)), to_cielab((0, 0, 0))
    ((65535, 32896, 32896), (0, 32896, 32896))
    """
    level = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    ratio = (_XYZ_OF_RGB @ linear) / _WHITE
    f = np.where(ratio > _KNEE**3, np.cbrt(ratio), ratio / (3 * _KNEE**2) + 4.0 / 29.0)
    lab = np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    scaled = np.rint(np.array([lab[0] * 655.35, (lab[1] + 128) * 257, (lab[2] + 128) * 257]))
    first, second, third = (int(v) for v in np.clip(scaled, 0, 65535))
    return first, second, third


def to_rgb(cielab: Sequence[int]) -> tuple[int, int, int]:
    """The inverse of `to_cielab`, clipped to what a screen can show.

    >>> to_rgb(to_cielab((200, 30, 90)))
    (200, 30, 90)
    """
    stored = np.asarray(cielab, dtype=np.float64)
    lightness, a, b = stored[0] / 655.35, stored[1] / 257 - 128, stored[2] / 257 - 128
    middle = (lightness + 16) / 116
    f: npt.NDArray[np.float64] = np.array([middle + a / 500, middle, middle - b / 200])
    ratio = np.where(f > _KNEE, f**3, 3 * _KNEE**2 * (f - 4.0 / 29.0))
    linear = np.clip(np.linalg.inv(_XYZ_OF_RGB) @ (ratio * _WHITE), 0, 1)
    level = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(v) for v in np.rint(level * 255))
    return red, green, blue
