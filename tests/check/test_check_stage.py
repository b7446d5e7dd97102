"""The step as a whole: nothing lost, nothing private shown, nothing done twice; bare folders and drafts."""

import csv
import json
import re
import time

import numpy as np
import pandas as pd
import pytest

from medseg.check import stage
from medseg.check.folder import check_folder
from medseg.check.init import draft_pipeline
from medseg.config import Pipeline
from medseg.config_file import load_pipeline
from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.run import RunFolder
from medseg.data.cohort import find_cases, load_cohort

CLASSES = {"one": 1, "two": 2}


def test_a_hundred_cases_with_twelve_kinds_of_damage_add_up(tmp_path, run_check, volume, scan, mask):
    root = tmp_path / "data"
    for i in range(100):
        volume(root / "images" / f"c{i:03d}.nii.gz", scan + np.int16(i))
        volume(root / "labels" / f"c{i:03d}.nii.gz", mask)
    image, label = root / "images", root / "labels"
    bad = np.array(scan, np.float32)
    bad[0, 0, 0] = np.nan
    strange = mask.copy()
    strange[0, 0, 0] = 77
    (image / "c000.nii.gz").write_bytes(b"")
    (image / "c001.nii.gz").write_text("no image")
    (image / "c002.nii.gz").write_bytes((image / "c003.nii.gz").read_bytes()[:200])
    volume(image / "c004.nii.gz", bad)
    volume(image / "c005.nii.gz", np.stack([scan, scan], -1))
    (label / "c006.nii.gz").write_bytes(b"")
    (label / "c007.nii.gz").write_bytes((label / "c008.nii.gz").read_bytes()[:90])
    volume(label / "c009.nii.gz", strange)
    volume(label / "c010.nii.gz", mask, shift_mm=7.5)
    volume(label / "c011.nii.gz", mask[:-1])
    volume(label / "c012.nii.gz", mask * np.float32(0.4))
    (label / "c013.nii.gz").unlink()
    result, folder = run_check(root=str(root), classes=CLASSES)
    assert result.counts() == {"done": 88, "failed": 11, "skipped": 1, "review": 0}
    named = sorted({**result.failed, **result.skipped})
    assert named == sorted(f"c{i:03d}" for i in (0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13))
    table = pd.read_parquet(folder.cases)
    assert table["status"].value_counts().to_dict() == {"ok": 88, "failed": 11, "skipped": 1}
    assert len(load_cohort(folder).rows) == 88


def test_the_table_of_failed_cases_is_a_table_of_cases(cohort, run_check, volume, scan):
    root = cohort()
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    _, folder = run_check(root=str(root), classes=CLASSES)
    failed = folder.private / "failed.csv"
    with failed.open() as file:
        (line,) = csv.DictReader(file)
    assert line["case"] == "case_1"
    volume(root / "images" / "case_1.nii.gz", scan)
    result, _ = run_check("threshold-otsu", manifest=str(failed), classes=CLASSES)
    assert result.done == 1
    assert not failed.exists()


def canaries(tmp_path, scan, mask, volume):
    """A DICOM tree whose headers, folders and files all carry a canary."""
    import pydicom

    from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

    for i in range(3):
        folder = tmp_path / "CANARYroot" / f"CANARYname{i}" / f"CANARYscan{i}"
        files = write_ct_series(
            scan + np.int16(i), Geometry.from_spacing(scan.shape, (1, 1, 2.5)), folder,
            patient=f"CANARYid{i}", facts=SeriesFacts(study=f"s{i}"), name="CANARYslice",
        )  # fmt: skip
        for file in files:
            header = pydicom.dcmread(file)
            for field in ("PatientName", "PatientBirthName", "OtherPatientIDs", "AccessionNumber", "InstitutionName",
                          "ReferringPhysicianName", "StudyDescription", "SeriesDescription", "ProtocolName",
                          "PatientComments", "StationName", "OperatorsName", "StudyID"):  # fmt: skip
                setattr(header, field, f"CANARY{field[:8]}")
            header.PatientBirthDate = "19010203"
            header.save_as(file)
    (tmp_path / "CANARYroot" / "CANARYname0" / "CANARYscan0" / "CANARYempty.dcm").write_bytes(b"")
    victim = tmp_path / "CANARYroot" / "CANARYname2" / "CANARYscan2"
    sorted(victim.iterdir())[2].unlink()
    return tmp_path / "CANARYroot"


