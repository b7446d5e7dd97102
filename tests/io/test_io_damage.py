"""Bytes that were changed at random end in an image or in a sentence, never in another error and never in a hang."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.read import read_series
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_geometry, read_image, read_segmentation, write_array, write_segmentation

SHAPE = (8, 9, 5)
KINDS = [
    "a.nii",
    "a.nii.gz",
    "a.nrrd",
    "a.mha",
    "a.png",
    "a.tif",
    "a.jpg",
    "series.dcm",
    "packed.dcm",
    "seg.dcm",
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, bytes]:
    """One sound file of every kind."""
    folder = tmp_path_factory.mktemp("sound")
    labels = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8)
    geometry = Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0]))
    for name in KINDS[:4]:
        write_segmentation(Segmentation(labels, geometry), folder / name)
    flat = np.random.default_rng(1).integers(0, 255, (3, 20, 30)).astype(np.uint8)
    for name in KINDS[4:6]:
        write_array(flat, Geometry.pixels((20, 30)), folder / name)
    from PIL import Image as Pillow

    Pillow.fromarray(flat.transpose(1, 2, 0)).save(folder / "a.jpg")
    files = write_ct_series(labels.astype(np.int16), geometry, folder / "s")
    files[0].rename(folder / "series.dcm")
    write_ct_series(labels.astype(np.int16), geometry, folder / "p", compress=True)[0].rename(
        folder / "packed.dcm"
    )
    files = write_ct_series(labels.astype(np.int16), geometry, folder / "s")
    seg = Segmentation(labels, read_series(files).geometry, (ClassInfo("a", 1, (9, 9, 9)),))
    write_seg(seg, files, folder / "seg.dcm")
    return {name: (folder / name).read_bytes() for name in KINDS}


def damaged(sound: bytes, rng: random.Random) -> bytes:
    data = bytearray(sound)
    for _ in range(rng.choice((1, 2, 6, 20))):
        at = rng.randrange(min(len(data), rng.choice((400, 1500, len(data)))))
        kind = rng.random()
        if kind < 0.6:
            data[at] = rng.randrange(256)
        elif kind < 0.75:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\x7f\0\0", b"\0\0\0\x80"))
        elif kind < 0.85:
            del data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 20))
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("name", KINDS)
def test_random_damage_never_leads_to_another_error(samples, tmp_path, name):
    rng = random.Random(name)
    for _ in range(12):
        path: Path = tmp_path / name
        path.write_bytes(damaged(samples[name], rng))
        for read in (read_image, read_segmentation, read_geometry):
            with suppress(UserError):
                read(path)
