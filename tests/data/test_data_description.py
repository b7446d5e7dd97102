"""Descriptions of public sets: complete, found as they lie, and telling where to get what is not here."""

import re
from collections import Counter
from pathlib import Path

import pytest

from medseg.config import ClassSpec, Data
from medseg.core.errors import UserError
from medseg.data.cohort import find_cases, resolved
from medseg.data.description import is_description, load_description, shipped_names

SHIPPED = ["camvid", "chest_ct_dicom", "em_membrane", "hippocampus", "small_ct_labelled", "xray"]


def test_the_shipped_descriptions_are_these():
    assert shipped_names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_description_says_licence_citation_classes_and_checksum(name):
    description = load_description(name)
    assert description.name == name
    assert description.licence
    assert description.citation
    assert description.home.startswith("http")
    assert description.classes
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", description.checksum)
    assert all(spec.colour for spec in description.classes.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_set_that_is_not_here_says_where_to_get_it(name, tmp_path):
    with pytest.raises(UserError) as caught:
        find_cases(Data(manifest=name), tmp_path)
    text = str(caught.value)
    description = load_description(name)
    assert description.home in text
    assert description.licence in text
    assert "looked for" in text
    assert "MEDSEG_DATA" in text


@pytest.mark.parametrize(
    ("name", "cases", "splits"),
    [
        ("camvid", 585, {"train": 367, "val": 101, "test": 117}),
        ("chest_ct_dicom", 2, None),
        ("em_membrane", 20, {"train": 13, "val": 3, "test": 4}),
        ("hippocampus", 200, {"train": 160, "val": 40}),
        ("small_ct_labelled", 4, None),
        ("xray", 39, {"train": 31, "val": 8}),
    ],
)
@pytest.mark.parametrize("parent", [True, False], ids=["parent folder", "own folder"])
def test_a_set_is_found_as_it_lies(shared_data, name, cases, splits, parent):
    root = shared_data if parent else shared_data / name
    cohort = find_cases(Data(manifest=name), root)
    assert len(cohort.rows) == cases
    assert not any(row.trouble for row in cohort.rows)
    if splits:
        assert Counter(row.split for row in cohort.rows) == splits


def test_no_film_of_camvid_lies_in_two_parts_of_a_split(shared_data):
    rows = find_cases(Data(manifest="camvid", ids="names"), shared_data).rows
    assert {row.patient for row in rows if row.split == "train"} == {
        "train-0001TP",
        "train-0006R0",
        "train-0016E5",
    }


def test_blocks_of_neighbouring_sections_stay_together(shared_data):
    rows = find_cases(Data(manifest="em_membrane"), shared_data).rows
    order = [row.split for row in sorted(rows, key=lambda r: r.case)]
    assert order == ["train"] * 13 + ["val"] * 3 + ["test"] * 4


def test_what_the_pipeline_file_says_wins_over_the_description():
    data = resolved(Data(manifest="camvid"))
    assert (data.modality, data.background, data.ignore, len(data.classes)) == ("photo", None, 11, 11)
    data = resolved(Data(manifest="camvid", modality="other", classes={"road": ClassSpec(values=[3])}))
    assert (data.modality, list(data.classes), data.classes["road"].colour) == (
        "other",
        ["road"],
        (128, 64, 128),
    )


def test_resolving_twice_changes_nothing():
    once = resolved(Data(manifest="xray"))
    assert resolved(once) == once
    assert once.overlapping


def test_each_ct_brings_its_own_label_values(shared_data):
    data = Data(manifest="small_ct_labelled", classes={"lung": 1, "spleen": 2})
    rows = {row.case: row for row in find_cases(data, shared_data).rows}
    assert rows["abdomen_3mm"].values["lung"] == ("label", (10, 11, 12, 13, 14))
    assert rows["spleen2"].known == ("spleen",)
    assert rows["thorax_vessels_3mm"].labels == {}


def test_an_unknown_description_offers_the_shipped_ones():
    with pytest.raises(UserError, match="shipped: camvid, chest_ct_dicom"):
        find_cases(Data(manifest="hipocampus"), Path("."))


def test_a_fault_in_a_description_is_named_by_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntitle: t\nhome: h\nlicense: MIT\ncitation: c\nmodality: ct\ngroups: []\n")
    with pytest.raises(UserError) as caught:
        find_cases(Data(manifest=str(path)), tmp_path)
    assert "mine.yaml line 4  license: unknown key, did you mean licence" in str(caught.value)


def test_a_pattern_may_name_channels_splits_and_labels_by_column(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntitle: t\nhome: h\nlicence: MIT\ncitation: c\nmodality: mr\nclasses: {core: {values: 1, column: core}}\n"
        "groups:\n  - images: {t1: '{split}/{case}/t1.nii.gz', t2: '{split}/{case}/t2.nii.gz'}\n"
        "    labels: {core: '{split}/{case}/core.nii.gz'}\nchannels: [t1, t2]\n"
    )
    for name in ("train/a/t1", "train/a/t2", "train/a/core", "test/b/t1", "other/c/t1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.nii.gz").write_bytes(b"x")
    cohort = find_cases(Data(manifest=str(path)), tmp_path)
    assert {r.case: (r.split, len(r.images), list(r.labels), r.trouble) for r in cohort.rows} == {
        "a": ("train", 2, ["label_core"], ""),
        "b": ("test", 2, [], "the file of channel 2 does not exist"),
    }
    assert cohort.channels == ("t1", "t2")


@pytest.mark.parametrize(
    ("name", "answer"), [("hippocampus", True), ("x/y.yaml", True), ("cases.csv", False), (None, False)]
)
def test_a_manifest_is_a_description_or_a_table(name, answer):
    assert is_description(name) is answer
