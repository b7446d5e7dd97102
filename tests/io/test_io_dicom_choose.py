"""One series of a study is taken, each other one is left with a reason, and a tie asks: for any order of files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.config import Select
from medseg.core.geometry import Geometry
from medseg.io.dicom.scan import SeriesTie, choose, scan, scan_files
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series
from medseg.io.doors import read_image


def made(folder: Path, slices: int = 8, distance: float = 2.0, plane: str = "axial", **facts) -> list[Path]:
    affine = np.diag([-1.0, -1.0, distance, 1.0])
    if plane == "coronal":
        affine[:3, :3] = [[-1, 0, 0], [0, 0, distance], [0, -1, 0]]
    shape = (8, 9, slices)
    array = np.random.default_rng(len(str(folder))).integers(-900, 900, shape).astype(np.int16)
    return write_ct_series(array, Geometry(shape, affine), folder, facts=SeriesFacts(**facts))


def phases(folder: Path, **values: tuple) -> list[Path]:
    """Two phases in one series, told apart by the given header values."""
    files = []
    for number in range(2):
        for file in made(folder, series="phases", kernel="B30f", series_number=7):
            header = pydicom.dcmread(file)
            header.SOPInstanceUID = f"{header.SOPInstanceUID}{number + 1}"
            header.PixelData = np.full((9, 8), 100 * number + 1024, "<u2").tobytes()
            for name, pair in values.items():
                setattr(header, name, pair[number])
            files.append(file.with_name(f"{number}-{file.name}"))
            header.save_as(files[-1])
            file.unlink()
    return files


@pytest.fixture
def study(tmp_path) -> list[Path]:
    """Nine series: scout, dose page, MPR, two kernels, two phases, a short one, a thick one."""
    files = made(
        tmp_path / "scout",
        2,
        60.0,
        "coronal",
        series="s1",
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        series_number=1,
    )
    dose = made(tmp_path / "dose", 1, series="s2", series_number=2)
    header = pydicom.dcmread(dose[0])
    header.SamplesPerPixel, header.Modality = 3, "CT"
    header.save_as(dose[0])
    files += dose
    files += made(
        tmp_path / "mpr",
        8,
        1.0,
        "coronal",
        series="s3",
        image_type=("DERIVED", "SECONDARY", "MPR"),
        series_number=3,
    )
    files += made(tmp_path / "soft", 14, 1.0, series="s4", kernel="B30f", series_number=4)
    files += made(tmp_path / "sharp", 14, 1.0, series="s5", kernel="B70f", series_number=5)
    files += phases(tmp_path / "phases", TemporalPositionIdentifier=(1, 2))
    files += made(tmp_path / "short", 3, series="s8", series_number=8)
    files += made(tmp_path / "thick", 7, 5.0, series="s9", series_number=9)
    return files


def test_a_study_of_nine_series_is_chosen_from_the_same_way_for_any_order_of_files(study):
    random.seed(5)
    picks = set()
    for _ in range(2):
        random.shuffle(study)
        series, left = scan_files(study)
        assert len(series) == 8
        assert [item.reason for item in left] == ["a colour picture (3 samples a pixel)"]
        named = next(s for s in series if s.kernel == "B30f" and s.n_slices == 14)
        choice = choose(series, Select.model_validate({"series": [named.id]}))
        picks.add((choice.kept[0].key, tuple((s.key, reason) for s, reason in choice.left_out)))
        assert len(choice.kept) + len(choice.left_out) == 8
    assert len(picks) == 1


def test_reasons_are_given_for_each_series_that_was_left(study):
    series, _ = scan_files(study)
    with pytest.raises(SeriesTie) as caught:
        choose(series, Select.model_validate({"tie": "thinnest"}))
    table = "\n".join(caught.value.faults)
    assert caught.value.what == "2 series of one study fit equally well"
    for words in ("kernel B30f", "kernel B70f", "(localizer)", "(reformatted from another series)",
                  "3 slices, fewer than data.select.min_slices: 5", "thicker slices"):  # fmt: skip
        assert words in table
    assert "data.select.series" in caught.value.hint


def test_a_tie_is_settled_by_the_thinnest_or_all_are_taken(tmp_path):
    made(tmp_path / "a", 10, 5.0, series="a")
    made(tmp_path / "b", 25, 2.0, series="b")
    series, _ = scan(tmp_path)
    with pytest.raises(SeriesTie, match="2 series of one study fit equally well"):
        choose(series, Select.model_validate({}))
    thin = choose(series, Select.model_validate({"tie": "thinnest"}))
    assert [s.n_slices for s in thin.kept] == [25]
    assert thin.left_out[0][1] == "thicker slices (5 mm)"
    assert len(choose(series, Select.model_validate({"tie": "all"})).kept) == 2


def test_rules_by_modality_and_description(tmp_path):
    made(tmp_path / "a", series="a", description="Thorax 2.0 soft")
    made(tmp_path / "b", series="b", description="Abdomen")
    series, _ = scan(tmp_path)
    choice = choose(series, Select.model_validate({"description": "thorax"}))
    assert [s.description for s in choice.kept] == ["Thorax 2.0 soft"]
    none = choose(series, Select.model_validate({"modality": "MR"}))
    assert none.kept == ()
    assert {reason for _, reason in none.left_out} == {"modality CT, not MR"}


def test_two_studies_are_chosen_from_one_by_one(tmp_path):
    made(tmp_path / "a", study="1", series="a")
    made(tmp_path / "b", study="2", series="b")
    assert len(choose(scan(tmp_path)[0], Select.model_validate({})).kept) == 2


@pytest.mark.parametrize(
    ("values", "differs"),
    [
        ({"TemporalPositionIdentifier": (1, 2)}, "temporal position"),
        ({"AcquisitionNumber": (1, 2)}, "acquisition"),
        ({"TriggerTime": (0, 400)}, "trigger time 400"),
        ({"EchoNumbers": (1, 2)}, "echo"),
        ({"DiffusionBValue": (0.0, 800.0)}, "b-value 800"),
        ({"ImageType": (["ORIGINAL", "PRIMARY", "W"], ["ORIGINAL", "PRIMARY", "F"])}, "image type"),
        ({"ConvolutionKernel": ("B30f", "B70f")}, "kernel"),
        ({"ContrastBolusAgent": ("", "yes")}, "contrast agent"),
    ],
)
def test_phases_of_one_series_are_two_candidates_each_complete_and_named(tmp_path, values, differs):
    phases(tmp_path, **values)
    series, left = scan(tmp_path)
    assert left == []
    assert [s.n_slices for s in series] == [8, 8]
    assert any(differs in s.describe() for s in series)
    assert series[0].id != series[1].id
    means = {float(read_image(list(s.files)).array.mean()) for s in series}
    assert means == {0.0, 100.0}


def test_times_that_differ_in_every_file_do_not_split_a_volume(tmp_path):
    for number, file in enumerate(made(tmp_path)):
        header = pydicom.dcmread(file)
        header.AcquisitionTime, header.AcquisitionNumber = f"1200{number:02d}", number
        header.save_as(file)
    series, _ = scan(tmp_path)
    assert [s.n_slices for s in series] == [8]


def test_a_series_with_a_damaged_file_is_not_taken_as_if_it_were_whole(tmp_path):
    files = made(tmp_path)
    files[-1].write_bytes(files[-1].read_bytes()[:-20])
    series, left = scan(tmp_path)
    choice = choose(series, Select.model_validate({}))
    assert choice.kept == ()
    assert "1 of its files are damaged (pixel data is 20 bytes short)" in choice.left_out[0][1]
    assert [item.file for item in left] == [files[-1]]


@pytest.mark.parametrize("field", ["Rows", "ImagePositionPatient", "PixelSpacing", "PixelData"])
def test_a_series_whose_last_picture_cannot_be_placed_is_not_taken_as_if_it_were_whole(tmp_path, field):
    last = made(tmp_path)[-1]
    header = pydicom.dcmread(last)
    delattr(header, field)
    header.save_as(last)
    series, _ = scan(tmp_path)
    choice = choose(series, Select.model_validate({}))
    assert choice.kept == ()
    assert "1 of its files are damaged" in choice.left_out[0][1]


def test_stacks_that_lean_a_little_against_each_other_are_told_apart_by_name(tmp_path):
    for number, file in enumerate(made(tmp_path)):
        header = pydicom.dcmread(file)
        header.ImageOrientationPatient = [1, 0.002 * (number % 2), 0, 0, 1, 0]
        header.save_as(file)
    series, _ = scan(tmp_path)
    assert [one.n_slices for one in series] == [4, 4]
    assert len({one.key for one in series}) == 2
    named = choose(series, Select.model_validate({"series": [series[1].id]}))
    assert [one.files for one in named.kept] == [series[1].files]
    assert [one.files for one, _ in named.left_out] == [series[0].files]


def test_a_regular_series_is_preferred_to_one_with_a_hole_and_a_lone_holed_one_is_kept(tmp_path):
    files = made(tmp_path / "a", series="a")
    files[5].unlink()
    alone = choose(scan(tmp_path)[0], Select.model_validate({}))
    assert len(alone.kept) == 1
    made(tmp_path / "b", series="b")
    choice = choose(scan(tmp_path)[0], Select.model_validate({}))
    assert [s.n_slices for s in choice.kept] == [8]
    assert "1 slice(s) missing between instance 5 and instance 7" in choice.left_out[0][1]


def test_every_file_is_accounted_for(study, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "zero.dcm").write_bytes(b"")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 200)
    first = study[-1]
    (tmp_path / "copy.dcm").write_bytes(first.read_bytes())
    series, left = scan(tmp_path)
    everything = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    found = sorted([f for s in series for f in s.files] + [item.file for item in left])
    assert found == everything
    reasons = {item.file.name: item.reason for item in left if item.file.suffix != ""}
    assert reasons["notes.txt"] == "not a DICOM file"
    assert reasons["zero.dcm"] == "empty file (0 bytes)"


def test_a_multi_frame_file_of_two_volumes_is_a_conflict_not_a_stack(shared_data):
    series, _ = scan(shared_data / "misc_dicom" / "enhanced" / "enhanced_mr_4d_siemens")
    assert [s.n_slices for s in series] == [25, 25]
    assert all(len(s.files) == 1 for s in series)


def test_rules_by_plane_and_kernel_say_why_others_were_left(tmp_path):
    made(tmp_path / "axial", series="a", kernel="B30f")
    made(tmp_path / "sharp", series="b", kernel="B70f")
    made(tmp_path / "coronal", series="c", kernel="B30f", plane="coronal")
    series, _ = scan(tmp_path)
    choice = choose(series, Select.model_validate({"plane": "axial", "kernel": "b3*"}))
    assert [(s.orientation, s.kernel) for s in choice.kept] == [("axial", "B30f")]
    assert sorted(reason for _, reason in choice.left_out) == ["coronal, not axial", "kernel B70f, not b3*"]
    unnamed = Select.model_validate({"kernel": "B70f", "plane": "coronal"})
    assert choose(series, unnamed).kept == ()
