"""The cache: keyed by bytes, plan and code; whole or absent; handed out read-only."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan
from medseg.config_plan import save_plan
from medseg.core import ClassInfo, Geometry, UserError
from medseg.core.run import RunFolder
from medseg.ingest import cache
from medseg.ingest import stage as ingest
from medseg.ingest.cache import open_prepared, plan_key, store_case
from medseg.ingest.prepare import PreparedImage

CLASSES = [ClassInfo(name, k + 1, (0, 0, 0)).as_json() for k, name in enumerate(("lung", "heart"))]


def _plan(**more):
    facts = {"dims": 3, "in_channels": 1, "classes": CLASSES, "out_channels": 3, "spacing_mm": [2.0, 2.0, 2.0], "image_order": 1,
                 "intensity": [IntensityPlan(scheme="zscore")], "patch_size": [8] * 3, "batch_size": 1}  # fmt: skip
    return Plan(**{**facts, **more})


def _stored(path, shape=(70, 40, 33), channels=1, regions=0, background=True, values=None):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (channels, *shape)).astype(np.float32) if values is None else values
    target = rng.integers(0, 3, (*(regions,) * bool(regions), *shape)).astype(np.uint8)
    if regions:
        target = np.minimum(target, 1)
    geometry = (
        Geometry.from_spacing(shape, (1.0,) * len(shape)) if len(shape) == 3 else Geometry.pixels(shape)
    )
    prepared = PreparedImage(
        image, geometry, geometry, tuple(range(len(shape))), (), (0,) * len(shape), shape
    )
    store_case(path, prepared, target, {"key": "k", "background": background, "known": ["lung"]})
    return image, target


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("shape", "regions"), [((70, 40, 33), 0), ((70, 40, 33), 2), ((300, 80), 0)])
def test_boxes_are_read_back_as_they_were_stored(tmp_path, keep, shape, regions):
    image, target = _stored(tmp_path / "a", shape, channels=2, regions=regions)
    case = open_prepared(tmp_path / "a", keep=keep)
    low, high = (5, 3, 1)[: len(shape)], (68, 39, 30)[: len(shape)]
    box = tuple(slice(a, b) for a, b in zip(low, high))
    assert (case.shape, case.channels, case.regions, case.known) == (shape, 2, regions, ("lung",))
    assert np.abs(case.read_image(low, high) - image[(slice(None), *box)]).max() < 2e-3
    assert (case.read_target(low, high) == target[(..., *box)]).all()


def test_several_threads_read_one_compressed_case(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    image, _ = _stored(tmp_path / "a", (96, 96, 64))
    case = open_prepared(tmp_path / "a")
    rng = np.random.default_rng(0)
    lows = [tuple(int(n) for n in rng.integers(0, 32, 3)) for _ in range(60)]

    def wrong(low):
        high = [n + 32 for n in low]
        expected = image[(slice(None), *(slice(a, b) for a, b in zip(low, high)))]
        return np.abs(case.read_image(low, high) - expected).max() > 2e-3

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(wrong, lows))


def test_beyond_the_edges_lie_zeros_and_background(tmp_path):
    image, target = _stored(tmp_path / "a")
    case = open_prepared(tmp_path / "a")
    box = case.read_image((-4, 0, 30), (6, 5, 40))
    assert box.shape == (1, 10, 5, 10)
    assert (box[:, :4] == 0).all()
    assert (box[..., 3:] == 0).all()
    assert np.abs(box[:, 4:, :, :3] - image[:, :6, :5, 30:33]).max() < 2e-3
    assert (case.read_target((-4, 0, 30), (6, 5, 40))[4:, :, :3] == target[:6, :5, 30:33]).all()
    assert (case.read_target((100, 0, 0), (104, 4, 4)) == 0).all()


def test_without_background_the_outside_is_ignored(tmp_path):
    _stored(tmp_path / "a", background=False)
    assert (open_prepared(tmp_path / "a").read_target((-2, 0, 0), (0, 4, 4)) == 255).all()


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_handed_out_cannot_be_written_to(tmp_path, keep):
    _stored(tmp_path / "a")
    case = open_prepared(tmp_path / "a", keep=keep)
    for array in (
        case.read_image((0, 0, 0), (4, 4, 4)),
        case.read_target((-1, 0, 0), (4, 4, 4)),
        case.foreground[0],
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


def test_foreground_voxels_lie_in_their_class_and_are_the_same_each_time(tmp_path):
    _, target = _stored(tmp_path / "a")
    first = open_prepared(tmp_path / "a").foreground
    assert sorted(first) == [0, 1]
    for position, voxels in first.items():
        assert len(voxels) == cache.FOREGROUND_SAMPLES
        assert len(np.unique(voxels, axis=0)) == len(voxels)
        assert (target[tuple(voxels.T)] == position + 1).all()
    _stored(tmp_path / "a")
    assert (open_prepared(tmp_path / "a").foreground[1] == first[1]).all()


def test_a_rare_class_keeps_all_its_voxels():
    target = np.zeros((20, 20, 20), np.uint8)
    target[3, 4, 5] = target[3, 4, 6] = 2
    found = cache.foreground_voxels(target, background=True, regions=0, seed=1)
    assert list(found) == [1]
    assert found[1].tolist() == [[3, 4, 5], [3, 4, 6]]


def test_large_numbers_are_not_rounded_to_half_precision(tmp_path):
    values = np.full((1, 8, 8, 8), 70_001.0, np.float32)
    _stored(tmp_path / "a", (8, 8, 8), values=values)
    assert (open_prepared(tmp_path / "a").read_image((0, 0, 0), (8, 8, 8)) == 70_001.0).all()


def test_a_key_changes_with_spacing_labels_and_code_and_with_nothing_else(monkeypatch):
    key = plan_key(_plan(), "classes")
    assert plan_key(_plan(batch_size=7, patch_size=[4] * 3), "classes") == key
    assert plan_key(_plan(spacing_mm=[2.0, 2.0, 2.1]), "classes") != key
    assert plan_key(_plan(intensity=[IntensityPlan(scheme="none")]), "classes") != key
    assert plan_key(_plan(), "other classes") != key
    monkeypatch.setattr(cache, "code_version", lambda: "another")
    assert plan_key(_plan(), "classes") != key


def test_a_damaged_case_is_named(tmp_path):
    _stored(tmp_path / "a")
    (tmp_path / "a" / "image.b2nd").write_bytes(b"half a file")
    with pytest.raises(UserError, match="case a: the prepared case is damaged"):
        open_prepared(tmp_path / "a")


# --- the step -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """Three small NIfTI cases with labels, found, saved and planned; `.again()` runs the step."""
    import nibabel as nib

    from medseg.data.cohort import find_cases, save_cohort

    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(3):
        image = rng.normal(0, 1, (20, 18, 16)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[4:10, 4:10, 4:10], label[12:15, 12:15, 12:15] = 1, 2
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "data" / "images" / f"case{k}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "data" / "labels" / f"case{k}.nii.gz")
    pipeline = Pipeline.model_validate(
        {
            "name": "t",
            "data": {
                "root": str(tmp_path / "data"),
                "classes": {"lung": 1, "heart": 2},
                "split": {"folds": 3},
            },
            "system": {"name": "3d-u-net", "size": "tiny"},
            "ingest": {"workers": 1},
        }
    )
    folder = RunFolder(tmp_path / "run")
    save_cohort(find_cases(pipeline.data), folder)
    save_plan(_plan(), folder.plan)
    return SimpleNamespace(
        pipeline=pipeline, folder=folder, data=tmp_path / "data", again=lambda: ingest.run(pipeline, folder)
    )


def test_every_training_and_validation_case_is_prepared_once(cohort):
    first = cohort.again()
    assert (first.done, first.failed, first.details["new"]) == (3, {}, 3)
    assert cohort.again().details["new"] == 0
    cases = cache.prepared_cases(cohort.folder)
    assert list(cases) == ["case0", "case1", "case2"]
    assert open_prepared(cases["case0"]).shape == (10, 9, 8)
    assert not list(cohort.folder.prepared.rglob(".part-*"))


def test_a_touched_file_is_a_hit_and_a_changed_byte_a_miss(cohort):
    cohort.again()
    image = cohort.data / "images" / "case1.nii.gz"
    os.utime(image, (time.time() + 100, time.time() + 100))
    assert cohort.again().details["new"] == 0
    import nibabel as nib

    changed = nib.load(image)
    array = changed.get_fdata(dtype=np.float32)
    array[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(array, changed.affine), image)
    assert cohort.again().details["new"] == 1


def test_files_that_change_places_are_a_miss_and_new_names_are_none(tmp_path):
    from medseg.data.rows import CaseRow

    def content(images, **labels):
        for name in {*images, *labels.values()}:
            (tmp_path / name).write_bytes(name[:2].encode())
        place = {column: str(tmp_path / name) for column, name in labels.items()}
        return cache.content_of(CaseRow("c", "c", tuple((str(tmp_path / n),) for n in images), place))

    first = content(("t1.nii", "t2.nii"), label_a="la.nii", label_b="lb.nii")
    assert content(("t1_new.nii", "t2_new.nii"), label_a="la_new.nii", label_b="lb_new.nii") == first
    assert content(("t2.nii", "t1.nii"), label_a="la.nii", label_b="lb.nii") != first
    assert content(("t1.nii", "t2.nii"), label_a="lb.nii", label_b="la.nii") != first


def test_channels_that_were_exchanged_in_the_table_are_prepared_again(cohort):
    from medseg.data.cohort import find_cases, save_cohort

    images, labels = cohort.data / "images", cohort.data / "labels"

    def prepared(first, second):
        lines = ["case,image_t1,image_t2,label"]
        lines += [f"c{k},{images}/case{first[k]}.nii.gz,{images}/case{second[k]}.nii.gz,{labels}/case{k}.nii.gz"
                  for k in range(3)]  # fmt: skip
        (cohort.data / "cases.csv").write_text("\n".join(lines) + "\n")
        data = cohort.pipeline.data.model_copy(update={"manifest": str(cohort.data / "cases.csv")})
        pipeline = cohort.pipeline.model_copy(update={"data": data})
        save_cohort(find_cases(data), cohort.folder)
        save_plan(_plan(in_channels=2, intensity=[IntensityPlan(scheme="zscore")] * 2), cohort.folder.plan)
        ingest.run(pipeline, cohort.folder)
        case = open_prepared(cache.prepared_cases(cohort.folder)["c0"])
        return case.read_image((0, 0, 0), case.shape)

    before = prepared((0, 1, 2), (1, 2, 0))
    after = prepared((1, 2, 0), (0, 1, 2))
    assert (after == before[::-1]).all()
    assert (after != before).any()


def test_a_changed_spacing_is_a_miss(cohort):
    cohort.again()
    save_plan(_plan(spacing_mm=[1.0, 1.0, 1.0]), cohort.folder.plan)
    assert cohort.again().details["new"] == 3
    save_plan(_plan(), cohort.folder.plan)
    assert cohort.again().details["new"] == 0


def test_classes_that_the_networks_grid_loses_are_said_each_time(cohort, monkeypatch):
    said = []
    monkeypatch.setattr(ingest, "say", said.append)
    assert cohort.again().details["lost"] == {}
    save_plan(_plan(spacing_mm=[4.0, 4.0, 4.0]), cohort.folder.plan)
    for _ in range(2):
        assert cohort.again().details["lost"] == {"heart": 3}
    assert len(said) == 2
    assert said[0].startswith(
        "ingest   heart is lost in 3 of 3 cases: smaller than a voxel of the network's grid"
    )


def test_half_a_case_is_made_again(cohort):
    cohort.again()
    (cache.prepared_cases(cohort.folder)["case2"] / "case.json").unlink()
    assert cohort.again().details["new"] == 1


def test_what_a_killed_run_left_is_removed(cohort):
    cohort.again()
    place = cache.prepared_cases(cohort.folder)["case0"].parent
    (place / ".part-left").mkdir()
    (place / ".part-left" / "image.b2nd").write_bytes(b"half")
    cohort.again()
    assert not (place / ".part-left").exists()


def test_a_bad_case_is_counted_and_the_others_go_on(cohort):
    import nibabel as nib

    label = cohort.data / "labels" / "case1.nii.gz"
    nib.save(nib.Nifti1Image(np.full((20, 18, 16), 7, np.uint8), np.eye(4)), label)
    result = cohort.again()
    assert result.done == 2
    assert list(result.failed) == ["case1"]
    assert "7" in result.failed["case1"]
    assert sum(result.counts().values()) == 3


def test_when_all_cases_are_bad_the_step_says_so(cohort):
    for name in ("case0", "case1", "case2"):
        (cohort.data / "images" / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="not one of 3 cases could be prepared"):
        cohort.again()


def test_systems_that_read_cases_as_they_are_have_nothing_to_prepare(cohort):
    classical = cohort.pipeline.model_copy(
        update={"system": Pipeline(name="x", system="threshold-otsu").system}
    )
    assert (
        ingest.run(classical, cohort.folder).line
        == "nothing to prepare: threshold-otsu reads cases as they are"
    )
    given = cohort.pipeline.model_copy(
        update={"predict": cohort.pipeline.predict.model_copy(update={"model": "m"})}
    )
    assert "the model is given" in ingest.run(given, cohort.folder).line


def test_a_full_disk_stops_the_step_with_one_sentence(cohort, monkeypatch):
    import errno

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_pack", refuse)
    with pytest.raises(UserError, match="the disk is full"):
        cohort.again()
    assert not list(cohort.folder.prepared.rglob("*.b2nd"))