def test_no_name_path_or_header_value_leaves_the_private_folder(
    tmp_path, run_check, scan, mask, volume, capfd
):
    from medseg.core import progress

    root = canaries(tmp_path, scan, mask, volume)
    progress.be_quiet(False)
    result, folder = run_check("lung-threshold", root=str(root), classes=CLASSES, modality="ct")
    printed = "".join(capfd.readouterr())
    assert result.counts()["done"] == 2
    assert result.counts()["failed"] == 1
    written = [p for p in folder.path.rglob("*") if p.is_file() and "private" not in p.parts]
    assert {p.name for p in written} == {"cases.parquet", "check.json"}
    shown = b"".join(p.read_bytes() for p in written) + printed.encode() + json.dumps(vars(result)).encode()
    shown += str([c.line for c in (result,)]).encode()
    assert b"CANARY" not in shown
    assert b"19010203" not in shown
    assert b"CANARY" in folder.sources.read_bytes()
    (reason,) = result.failed.values()
    assert "slice" in reason
    assert "mm" in reason


def test_missing_slices_can_be_skipped(tmp_path, run_check, scan, mask, volume):
    root = canaries(tmp_path, scan, mask, volume)
    result, _ = run_check("lung-threshold", root=str(root), select={"irregular": "skip"})
    assert (result.done, len(result.skipped), len(result.failed)) == (2, 1, 0)
    result, _ = run_check("lung-threshold", root=str(root), select={"irregular": "resample"})
    assert result.done == 3


def test_a_patient_in_two_splits_stops_the_step(cohort, run_check):
    root = cohort(2)
    lines = [
        f"case_{i},p,images/case_{i}.nii.gz,labels/case_{i}.nii.gz,{s}"
        for i, s in enumerate(("train", "test"))
    ]
    (root / "m.csv").write_text("case,patient,image,label,split\n" + "\n".join(lines))
    with pytest.raises(UserError, match="a patient lies in two splits"):
        run_check(manifest=str(root / "m.csv"), classes=CLASSES)


def test_the_digest_of_the_data_changes_with_the_data_only(cohort, volume, scan):
    root = cohort()
    pipeline = Pipeline(name="t", system="u-net", data={"root": str(root)})
    folder = RunFolder(root / "run")
    before = stage.inputs(pipeline, folder)
    assert stage.inputs(pipeline, folder) == before
    volume(root / "images" / "case_0.nii.gz", scan + np.int16(9))
    changed = stage.inputs(pipeline, folder)
    assert changed != before
    (root / "images" / "case_0.nii.gz").unlink()
    assert stage.inputs(pipeline, folder) not in (before, changed)


def test_the_digest_follows_a_table_to_its_files(cohort, volume, scan):
    root = cohort(2)
    (root / "m.csv").write_text("case,image\na,images/case_0.nii.gz\n")
    pipeline = Pipeline(name="t", system="u-net", data={"manifest": str(root / "m.csv")})
    folder = RunFolder(root / "run")
    before = stage.inputs(pipeline, folder)
    volume(root / "images" / "case_1.nii.gz", scan)
    assert stage.inputs(pipeline, folder) == before
    volume(root / "images" / "case_0.nii.gz", scan[:-1])
    assert stage.inputs(pipeline, folder) != before


def test_content_hashes_tell_inputs_apart_and_not_their_times(cohort, run_check, volume, scan):
    root = cohort()
    _, folder = run_check(root=str(root), classes=CLASSES)
    before = pd.read_parquet(folder.cases).set_index("case")["content"]
    (root / "images" / "case_0.nii.gz").touch()
    volume(root / "images" / "case_1.nii.gz", scan + np.int16(50))
    _, folder = run_check(root=str(root), classes=CLASSES)
    after = pd.read_parquet(folder.cases).set_index("case")["content"]
    assert list((before != after)[lambda changed: changed].index) == ["case_1"]


