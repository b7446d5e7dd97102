"""Plain pixels are read straight from the file, and are those that a full reading gives."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.dicom.headers import read_slices
from medseg.io.dicom.pixels import read_pixels
from medseg.io.dicom.write_series import write_ct_series

SHAPE = (9, 11, 3)


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(
    ("allocated", "stored"), [(16, 16), (16, 12), (16, 9), (8, 8), (8, 5), (32, 32), (32, 20)]
)
@pytest.mark.parametrize("implicit", [False, True])
def test_bits_that_do_not_belong_to_a_value_do_not_count(tmp_path, signed, allocated, stored, implicit):
    files = write_ct_series(
        np.zeros(SHAPE, np.int16), Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path
    )
    rng = np.random.default_rng(stored)
    for file in files:
        data = pydicom.dcmread(file)
        data.BitsAllocated, data.BitsStored, data.HighBit = allocated, stored, stored - 1
        data.PixelRepresentation, data.RescaleIntercept = signed, 0
        data.PixelData = rng.bytes(99 * allocated // 8 + 99 * allocated // 8 % 2)
        data["PixelData"].VR = "OW"
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
        data.save_as(file, implicit_vr=implicit, little_endian=True)
    slices = [one for file in files for one in read_slices(file)]
    assert all(one.stored is not None for one in slices)
    array, _ = read_pixels(slices)
    for place, file in enumerate(files):
        np.testing.assert_allclose(array[..., place], pydicom.dcmread(file).pixel_array.T, rtol=1e-6)


def test_a_file_that_shrinks_after_its_header_was_read_is_named(tmp_path):
    files = write_ct_series(
        np.zeros(SHAPE, np.int16), Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path
    )
    slices = [one for file in files for one in read_slices(file)]
    files[1].write_bytes(files[1].read_bytes()[:-20])
    with pytest.raises(UserError, match="pixel data is cut short") as caught:
        read_pixels(slices)
    assert caught.value.where == "file 2 of 3 (instance 2)"
