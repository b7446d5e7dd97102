"""From files to classes: any integers, several label maps, regions, ignore, labels on other grids."""

from itertools import permutations, product

import numpy as np
import pytest

from medseg.config import ClassSpec, Data
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.label_values import value_counts
from medseg.core.segmentation import Segmentation
from medseg.data.classes import class_infos, side_of, specs_from_values
from medseg.data.label_grid import match_grid, onto_grid
from medseg.data.reading import open_case, read_label
from medseg.data.rows import CaseRow


@pytest.fixture
def case(tmp_path, volume, scan):
    """Writes an image and label maps; returns the row."""

    def make(label, image=scan, **more):
        labels = label if isinstance(label, dict) else {"label": label}
        files = {}
        for column, array in labels.items():
            shift = more.get("shift_mm", 0)
            files[column] = str(volume(tmp_path / f"{column}.nii.gz", array, shift_mm=shift))
        picture = str(volume(tmp_path / "image.nii.gz", image))
        rest = {k: v for k, v in more.items() if k != "shift_mm"}
        return CaseRow("x", "x", ((picture,),), files, **rest)

    return make


def label_of(row, data):
    return open_case(row, data, class_infos(data.classes, data.background, data.ignore)).label()


def test_any_integers_become_class_indices(case, mask):
    data = Data(classes={"a": 1035, "b": 2035})
    seg = label_of(case((mask.astype(np.int16) * 1000 + 35 * (mask > 0)).astype(np.int16)), data)
    assert [(c.name, seg.volume_ml(i)) for i, c in enumerate(seg.classes)] == [("a", 0.02), ("b", 0.01)]
    assert set(np.unique(seg.labels)) == {0, 1035, 2035}


def test_several_values_become_one_class(case, mask):
    data = Data(classes={"both": [1, 2]})
    seg = label_of(case(mask), data)
    assert np.array_equal(seg.labels, (mask > 0).astype(np.uint8))


def test_values_without_a_class_are_listed_with_their_voxels(case, mask):
    mask[0, 0, :3] = 7
    with pytest.raises(UserError) as caught:
        label_of(case(mask), Data(classes={"a": 1}))
    assert "label values that belong to no class: 2 (4 voxels), 7 (3 voxels); the classes are a 1" in str(
        caught.value
    )
    assert "data.classes" in caught.value.hint


def test_values_without_a_class_may_count_as_background(case, mask):
    seg = label_of(case(mask), Data(classes={"a": 1}, unnamed="background"))
    assert np.array_equal(seg.labels, mask == 1)


def test_nearly_whole_values_are_rounded_with_a_note_and_others_refused(case, mask):
    seg = label_of(case(mask * np.float32(1.0001)), Data(classes={"a": 1, "b": 2}))
    assert np.array_equal(seg.labels, mask)
    assert any("round" in note for note in seg.provenance["notes"])
    with pytest.raises(UserError, match=r"0\.5"):
        label_of(case(mask * np.float32(0.5)), Data(classes={"a": 1}))


def test_the_ignore_value_stays(case, mask):
    mask[0, 0, 0] = 255
    seg = label_of(case(mask), Data(classes={"a": 1, "b": 2}, ignore=255))
    assert seg.labels[0, 0, 0] == 255


def test_without_background_value_0_is_a_class(case, mask):
    data = Data(classes={"rest": 0, "a": 1, "b": 2}, background=None)
    seg = label_of(case(mask), data)
    assert seg.mask(0).sum() == (mask == 0).sum()


def test_a_class_with_the_background_s_value_is_refused():
    with pytest.raises(UserError, match="class 'sky' has the value 0, which is the background's"):
        class_infos({"sky": ClassSpec(values=[0])}, 0)


def test_a_class_that_would_be_ignored_everywhere_is_refused():
    with pytest.raises(UserError, match=r"class 'sky' has the value 11, which data\.ignore leaves out"):
        class_infos({"sky": ClassSpec(values=[3, 11])}, 0, 11)
    with pytest.raises(UserError, match="the value 0 is both the background and ignored"):
        class_infos({"sky": ClassSpec(values=[3])}, 0, 0)


def test_running_numbers_of_classes_leave_out_the_one_that_is_ignored(case, mask):
    mask[0, 0, :4] = (3, 4, 5, 6)
    data = Data(classes={"a": [1, 3], "b": [4, 5], "c": 6}, ignore=2)
    seg = label_of(case(mask), data)
    assert [info.index for info in seg.classes] == [1, 3, 4]
    assert np.array_equal(seg.mask(1), np.isin(mask, (4, 5)))
    assert np.array_equal(seg.labels == 2, mask == 2)


def test_a_class_of_value_0_is_told_from_a_background_of_another_value(case, mask):
    mask[mask == 2] = 255
    seg = label_of(case(mask), Data(classes={"sky": 0, "road": 1}, background=255))
    assert np.array_equal(seg.mask(0), mask == 0)
    assert np.array_equal(seg.mask(1), mask == 1)
    assert not seg.labels[mask == 255].any()