def test_the_grid_facts_of_every_case_are_kept(cohort, run_check):
    _, folder = run_check(root=str(cohort()), classes=CLASSES)
    row = pd.read_parquet(folder.cases).iloc[0]
    assert list(row["shape"]) == [8, 8, 6]
    assert list(row["spacing"]) == pytest.approx([1, 1, 2.5])
    assert (row["axis_codes"], row["channels"], row["dtype"]) == ("RAS", 1, "int16")
    assert json.loads(row["voxels"]) == {"one": 8, "two": 4}
    assert json.loads(row["volumes_ml"]) == pytest.approx({"one": 0.02, "two": 0.01})


def test_another_release_of_a_described_set_is_noted_not_refused(shared_data, run_check, tmp_path):
    source = shared_data / "em_membrane"
    for part in ("images", "labels"):
        (tmp_path / "em_membrane" / part).mkdir(parents=True)
        for number in (0, 13, 16):
            name = f"em_{number:02d}.png"
            (tmp_path / "em_membrane" / part / name).write_bytes((source / part / name).read_bytes())
    result, folder = run_check(manifest="em_membrane", root=str(tmp_path))
    assert result.done == 3
    assert any(
        "the files are not those of the description" in n for n in read_json(folder.check_json)["notes"]
    )


@pytest.mark.parametrize(
    ("name", "done"), [("hippocampus", 200), ("small_ct_labelled", 4), ("xray", 39), ("chest_ct_dicom", 2)]
)
def test_the_real_sets_pass(shared_data, run_check, name, done):
    start = time.monotonic()
    result, folder = run_check("threshold-otsu", manifest=name, root=str(shared_data))
    assert result.counts() == {"done": done, "failed": 0, "skipped": 0, "review": 0}
    facts = read_json(folder.check_json)
    assert not any("checksum" in note for note in facts["notes"])
    assert time.monotonic() - start < 120


def test_the_wrong_organ_and_grid_of_the_hippocampus_set_are_refused(shared_data, run_check, tmp_path):
    images, awkward = shared_data / "hippocampus" / "images", shared_data / "hippocampus" / "awkward"
    (tmp_path / "m.csv").write_text(
        "case,image,label\n"
        f"good,{images / 'hippocampus_001.nii.gz'},{images.parent / 'labels' / 'hippocampus_001.nii.gz'}\n"
        f"organ,{images / 'hippocampus_003.nii.gz'},{awkward / 'hippocampus_281_label_of_another_organ_and_grid.nii.gz'}\n"
        f"bright,{awkward / 'hippocampus_160_image_float32_up_to_1e6.nii.gz'},{awkward / 'hippocampus_160_label.nii.gz'}\n"
        f"unlabelled,{awkward / 'hippocampus_118_image_without_label.nii.gz'},\n"
    )
    result, folder = run_check(manifest=str(tmp_path / "m.csv"), classes={"anterior": 1, "posterior": 2})
    assert "different shapes" in result.failed["organ"]
    assert list(result.skipped) == ["unlabelled"]
    assert pd.read_parquet(folder.cases).set_index("case").loc["bright", "maximum"] > 9e5


# --- bare folders and drafts --------------------------------------------------------------------------------------


def test_a_bare_folder_is_checked_without_a_pipeline_file(cohort):
    root = cohort(3)
    (root / "images" / "case_1.nii.gz").write_bytes(b"")
    facts = check_folder(root)
    assert facts["counts"] == {"done": 2, "failed": 1, "skipped": 0, "review": 0}
    assert "case_1" in facts["failed"]
    assert [c["name"] for c in facts["classes"]] == ["class 1", "class 2"]


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check_folder(tmp_path / "gone")


@pytest.mark.parametrize("name", ["daten", "Daten für 肺: (1)"])
def test_the_draft_of_a_pipeline_file_is_valid_and_finds_the_data(cohort, tmp_path, name):
    root = cohort(name=name)
    path = tmp_path / "draft.yaml"
    path.write_text(draft_pipeline(root), encoding="utf-8")
    pipeline = load_pipeline(path)
    assert pipeline.data.modality == "ct"
    assert list(pipeline.data.classes) == ["class 1", "class 2"]
    assert pipeline.only_system.name == "3d-u-net"
    assert len(find_cases(pipeline.data).rows) == 4


