"""The conformance page promises what is shown here, line by line, and no more."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from medseg.config import Predict
from medseg.core.geometry import Geometry
from medseg.io.dicom.conformance import (
    READ_CLASSES,
    READ_SYNTAXES,
    WRITTEN,
    attributes_of,
    files_written,
    page,
)
from medseg.io.dicom.headers import SEGMENTATION_CLASSES
from medseg.io.dicom.read import read_series
from medseg.io.dicom.read_rtstruct import STRUCTURE_SET
from medseg.io.dicom.write_series import write_ct_series

SHAPE = (72, 64, 3)
BASELINE, PROCESS_14 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57"
LOSSY = ("1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203", BASELINE)
HIGH_THROUGHPUT = json.loads((Path(__file__).parents[1] / "oracles" / "htj2k.json").read_text())[
    "codestreams"
]
"""Transfer syntax -> the series of `smooth` slice by slice; no installed library writes high-throughput JPEG 2000."""
MADE = [uid for uid, how in READ_SYNTAXES.items() if how == "made"]
IMAGES = [uid for uid in READ_CLASSES if uid not in SEGMENTATION_CLASSES and uid != STRUCTURE_SET]


def smooth() -> np.ndarray:
    x, y, z = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return (5 * x + 3 * y - 9 * z).astype(np.int16)


def as_jpeg(data: pydicom.Dataset) -> pydicom.Dataset:
    """The picture in 8 bits as a JPEG of everyday, its values in steps of 4 (`smooth` needs more than 256)."""
    import io

    from PIL import Image as Picture

    values = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    low, packed = float(values.min()), io.BytesIO()
    Picture.fromarray(np.round((values - low) / 4).astype(np.uint8)).save(packed, "JPEG", quality=98)
    put_codestream(data, packed.getvalue(), BASELINE)
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.RescaleSlope, data.RescaleIntercept = 4, low
    data.LossyImageCompression = "01"
    return data


def put_codestream(data: pydicom.Dataset, codestream: bytes, syntax: str) -> None:
    """Stores one compressed picture in the place of the plain one."""
    from pydicom.encaps import encapsulate

    data.PixelData = encapsulate([codestream])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = UID(syntax)


def as_process_14(file: Path) -> None:
    """Stores a file in lossless JPEG of any predictor, by another library."""
    gdcm = pytest.importorskip("gdcm")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(file))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(file))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def restored(folder: Path, syntax: str) -> list[Path]:
    """The series of `smooth` in a transfer syntax."""
    files = write_ct_series(smooth(), Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), folder)
    for number, file in enumerate(files):
        data = pydicom.dcmread(file)
        if syntax in HIGH_THROUGHPUT:
            put_codestream(data, base64.b64decode(HIGH_THROUGHPUT[syntax][number]), syntax)
            data.save_as(file)
            continue
        if syntax == BASELINE:
            as_jpeg(data).save_as(file)
            continue
        if syntax == PROCESS_14:
            as_process_14(file)
            continue
        if UID(syntax).is_compressed and not UID(syntax).is_deflated:
            options = (
                {"j2k_cr": [2]}
                if syntax.endswith(".91")
                else {"jls_error": 1}
                if syntax.endswith(".81")
                else {}
            )
            data.compress(UID(syntax), generate_instance_uid=False, **options)
            data.save_as(file)
            continue
        data.file_meta.TransferSyntaxUID = UID(syntax)
        if syntax == "1.2.840.10008.1.2.2":
            list(data.iterall())  # numbers are converted when they are looked at
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
            pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=False, force_encoding=True)
        else:
            data.save_as(file, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=True)
    return files


@pytest.mark.parametrize("syntax", MADE, ids=lambda uid: UID(uid).name)
def test_a_series_in_every_promised_syntax_is_read(tmp_path, syntax):
    files = restored(tmp_path, syntax)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID == syntax
    image = read_series(files)
    apart = np.abs(image.array[0].astype(int) - smooth())
    assert apart.max() <= (8 if syntax in LOSSY else 0)


@pytest.mark.parametrize(
    "syntax", [uid for uid in READ_SYNTAXES if uid not in MADE], ids=lambda uid: UID(uid).name
)
def test_real_files_show_the_other_syntaxes(shared_data, syntax):
    path = shared_data / "misc_dicom" / READ_SYNTAXES[syntax]
    assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    assert read_series([path]).array.any()


def test_every_promised_class_of_images_is_read_from_a_real_file(shared_data):
    places = [shared_data / "misc_dicom" / name for name in (
        "enhanced/legacy_enhanced_ct_23x38x3.dcm", "enhanced/eCT_Supplemental.dcm",
        "enhanced/enhanced_mr_4d_siemens/011-0001.img", "single/pet_jpeg_lossless.dcm",
        "transfer_syntaxes/MR4_UNC.dcm", "transfer_syntaxes/CT1_J2KI.dcm", "single/cr_monochrome1.dcm")]  # fmt: skip
    shown = set()
    for path in places:
        read_series([path])
        shown.add(str(pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID))
    assert shown == set(IMAGES)


def test_every_promised_file_is_written_as_promised(tmp_path):
    written = files_written(tmp_path)
    assert {name: (d.SOPClassUID, d.file_meta.TransferSyntaxUID) for name, d in written.items()} == WRITTEN
    for dataset in written.values():
        names = attributes_of(dataset)
        for needed in ("SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Manufacturer"):
            assert needed in names
        assert any("ReferencedSOPInstanceUID" in name or "ReferencedInstanceSequence" in name or
                   "ContourImageSequence" in name or "RTReferencedStudySequence" in name for name in names)  # fmt: skip


def test_the_page_names_every_choice_of_the_pipeline_file_that_is_dicom():
    choices = str(Predict.model_fields["write"].annotation)
    assert [name for name in WRITTEN if f"'{name}'" not in choices] == []
    text = page()
    for uid in (*READ_SYNTAXES, *READ_CLASSES):
        assert uid in text


def test_the_page_is_the_same_every_time():
    assert page() == page()