def test_label_maps_that_overlap_become_regions(case, mask):
    heart = np.zeros_like(mask)
    heart[2:6, 2:6, 3] = 1
    data = Data(classes={"lung": 1, "other": 2, "heart": {"values": 1, "column": "heart"}})
    seg = label_of(case({"label": mask, "label_heart": heart}), data)
    assert [int(seg.mask(i).sum()) for i in range(3)] == [8, 4, 16]
    assert (seg.mask(0) & seg.mask(2)).sum() == 4
    assert [c.index for c in seg.classes] == [1, 2, 3]


def test_regions_that_share_values_overlap(case, mask):
    data = Data(classes={"whole": [1, 2], "core": 2})
    seg = label_of(case(mask), data)
    assert [int(r.sum()) for r in seg.regions] == [12, 4]


def test_ignored_voxels_stay_marked_beside_regions(case, mask):
    mask[0, 0, 0] = 9
    seg = label_of(case(mask), Data(classes={"whole": [1, 2], "core": 2}, ignore=9))
    assert seg.labels[0, 0, 0] == 9
    assert not seg.regions[:, 0, 0, 0].any()


def test_a_case_s_own_values_map_to_the_cohort_s_classes(case, mask):
    data = Data(classes={"lung": 1, "spleen": 2})
    row = case(mask, values={"spleen": ("label", (1,))}, rest_is_background=True)
    seg = label_of(row, data)
    assert np.array_equal(seg.labels, np.where(mask == 1, 2, 0))
    assert seg.provenance["known"] == ("spleen",)


def test_classes_that_were_not_drawn_are_not_known(case, mask):
    seg = label_of(case(mask, known=("a",)), Data(classes={"a": 1, "b": 2}))
    assert seg.provenance["known"] == ("a",)


def test_a_missing_label_column_is_said(case, mask):
    data = Data(classes={"heart": {"values": 1, "column": "heart"}})
    with pytest.raises(UserError, match="no label in the column label_heart; there is label"):
        label_of(case(mask), data)


def test_a_label_three_slices_off_is_resampled_by_position(case, mask):
    data = Data(classes={"a": 1, "b": 2}, grid="resample")
    seg = label_of(case(mask, shift_mm=7.5), data)
    assert np.array_equal(seg.labels[:, :, 3:], mask[:, :, :3])
    assert not seg.labels[:, :, :3].any()
    assert any("resampled" in note for note in seg.provenance["notes"])


def test_a_label_stored_in_any_of_48_axis_orders_is_put_in_its_image_s_order():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, (5, 6, 7)).astype(np.uint8)
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))[0] * [0.7, 1.1, 2.5]
    turn[:3, 3] = rng.normal(size=3) * 50
    image = Geometry((5, 6, 7), turn)
    for order in permutations(range(3)):
        for flips in product((1, -1), repeat=3):
            stored = labels.transpose(order)[tuple(slice(None, None, f) for f in flips)]
            affine = turn.copy()
            affine[:3, :3] = turn[:3, list(order)]
            for axis, flip in enumerate(flips):
                if flip < 0:
                    affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
                    affine[:3, axis] *= -1
            found = match_grid(Segmentation(stored, Geometry(stored.shape, affine)), image, resample=False)
            assert np.array_equal(found.labels, labels)
            assert found.geometry.same_grid(image)


def test_a_label_on_another_grid_is_never_read_without_being_asked(case, mask):
    with pytest.raises(UserError, match=r"image and label are 7\.50 mm apart"):
        label_of(case(mask, shift_mm=7.5), Data(classes={"a": 1, "b": 2}))


def test_a_known_grid_spares_the_image_s_headers_and_is_still_held(case, mask, monkeypatch):
    opened = open_case(case(mask), data := Data(classes={"a": 1, "b": 2}), class_infos(data.classes))
    grid = opened.image().geometry
    monkeypatch.setattr("medseg.io.doors.read_geometry", lambda *_: pytest.fail("the image was read again"))
    assert np.array_equal(opened.label(grid).labels, mask)
    affine = grid.affine.copy()
    affine[0, 3] += 5
    with pytest.raises(UserError, match=r"5\.00 mm apart"):
        opened.label(Geometry(grid.shape, affine))


def test_a_label_elsewhere_is_not_resampled():
    label = Segmentation(
        np.ones((4, 4, 4), np.uint8), Geometry.from_spacing((4, 4, 4), (1, 1, 1), (100, 0, 0))
    )
    with pytest.raises(UserError, match="wholly outside its image"):
        onto_grid(label, Geometry.from_spacing((4, 4, 4), (1, 1, 1)))