def test_the_draft_names_label_columns(cohort, volume, mask, tmp_path):
    root = cohort(2)
    (root / "labels").rename(root / "labels_lung")
    volume(root / "labels_heart" / "case_0.nii.gz", mask)
    path = tmp_path / "draft.yaml"
    path.write_text(draft_pipeline(root))
    classes = load_pipeline(path).data.classes
    assert {name: spec.column for name, spec in classes.items()}["heart 1"] == "label_heart"


@pytest.mark.parametrize(
    ("folder", "modality", "system"),
    [("hippocampus", "mr", "3d-u-net"), ("camvid", "photo", "u-net"), ("chest_ct_dicom", "ct", "3d-u-net")],
)
def test_drafts_for_real_folders_load(shared_data, tmp_path, folder, modality, system):
    path = tmp_path / "draft.yaml"
    text = draft_pipeline(shared_data / folder)
    path.write_text(text)
    pipeline = load_pipeline(path)
    assert (pipeline.data.modality, pipeline.only_system.name) == (modality, system)
    assert re.match(r"# Written by `medseg init`. Found: ", text)


def test_the_draft_takes_the_likeliest_of_several_kinds_of_images_and_names_the_others(
    volume, scan, mask, tmp_path
):
    for sub in ("01", "02"):
        for kind in ("T1w", "T2w"):
            volume(tmp_path / "bids" / f"sub-{sub}/anat/sub-{sub}_{kind}.nii.gz", scan)
        volume(tmp_path / "bids" / f"derivatives/x/sub-{sub}/anat/sub-{sub}_space-T2w_dseg.nii.gz", mask)
    path = tmp_path / "draft.yaml"
    path.write_text(draft_pipeline(tmp_path / "bids"))
    assert (
        "channels: [T2w]  # the kind of image, as the names end; there is also [T1w], [T2w, T1w]"
        in path.read_text()
    )
    cohort = find_cases(load_pipeline(path).data)
    assert [bool(row.labels) for row in cohort.rows] == [True, True]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"ingest": {"spacing_mm": [2, 2]}}, r"\[2.0, 2.0\] for 3D images(.|\n)*give 3 positive numbers in mm"),
        ({"ingest": {"spacing_mm": [1e-3, 1e-3, 1e-3]}, "compute": {"ram": "8 GB"}}, r"960,000,000,000 voxels .* 7,680.0 GB, of 8.0 GB"),
        ({"train": {"patch_size": [32, 32]}}, r"\[32, 32\] has 2 numbers for 3D images"),
        ({"predict": {"window": [96, 96]}}, r"\[96, 96\] has 2 numbers for 3D images(.|\n)*left-right first"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_meant_is_refused_after_one_case(
    cohort, tmp_path, monkeypatch, sections, words
):
    from medseg.check import look

    monkeypatch.setattr(look, "map_cases", lambda *_, **__: pytest.fail("all cases are read"))
    values = {"name": "t", "system": {"name": "3d-u-net", "size": "tiny"}, "data": {"root": str(cohort()), "classes": CLASSES}}  # fmt: skip
    with pytest.raises(UserError, match=words):
        stage.run(Pipeline(**values, **sections), RunFolder(tmp_path / "run"))


def test_photographs_have_no_grid_in_mm_and_that_is_said_after_one_case(tmp_path):
    from PIL import Image

    for kind, value in (("images", 90), ("labels", 1)):
        (tmp_path / "d" / kind).mkdir(parents=True)
        for n in range(3):
            Image.fromarray(np.full((16, 16), value + (n if kind == "images" else 0), np.uint8)).save(
                tmp_path / "d" / kind / f"p{n}.png"
            )
    values = {"name": "t", "system": {"name": "u-net", "size": "tiny"}, "ingest": {"spacing_mm": [1, 1, 1]}}
    with pytest.raises(UserError, match="for images without a size in mm"):
        stage.run(
            Pipeline(**values, data={"root": str(tmp_path / "d"), "modality": "photo", "classes": {"a": 1}}),
            RunFolder(tmp_path / "run"),
        )
