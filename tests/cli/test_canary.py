"""Whatever could name a patient stays out of every byte of a run, but for the places that are named private."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medseg.core import Geometry
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

CANARY = "Kanarienvogel"
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
    write_ct_series(hu, grid, folder / f"{CANARY} {number}", patient=f"{CANARY}-{number}", facts=named)


def test_no_name_leaves_the_private_places(medseg: Callable, tmp_path: Path) -> None:
    data, out = tmp_path / f"{CANARY} export", tmp_path / "runs" / "lungs-1"
    for number in range(2):
        put_patient(data, number)
    file = tmp_path / "lungs.yaml"
    file.write_text(
        "name: lungs\ndata: {modality: ct, classes: {right lung: 1, left lung: 2}}\nsystem: lung-threshold\n"
        "compute: {cores: 1, device: cpu}\n"
    )
    code, _, err = medseg("run", file, "--data", data, "--out", out)
    assert code == 0, err
    assert CANARY not in err
    leaks = []
    for path in tmp_path.joinpath("runs").rglob("*"):
        inside = path.relative_to(out).as_posix() if path.is_relative_to(out) else path.name
        assert CANARY not in inside
        if path.is_file() and not inside.startswith(ALLOWED) and path.suffix != ".dcm":
            leaks += [inside] if CANARY.encode() in path.read_bytes() else []
    assert leaks == []
    assert len(list((out / "predictions").glob("*.nii.gz"))) == 2
    assert len(list((out / "predictions").glob("*.dcm"))) == 2
