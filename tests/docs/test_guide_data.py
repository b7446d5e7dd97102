"""Every command of the guide on data is run as it stands, on tiny folders."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.cli import _main

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "data.md"


def commands() -> list[str]:
    """The indented lines, outside the blocks of files."""
    text = re.sub(r"^```.*?^```$", "", GUIDE.read_text(), flags=re.M | re.S)
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def put(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), path)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which FOLDER (images and labels) and BIDS (two kinds of images, labels in derivatives) exist."""
    rng = np.random.default_rng(0)
    for number in (1, 2):
        label = np.zeros((14, 12, 10), np.uint8)
        label[4:9, 3:8, 2:7] = 1
        image = (rng.normal(0, 10, label.shape) + 90 * label).astype(np.int16)
        put(tmp_path / "FOLDER" / "images" / f"case_{number}.nii.gz", image)
        put(tmp_path / "FOLDER" / "labels" / f"case_{number}.nii.gz", label)
        subject = f"sub-0{number}"
        for kind in ("T1w", "FLAIR"):
            put(tmp_path / "BIDS" / subject / "anat" / f"{subject}_{kind}.nii.gz", image)
        drawn = tmp_path / "BIDS" / "derivatives" / "hand" / subject / "anat"
        put(drawn / f"{subject}_space-T1w_dseg.nii.gz", label)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSEG_DATA", "")
    return tmp_path


def test_every_command_ends_well(desk: Path, capfd: pytest.CaptureFixture) -> None:
    found = commands()
    assert len(found) >= 2
    said = {}
    for command in found:
        words = shlex.split(command)
        assert words[0] == "medseg", command
        code = _main(words[1:])
        said[command], err = capfd.readouterr()
        assert code == 0, (command, err[-2000:])
    (bids,) = (text for command, text in said.items() if "BIDS" in command)
    assert "BIDS: T1w images: 2 cases can be used" in bids


def test_a_bids_folder_with_several_kinds_of_images_asks_as_the_guide_says(
    desk: Path, capfd: pytest.CaptureFixture
) -> None:
    assert _main(["check", "BIDS"]) == 2
    out, err = capfd.readouterr()
    assert "2 kinds of images, and nothing says which to segment" in out + err
    assert "data.channels=[T1w]" in out + err
