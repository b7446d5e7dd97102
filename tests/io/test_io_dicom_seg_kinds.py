"""Label maps and probabilities as DICOM segmentations: on request, read back before they count."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation, paint
from medseg.io.dicom import seg as seg_module
from medseg.io.dicom import seg_fractions
from medseg.io.dicom.colour import to_rgb
from medseg.io.dicom.read import read_series
from medseg.io.dicom.read_seg import place_on, read_pictures, read_seg
from medseg.io.dicom.seg import write_fractions, write_seg
from medseg.io.dicom.write_series import write_ct_series

CLASSES = (
    ClassInfo("left lung", 1, (230, 40, 40), Code("39607008", "SCT", "Lung"), "left"),
    ClassInfo("right lung", 4, (40, 230, 40), Code("39607008", "SCT", "Lung"), "right"),
    ClassInfo("nodule", 7, (40, 40, 230)),
    ClassInfo("absent", 9, (9, 9, 9)),
)
SHAPE = (8, 11, 7)


def asymmetric() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:8, 1:4] = 1
    labels[4:7, 1:3, 2:6] = 4
    labels[5, 8, 4] = 7
    return labels


def oblique(tilt: float = 0.0) -> Geometry:
    """A turned grid whose column axis runs backwards."""
    c, s = np.cos(0.4), np.sin(0.4)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([0.8, -1.1, -2.5])
    affine[:3, 2] += np.tan(np.radians(tilt)) * 2.5 * affine[:3, 1] / 1.1
    affine[:3, 3] = (-20, 30, -100)
    return Geometry(SHAPE, affine)


def case(folder: Path, geometry: Geometry) -> tuple[Segmentation, list[Path]]:
    files = write_ct_series(asymmetric().astype(np.int16) * 10, geometry, folder)
    image = read_series(files)
    return Segmentation((image.array[0] // 10).astype(np.uint8), image.geometry, CLASSES), files


@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_a_label_map_comes_back_equal_through_two_readers(tmp_path, tilt):
    seg, files = case(tmp_path, oblique(tilt))
    path = write_seg(seg, files, tmp_path / "o.dcm", kind="LABELMAP")
    data = pydicom.dcmread(path)
    assert (data.SegmentationType, data.file_meta.TransferSyntaxUID.name) == (
        "LABELMAP", "JPEG-LS Lossless Image Compression"
    )  # fmt: skip
    assert data.NumberOfFrames == np.count_nonzero(asymmetric().any(axis=(0, 1)))
    back = place_on(read_seg(path), seg.geometry)
    assert [c.name for c in back.classes] == ["left lung", "right lung", "nodule"]
    for number in range(3):
        np.testing.assert_array_equal(back.mask(number), seg.mask(number))
    if not tilt:  # the other library has no sheared volumes
        volume = hd.seg.segread(path).get_volume(combine_segments=True)
        for number, info in enumerate(CLASSES[:3]):
            index = np.argwhere(volume.array == number + 1)
            world = (volume.affine @ np.append(index.mean(axis=0), 1.0))[:3] * (-1, -1, 1)
            meant = oblique().to_world(np.argwhere(asymmetric() == info.index).mean(axis=0))
            assert np.linalg.norm(world - meant) < 0.1


def test_a_label_map_says_what_it_is(tmp_path):
    seg, files = case(tmp_path, oblique())
    data = pydicom.dcmread(write_seg(seg, files, tmp_path / "o.dcm", kind="LABELMAP", version="9.9"))
    items = [item for item in data.SegmentSequence if int(item.SegmentNumber)]
    assert [to_rgb(item.RecommendedDisplayCIELabValue) for item in items] == [c.colour for c in CLASSES[:3]]
    assert all(i.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "9.9" for i in items)
    kind = items[1].SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    source = pydicom.dcmread(files[0])
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    for groups in data.PerFrameFunctionalGroupsSequence:
        assert "SegmentIdentificationSequence" not in groups
        assert groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID


def test_classes_that_overlap_do_not_fit_a_label_map(tmp_path):
    seg, files = case(tmp_path, oblique())
    regions = np.stack([seg.labels == 1, seg.labels > 0, seg.labels == 7, seg.labels > 99])
    overlapping = Segmentation(paint(regions, CLASSES), seg.geometry, CLASSES, regions)
    with pytest.raises(UserError, match="classes overlap, and a label map holds one class a voxel"):
        write_seg(overlapping, files, tmp_path / "o.dcm", kind="LABELMAP")


def chances(seg: Segmentation, position: int) -> np.ndarray:
    """Certain inside, falling off along the first axis outside."""
    inside = seg.mask(position).astype(np.float32)
    return np.maximum(inside, 0.4 * np.roll(inside, 1, axis=0)) if inside.any() else inside


def test_probabilities_come_back_to_half_a_255th_at_their_place(tmp_path):
    seg, files = case(tmp_path, oblique())
    path = write_fractions(seg, lambda n: chances(seg, n), files, tmp_path / "o.dcm")
    data = pydicom.dcmread(path)
    assert (data.SegmentationType, data.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert data.MaximumFractionalValue == 255
    assert [item.SegmentLabel for item in data.SegmentSequence] == ["left lung", "right lung", "nodule"]
    geometry, pictures = read_pictures(path)
    found = {n: np.zeros(geometry.shape, np.uint8) for n in (1, 2, 3)}
    for segment, place, picture in pictures:
        found[segment][:, :, place] = picture.T
    for segment in found:
        levels = Segmentation(found[segment], geometry, CLASSES)
        np.testing.assert_allclose(place_on(levels, seg.geometry).labels / 255, chances(seg, segment - 1),
                                   atol=0.5 / 255 + 1e-6)  # fmt: skip
    with pytest.raises(UserError, match=r"holds fractions \(probabilities\)"):
        read_seg(path)


def test_another_library_reads_the_same_probabilities(tmp_path):
    seg, files = case(tmp_path, oblique())
    path = write_fractions(seg, lambda n: chances(seg, n), files, tmp_path / "o.dcm")
    volume = hd.seg.segread(path).get_volume(combine_segments=False, rescale_fractional=True)
    for number in range(3):
        total = float(chances(seg, number).sum())
        assert float(volume.array[..., number].sum()) == pytest.approx(total, abs=0.5 / 255 * total + 0.01)


def test_nothing_probable_gives_no_file(tmp_path):
    seg, files = case(tmp_path / "s", oblique())
    assert write_fractions(seg, lambda n: np.zeros(SHAPE, np.float32), files, tmp_path / "o.dcm") is None
    assert not (tmp_path / "o.dcm").exists()


def test_probabilities_that_come_back_flipped_are_not_kept(tmp_path, monkeypatch):
    seg, files = case(tmp_path / "s", oblique())
    honest = seg_fractions.read_pictures

    def flipped(path):
        geometry, pictures = honest(path)
        return geometry, ((s, p, picture[::-1]) for s, p, picture in pictures)

    monkeypatch.setattr(seg_fractions, "read_pictures", flipped)
    with pytest.raises(UserError, match=r"came back [\d.]+ mm from its place"):
        write_fractions(seg, lambda n: chances(seg, n), files, tmp_path / "o.dcm")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_label_maps_that_come_back_thinned_are_not_kept(tmp_path, monkeypatch):
    seg, files = case(tmp_path / "s", oblique())
    honest = seg_module.read_seg

    def thinned(path):
        back = honest(path)
        labels = back.labels.copy()
        labels[tuple(np.argwhere(labels == 1)[0])] = 0
        return Segmentation(labels, back.geometry, back.classes)

    monkeypatch.setattr(seg_module, "read_seg", thinned)
    with pytest.raises(UserError, match="36 voxels were meant, 35 were read back"):
        write_seg(seg, files, tmp_path / "o.dcm", kind="LABELMAP")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
