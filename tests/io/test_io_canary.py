"""Nothing that names a patient leaves the readers in a note, a message, a table or a written file's free text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.config import Select
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.scan import choose, scan
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_image, write_segmentation

CANARY = "Canary7Q"
TEXT_FIELDS = [
    "PatientName", "PatientID", "OtherPatientNames", "PatientAddress", "PatientComments", "PatientMotherBirthName",
    "EthnicGroup", "Occupation", "AdditionalPatientHistory", "MedicalRecordLocator", "ReferringPhysicianName",
    "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "StudyDescription", "SeriesDescription",
    "ProtocolName", "AccessionNumber", "StudyID", "RequestedProcedureDescription", "ImageComments",
    "RequestingPhysician", "PerformedProcedureStepDescription", "DerivationDescription", "ContrastBolusAgent",
    "ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "IssuerOfPatientID",
    "AdmissionID", "CurrentPatientLocation", "PatientInsurancePlanCodeSequence", "RequestingService",
    "SoftwareVersions", "ReasonForStudy", "PhysiciansOfRecord", "ScheduledPerformingPhysicianName",
]  # fmt: skip


def marked(folder: Path, slices: int = 6) -> list[Path]:
    array = np.random.default_rng(0).integers(-900, 900, (6, 7, slices)).astype(np.int16)
    files = write_ct_series(array, Geometry.from_spacing(array.shape, (1, 1, 2)), folder, name=CANARY)
    for file in files:
        header = pydicom.dcmread(file)
        for field in TEXT_FIELDS:
            if pydicom.datadict.dictionary_VR(field) != "SQ":
                setattr(header, field, CANARY[: 8 if field != "PatientName" else None])
        header.Modality = "CT"
        header.save_as(file)
    return files


def said(err: UserError) -> str:
    return str(err) + repr(err.as_json())


def test_a_sound_series_says_nothing_private(tmp_path):
    marked(tmp_path / CANARY)
    image = read_image(tmp_path / CANARY)
    assert CANARY not in repr((image.notes, image.modality, image.geometry))
    series, left = scan(tmp_path)
    choice = choose(series, Select.model_validate({}))
    assert CANARY not in "\n".join(
        [*choice.table(), *(item.reason for item in left), *(s.describe() for s in series)]
    )


@pytest.mark.parametrize(
    "fault", ["missing", "doubled", "cut", "colour", "patients", "sizes", "rows", "tie", "syntax"]
)
def test_messages_about_faults_say_nothing_private(tmp_path, fault):
    files = marked(tmp_path / CANARY)
    header = pydicom.dcmread(files[2])
    if fault == "missing":
        files.pop(2).unlink()
    elif fault == "cut":
        files[2].write_bytes(files[2].read_bytes()[:-30])
    elif fault == "tie":
        for file in marked(tmp_path / f"{CANARY}2"):
            other = pydicom.dcmread(file)
            other.SeriesInstanceUID = "2.25.7"
            other.save_as(file)
            files.append(file)
    else:
        if fault == "doubled":
            header.ImagePositionPatient = pydicom.dcmread(files[3]).ImagePositionPatient
        elif fault == "colour":
            header.SamplesPerPixel = 3
        elif fault == "patients":
            header.PatientID = CANARY + "x"
        elif fault == "sizes":
            header.Rows, header.PixelData = 3, header.PixelData[: 6 * 3 * 2]
        elif fault == "rows":
            del header.Rows
        elif fault == "syntax":
            header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.51"
            header.PixelData = pydicom.encaps.encapsulate([b"\0" * 40])
            header["PixelData"].is_undefined_length = True
        header.save_as(files[2], enforce_file_format=False)
    with pytest.raises(UserError) as caught:
        read_image(files)
    assert CANARY not in said(caught.value)
    if fault == "tie":
        with pytest.raises(UserError) as caught:
            choose(scan(tmp_path)[0], Select.model_validate({}))
        assert CANARY not in said(caught.value)


def test_a_written_mask_carries_no_text_of_its_source(tmp_path):
    files = marked(tmp_path / "a")
    image = read_image(files)
    seg = Segmentation(
        np.ones(image.geometry.shape, np.uint8), image.geometry, (ClassInfo("a", 1, (1, 2, 3)),)
    )
    for name in ("m.nii", "m.nrrd", "m.mha"):
        assert CANARY.encode() not in write_segmentation(seg, tmp_path / name, image).read_bytes()
