"""A table of cases, and every fault of it by its line."""

from pathlib import Path

import pandas as pd
import pytest

from medseg.config import Data
from medseg.core.errors import UserError
from medseg.data.manifest import read_manifest, safe_name


def table(folder: Path, text: str, name: str = "cases.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz", "a_label.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_a_table_gives_its_rows(files):
    found = read_manifest(table(files, "case,patient,image,label,split,fold\n"
                                       "one,p1,a.nii.gz,a_label.nii.gz,Training,0\n"
                                       "two,p2,b.nii.gz,,validation,\n"), Data())  # fmt: skip
    one, two = found.rows
    assert (one.case, one.patient, one.split, one.fold) == ("one", "p1", "train", 0)
    assert one.images == ((str(files / "a.nii.gz"),),)
    assert one.labels == {"label": str(files / "a_label.nii.gz")}
    assert two.split == "val"
    assert two.labels == {}
    assert found.patients_known


def test_only_the_image_is_needed(files):
    found = read_manifest(table(files, "image\na.nii.gz\nb.nii.gz\n"), Data())
    assert [row.case for row in found.rows] == ["a", "b"]
    assert not found.patients_known


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_comma_semicolon_and_tab_are_read_with_a_byte_order_mark(files, separator):
    path = files / "m.csv"
    path.write_text(f"Case{separator}Image\nä 肺{separator}a.nii.gz\n", encoding="utf-8-sig")
    assert read_manifest(path, Data()).rows[0].case == "ä 肺"


def test_parquet_is_read_like_csv(files):
    pd.DataFrame({"case": ["x", "y"], "image": ["a.nii.gz", "b.nii.gz"], "fold": [1.0, None]}).to_parquet(
        files / "m.parquet"
    )
    rows = read_manifest(files / "m.parquet", Data()).rows
    assert [row.fold for row in rows] == [1, None]


def test_channels_come_in_the_order_of_the_pipeline_file(files):
    path = table(files, "case,image_t2,image_t1\nx,a.nii.gz,b.nii.gz\n")
    (row,) = read_manifest(path, Data(channels=["t1", "t2"])).rows
    assert [Path(c[0]).name for c in row.images] == ["b.nii.gz", "a.nii.gz"]


def test_a_channel_without_a_column_is_named(files):
    path = table(files, "case,image_t1,image_flair\nx,a.nii.gz,b.nii.gz\n")
    with pytest.raises(UserError, match=r"no column 'image_flare', did you mean image_flair"):
        read_manifest(path, Data(channels=["t1", "flare"]))


def test_one_missing_channel_is_the_fault_of_its_case(files):
    path = table(files, "case,image_t1,image_t2\nx,a.nii.gz,\ny,a.nii.gz,b.nii.gz\n")
    x, y = read_manifest(path, Data(channels=["t1", "t2"])).rows
    assert x.trouble == "line 2 of the table: no file for channel 't2' (column 'image_t2' is empty)"
    assert y.trouble == ""


def test_a_missing_file_is_named_by_line_without_its_path(files):
    path = table(files, "case,image,label\nx,a.nii.gz,a_label.nii.gz\n\ny,gone.nii.gz,gone_label.nii.gz\n")
    x, y = read_manifest(path, Data()).rows
    assert x.trouble == ""
    assert "line 4 of the table: the file in column 'image' does not exist" in y.trouble
    assert "line 4 of the table: the file in column 'label' does not exist" in y.trouble
    assert "gone" not in y.trouble


def test_all_faults_of_a_table_are_told_at_once_with_their_lines(files):
    path = table(files, "case,image,split,fold\na,a.nii.gz,trian,\nb,b.nii.gz,,two\nA,b.nii.gz,,\n")
    with pytest.raises(UserError) as caught:
        read_manifest(path, Data())
    assert caught.value.faults == (
        "line 2: 'trian' is no split, did you mean train? (train, val, test)",
        "line 3: 'two' is no fold (0, 1, 2 ...)",
        "line 4: the case name 'A' was already given in line 2",
    )
    assert "has 3 faults" in str(caught.value)


def test_one_image_under_two_names_is_a_fault(files):
    with pytest.raises(UserError, match="line 3: the same image as in line 2"):
        read_manifest(table(files, "case,image\na,a.nii.gz\nb,a.nii.gz\n"), Data())


def test_a_table_without_an_image_column_says_what_it_has(files):
    with pytest.raises(UserError) as caught:
        read_manifest(table(files, "case,imgae\na,a.nii.gz\n"), Data())
    assert "no column 'image'" in str(caught.value)
    assert "(is 'imgae' meant as 'image'?)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,image,image\n", "the column 'image' stands there twice"),
        ("case,image,image_t1\nx,a,b\n", "both 'image' and image_t1"),
        ("case,image\n", "the table has no rows"),
        ("", "cannot be read as a table"),
        ("case,image\nx,a,b,c,d\ny,b\n", "line 2: 5 cells for 2 columns"),
    ],
)
def test_a_broken_table_is_refused_in_words(files, text, message):
    with pytest.raises(UserError, match=message):
        read_manifest(table(files, text), Data())


def test_a_table_in_another_encoding_is_refused_in_words(files):
    (files / "m.csv").write_bytes("case,image\nä,a.nii.gz\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_manifest(files / "m.csv", Data())


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match="no such table of cases"):
        read_manifest(tmp_path / "none.csv", Data())


def test_paths_are_found_beside_the_table_and_below_the_data_root(files, tmp_path):
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    (row,) = read_manifest(table(elsewhere, "image\na.nii.gz\n"), Data(), files).rows
    assert row.trouble == ""
    assert row.images == ((str(files / "a.nii.gz"),),)


def test_paths_may_be_spelled_as_windows_does(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii.gz").touch()
    (tmp_path / "t.csv").write_text("case,image\na,images\\a.nii.gz\n")
    row = read_manifest(tmp_path / "t.csv", Data(), tmp_path).rows[0]
    assert not row.trouble
    assert Path(row.images[0][0]) == tmp_path / "images" / "a.nii.gz"


def test_a_dicom_folder_is_an_image_and_hidden_files_are_no_slices(tmp_path):
    folder = tmp_path / "patient one"
    folder.mkdir()
    for name in ("IM2", "IM1", ".DS_Store", "._IM1"):
        (folder / name).write_bytes(b"x")
    (row,) = read_manifest(table(tmp_path, "case,image\nx,patient one/\n"), Data()).rows
    assert [Path(f).name for f in row.images[0]] == ["IM1", "IM2"]


def test_known_classes_are_read(files):
    (row,) = read_manifest(table(files, "image,known\na.nii.gz,liver | spleen\n"), Data()).rows
    assert row.known == ("liver", "spleen")


def test_columns_that_are_not_used_are_said(files):
    found = read_manifest(table(files, "image,age\na.nii.gz,40\n"), Data())
    assert found.notes == ("columns not used: age",)


@pytest.mark.parametrize(
    ("given", "safe"),
    [("../../etc/passwd", "_.._etc_passwd"), ("Fall 1: ä/肺", "Fall 1_ ä_肺"), ("..", "case")],
)
def test_a_case_name_can_name_a_file(given, safe):
    assert safe_name(given) == safe