def test_a_picture_s_label_of_another_size_is_refused():
    label = Segmentation(np.ones((4, 5), np.uint8), Geometry.pixels((4, 5)))
    with pytest.raises(UserError, match="4x6 px and label 4x5 px differ in size"):
        onto_grid(label, Geometry.pixels((4, 6)))


def test_resampling_keeps_place_and_volume_over_turned_grids():
    rng = np.random.default_rng(1)
    fine = Geometry.from_spacing((40, 40, 40), (1, 1, 1), (-20, -20, -20))
    labels = np.zeros(fine.shape, np.uint8)
    labels[10:26, 12:30, 8:22] = 3
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * 0.9
    affine[:3, 3] = -turn @ np.full(3, 0.9 * 31.5)
    moved = onto_grid(Segmentation(labels, fine), Geometry((64, 64, 64), affine))
    voxels = np.argwhere(moved.labels == 3)
    assert len(voxels) * 0.9**3 == pytest.approx(16 * 18 * 14, rel=0.02)
    centre = moved.geometry.to_world(voxels).mean(0)
    assert centre == pytest.approx(fine.to_world(np.argwhere(labels == 3)).mean(0), abs=0.1)


def test_channels_are_stacked_and_must_share_a_grid(tmp_path, volume, scan):
    one, two = (str(volume(tmp_path / f"{n}.nii.gz", scan + n)) for n in (0, 1))
    image = open_case(CaseRow("x", "x", ((one,), (two,))), Data(), ()).image()
    assert image.array.shape == (2, 8, 8, 6)
    assert (image.array[1] - image.array[0] == 1).all()
    off = str(volume(tmp_path / "off.nii.gz", scan, shift_mm=5))
    with pytest.raises(UserError, match=r"channel 2 and channel 1 are 5\.00 mm apart"):
        open_case(CaseRow("x", "x", ((one,), (off,))), Data(), ()).image()


def test_not_finite_voxels_are_replaced_when_asked(tmp_path, volume, scan):
    scan = scan.astype(np.float32)
    lowest = scan.min()
    scan[0, 0, :3] = [np.nan, np.inf, -np.inf]
    row = CaseRow("x", "x", ((str(volume(tmp_path / "a.nii.gz", scan)),),))
    image = open_case(row, Data(not_finite="replace"), ()).image()
    assert np.isfinite(image.array).all()
    assert (image.array[0, 0, 0, :3] == lowest).all()
    assert any("3 voxels" in note for note in image.notes)


def test_a_case_with_trouble_says_it_when_read():
    with pytest.raises(UserError, match="line 3 of the table"):
        open_case(CaseRow("x", "x", ((),), trouble="line 3 of the table: no image"), Data(), ()).image()


@pytest.mark.parametrize(
    ("name", "side"),
    [("left lung", "left"), ("kidney_right", "right"), ("cleft", None), ("left or right", None)],
)
def test_the_side_is_guessed_from_words(name, side):
    assert side_of(name) == side


def test_classes_are_named_by_their_values_where_nobody_named_them():
    specs = specs_from_values({"label": [0, 2, 5], "label_heart": [0, 1]}, Data())
    assert {name: (s.values, s.column) for name, s in specs.items()} == {
        "class 2": ([2], "label"), "class 5": ([5], "label"), "heart 1": ([1], "label_heart")
    }  # fmt: skip


def test_an_image_given_as_label_is_recognised_by_its_many_values():
    with pytest.raises(UserError, match="an image or a map of instances"):
        specs_from_values({"label": list(range(400))}, Data())


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64, np.int32])
def test_values_are_counted_whatever_their_type(kind):
    labels = np.array([[0, 1, 1], [7, 7, 7]], kind)
    assert value_counts(labels) == {0: 1, 1: 2, 7: 3}


def test_negative_and_large_values_are_counted():
    assert value_counts(np.array([-1, -1, 70000], np.int32)) == {-1: 2, 70000: 1}


def test_a_dicom_seg_is_placed_on_its_image_s_grid(tmp_path, scan, mask):
    from medseg.io.dicom.seg import write_seg
    from medseg.io.dicom.write_series import write_ct_series
    from medseg.io.doors import read_geometry

    files = write_ct_series(scan, Geometry.from_spacing(scan.shape, (1, 1, 2.5)), tmp_path / "ct")
    classes = class_infos({"a": ClassSpec(values=[1]), "b": ClassSpec(values=[2])})
    grid = read_geometry(files)
    array = np.zeros(grid.shape, np.uint8)
    array[2:4, 2:4, 2:4] = 1
    write_seg(Segmentation(array, grid, classes[:1]), files, tmp_path / "seg.dcm", algorithm="test")
    row = CaseRow("x", "x", (tuple(map(str, files)),), {"label": str(tmp_path / "seg.dcm")})
    seg = read_label(row, Data(classes={"a": 1, "b": 2}), classes)
    assert seg.geometry.same_grid(grid)
    assert np.array_equal(seg.labels, array)
