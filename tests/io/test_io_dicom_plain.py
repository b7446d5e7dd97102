"""Plain pixels are read straight from the file, and are those that a full reading gives."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.dicom.headers import read_slices
from medseg.io.dicom.pixels import read_pixels
from medseg.io.dicom.read import read_series
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


def stored_as(files, **tags):
    """Changes headers; tags of which the kind hangs on another tag are given as (kind, value)."""
    for file in files:
        data = pydicom.dcmread(file)
        for name, value in tags.items():
            if isinstance(value, tuple):
                data.add_new(name, *value)
            else:
                setattr(data, name, value)
        data.save_as(file)


@pytest.mark.parametrize("packed", [False, True])
def test_values_that_do_not_begin_at_the_lowest_bit_are_refused(tmp_path, packed):
    files = write_ct_series(
        np.zeros(SHAPE, np.int16), Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path
    )
    stored_as(files, BitsStored=12, HighBit=15, PixelRepresentation=0)
    for file in files if packed else ():
        data = pydicom.dcmread(file)
        data.compress(pydicom.uid.RLELossless)
        data.save_as(file)
    with pytest.raises(UserError, match="12 bits end at bit 15"):
        read_series(files)


@pytest.mark.parametrize(("signed", "kind", "padding"), [(1, "SS", -2000), (1, "US", 63536), (0, "US", 63536), (0, "SS", -2000)])  # fmt: skip
def test_padding_is_known_by_its_bits_whatever_sign_the_header_gives_it(tmp_path, signed, kind, padding):
    array = np.random.default_rng(2).integers(0, 1500, SHAPE).astype(np.int16)
    files = write_ct_series(array, Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path)
    for place, file in enumerate(files):
        data = pydicom.dcmread(file)
        stored = array[..., place].T.copy()
        stored[:4] = -2000
        data.PixelData, data.RescaleIntercept = stored.astype("<i2").tobytes(), 0
        data.save_as(file)
    stored_as(files, PixelRepresentation=signed, BitsStored=16, HighBit=15, PixelPaddingValue=(kind, padding))
    found = read_series(files)
    array[:, :4] = -1024
    np.testing.assert_array_equal(found.array[0], array)
    assert any("voxels outside the field of view" in note for note in found.notes)


def test_a_map_that_is_computed_from_a_ct_puts_its_values_in_doubt(tmp_path):
    files = write_ct_series(
        np.zeros(SHAPE, np.int16), Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path
    )
    stored_as(files, RescaleType="MGML")
    assert (
        "the header says that the values are MGML, not HU: Hounsfield units are in doubt"
        in read_series(files).notes
    )
