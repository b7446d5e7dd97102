"""Whatever could name a patient stays out of every byte of a run, but for the places that are named private."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medseg.core import Geometry
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

CANARY = "Kanarienvogel"
BIRTH, NUMBER = "19470311", "4711774711"
"""A date of birth, and the digits of every ID."""
SECRETS = re.compile(rf"{CANARY}|{NUMBER}|(?<![\d.]){BIRTH}(?!\d)|1947-03-11")
"""What must not be found; eight digits inside a longer number are chance."""
NAMING = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
"""Groups of tags that say who, where and how."""
MEANT = ("CodeValue", "CodingSchemeDesignator", "SpecificCharacterSet", "TimezoneOffsetFromUTC")
"""Texts whose form has a meaning of its own."""
ALLOWED = ("private/", "pipeline.yaml")
"""The table from case to file, and the data folder as the person gave it; DICOM-SEG carries its patient for viewers."""


def put_patient(folder: Path, number: int) -> None:
    """A small body with two air-filled lungs, written under a patient's name."""
    rng = np.random.default_rng(number)
    hu = np.full((48, 48, 24), -1000, np.int16)
    hu[6:42, 8:40, :] = 40
    hu[10:22, 14:34, 4:20] = -820
    hu[26:38, 14:34, 4:20] = -820
    hu += rng.normal(0, 10, hu.shape).astype(np.int16)
    named = SeriesFacts(patient_name=f"{CANARY}^Anna", study=str(number), description=CANARY)
    grid = Geometry(hu.shape, np.diag([-7.0, -7.0, 10.0, 1.0]))
    files = write_ct_series(
        hu, grid, folder / f"{CANARY} {number}", patient=f"{CANARY}-{number}", facts=named
    )
    for file in files:
        name_everything(file)


def name_everything(file: Path) -> None:
    """Puts the canary into every text that the headers of patient, visit, study and device can hold."""
    from pydicom import dcmread
    from pydicom.datadict import DicomDictionary

    header = dcmread(file)
    for tag, (kind, count, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if retired or not keyword or group not in NAMING or keyword in MEANT or not count.startswith("1"):
            continue
        if kind in ("LO", "SH", "PN", "ST", "LT", "UT", "UC"):
            setattr(header, keyword, f"{CANARY}^Anna" if kind == "PN" else CANARY)
    header.PatientBirthDate, header.PatientBirthTime = BIRTH, "061542"
    header.PatientID = NUMBER + header.PatientID[-1]
    header.AccessionNumber = header.StudyID = NUMBER
    header.save_as(file)


def text_in(path: Path) -> str:
    """A file's bytes as text, unpacked where the file is packed."""
    if path.suffix == ".parquet":
        import pandas

        return pandas.read_parquet(path).to_csv()
    held = path.read_bytes()
    return (gzip.decompress(held) if path.suffix == ".gz" else held).decode("latin-1")


def test_the_patients_are_named_in_many_places_and_a_leak_would_be_seen(tmp_path: Path) -> None:
    from pydicom import dcmread

    put_patient(tmp_path, 0)
    header = dcmread(next(tmp_path.rglob("*.dcm")))
    named = [e.keyword for e in header if SECRETS.search(str(e.value))]
    assert len(named) > 100
    assert {"PatientName", "PatientBirthDate", "PatientID", "AccessionNumber", "InstitutionName"} <= set(
        named
    )
    (tmp_path / "log.gz").write_bytes(gzip.compress(f"born {BIRTH}".encode()))
    assert SECRETS.search(text_in(tmp_path / "log.gz"))


def test_no_name_leaves_the_private_places(medseg: Callable, tmp_path: Path) -> None:
    data, out = tmp_path / f"{CANARY} export", tmp_path / "runs" / "lungs-1"
    for number in range(2):
        put_patient(data, number)
    file = tmp_path / "lungs.yaml"
    file.write_text(
        "name: lungs\ndata: {modality: ct, classes: {right lung: 1, left lung: 2}}\nsystem: lung-threshold\n"
        "compute: {cores: 1, device: cpu}\n"
    )
    code, said, err = medseg("run", file, "--data", data, "--out", out)
    assert code == 0, err
    assert not SECRETS.search(f"{said}{err}")
    leaks = []
    for path in tmp_path.joinpath("runs").rglob("*"):
        inside = path.relative_to(out).as_posix() if path.is_relative_to(out) else path.name
        assert not SECRETS.search(inside)
        if path.is_file() and not inside.startswith(ALLOWED) and path.suffix != ".dcm":
            leaks += [f"{inside}: {found}" for found in set(SECRETS.findall(text_in(path)))]
    assert leaks == []
    assert len(list((out / "predictions").glob("*.nii.gz"))) == 2
    assert len(list((out / "predictions").glob("*.dcm"))) == 2
