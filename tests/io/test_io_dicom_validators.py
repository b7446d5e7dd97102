"""What is written passes the validator of dicom3tools and is read in place by DCMTK, where these are installed."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation
from medseg.io.dicom.read import read_series
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.seg import write_fractions, write_seg
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_image, write_segmentation

CLASSES = (
    ClassInfo("left lung", 1, (230, 40, 40), Code("39607008", "SCT", "Lung"), "left"),
    ClassInfo("nodule", 2, (40, 40, 230)),
)
SHAPE = (9, 11, 6)
SPACING = (0.8, 1.1, 2.5)
ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
PLACES = {
    "axial": {}, "coronal": {"order": (0, 2, 1)}, "sagittal": {"order": (1, 2, 0), "signs": (1, -1, 1)},
    "negative column cosines": {"signs": (1, -1, 1)}, "oblique": {"degrees": 25.0},
    "oblique and negative": {"degrees": -40.0, "signs": (-1, -1, 1)}, "gantry tilt": {"tilt": 15.0},
    "sheared coronal": {"tilt": -15.0, "order": (0, 2, 1)}, "one slice": {"slices": 1},
    "two slices": {"slices": 2, "order": (2, 0, 1)}, "thick slices": {"spacing": (0.5, 0.5, 7.5)},
}  # fmt: skip


def grid(
    order=(0, 1, 2), signs=(1, 1, 1), degrees=0.0, tilt=0.0, spacing=SPACING, slices=SHAPE[2]
) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * spacing[axis]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ affine[:3, :3]
    affine[:3, 2] += np.tan(np.radians(tilt)) * spacing[2] * affine[:3, 1] / spacing[1]
    affine[:3, 3] = (-20, 30, -100)
    return Geometry((*SHAPE[:2], slices), affine)


def labels(slices: int = SHAPE[2]) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:6, 2:8, 1:4] = 1
    array[3, 4, 2] = 0
    array[6:8, 8:10, 2:6] = 2
    return array[:, :, 1 : 1 + slices] if slices < SHAPE[2] else array


def case(folder: Path, geometry: Geometry) -> tuple[Segmentation, list[Path], dict[str, np.ndarray]]:
    """A result on its series, and the centroid of each class in RAS mm by the grid that it was made on."""
    array = labels(geometry.shape[2])
    files = write_ct_series(array.astype(np.int16) * 10, geometry, folder)
    image = read_series(files)
    seg = Segmentation((image.array[0] // 10).astype(np.uint8), image.geometry, CLASSES)
    middles = {
        info.name: geometry.to_world(np.argwhere(array == info.index).mean(axis=0))
        for info in CLASSES
        if (array == info.index).any()
    }
    return seg, files, middles


def written(seg: Segmentation, files: list[Path], folder: Path) -> dict[str, Path]:
    return {
        "BINARY": write_seg(seg, files, folder / "binary.dcm"),
        "LABELMAP": write_seg(seg, files, folder / "map.dcm", kind="LABELMAP"),
        "FRACTIONAL": write_fractions(seg, lambda n: seg.mask(n) * np.float32(0.7), files, folder / "f.dcm"),
        "RTSTRUCT": write_rtstruct(seg, files, folder / "rt.dcm"),
    }


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: apt install dicom3tools dcmtk)")
    return found


@pytest.mark.parametrize("place", PLACES)
def test_the_validator_finds_no_error(tmp_path, place):
    program = needed("dciodvfy")
    seg, files, _ = case(tmp_path / "s", grid(**PLACES[place]))
    for kind, path in written(seg, files, tmp_path).items():
        if kind == "LABELMAP":  # younger than the validator
            continue
        said = subprocess.run([program, str(path)], capture_output=True, text=True, check=False).stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert errors == [], kind


@pytest.mark.parametrize("place", PLACES)
def test_dcmtk_finds_every_class_in_its_place(tmp_path, place):
    program = needed("dcm2json")
    seg, files, middles = case(tmp_path / "s", grid(**PLACES[place]))
    paths = written(seg, files, tmp_path)
    for kind, middle_of, allowed in (("BINARY", seg_middles, 0.05), ("RTSTRUCT", contour_middles, 0.12)):
        text = subprocess.run([program, str(paths[kind])], capture_output=True, check=True).stdout
        found = middle_of(json.loads(text))
        assert found.keys() == middles.keys()
        for name, middle in middles.items():
            assert np.linalg.norm(found[name] - middle) < allowed, (kind, name)


def values(item: dict, tag: str) -> list:
    return item.get(tag, {}).get("Value", [])


def seg_middles(data: dict) -> dict[str, np.ndarray]:
    """Centroids in RAS mm, from DCMTK's reading of a binary segmentation."""
    rows, columns = values(data, "00280010")[0], values(data, "00280011")[0]
    shared = values(data, "52009229")[0]
    orientation = np.array(values(values(shared, "00209116")[0], "00200037"), float)
    row_mm, column_mm = (float(v) for v in values(values(shared, "00289110")[0], "00280030"))
    bits = np.unpackbits(
        np.frombuffer(base64.b64decode(data["7FE00010"]["InlineBinary"]), np.uint8), bitorder="little"
    )
    names = {values(s, "00620004")[0]: values(s, "00620005")[0] for s in values(data, "00620002")}
    points: dict[str, list[np.ndarray]] = {}
    for number, groups in enumerate(values(data, "52009230")):
        frame = bits[number * rows * columns : (number + 1) * rows * columns].reshape(rows, columns)
        position = np.array(values(values(groups, "00209113")[0], "00200032"), float)
        name = names[values(values(groups, "0062000A")[0], "0062000B")[0]]
        for row, column in np.argwhere(frame):
            where = position + orientation[:3] * column_mm * column + orientation[3:] * row_mm * row
            points.setdefault(name, []).append(where * (-1, -1, 1))
    return {name: np.mean(found, axis=0) for name, found in points.items()}


def contour_middles(data: dict) -> dict[str, np.ndarray]:
    """Area-weighted centroids in RAS mm, from DCMTK's reading of a structure set."""
    names = {values(roi, "30060022")[0]: values(roi, "30060026")[0] for roi in values(data, "30060020")}
    out = {}
    for item in values(data, "30060039"):
        total, moment = 0.0, np.zeros(3)
        for contour in values(item, "30060040"):
            points = np.array(values(contour, "30060050"), float).reshape(-1, 3)
            following = np.roll(points, -1, axis=0)
            vectors = np.cross(points - points[0], following - points[0]) / 2
            whole = vectors.sum(axis=0)
            areas = vectors @ (whole / np.linalg.norm(whole))
            total += areas.sum()
            moment += areas @ (points[0] + points + following) / 3
        out[names[values(item, "30060084")[0]]] = moment / total * (-1, -1, 1)
    return out


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize(
    "place",
    [*({"order": o, "signs": s} for o, s in ORDERS), {"degrees": 25.0}, {"degrees": -40.0, "signs": (-1, -1, 1)},
     {"tilt": 15.0}, {"slices": 1}, {"slices": 2}, {"spacing": (0.5, 0.5, 7.5)}],
    ids=str,
)  # fmt: skip
def test_volumes_written_for_a_series_lie_where_other_readers_find_the_series(tmp_path, place, ending):
    seg, files, middles = case(tmp_path / "s", grid(**place))
    path = write_segmentation(seg, tmp_path / f"o{ending}", read_image(files))
    if ending == ".nii.gz":
        volume = nibabel.load(path)
        array, affine = np.asarray(volume.dataobj), volume.affine
    elif place.get("tilt"):
        pytest.skip("ITK has no sheared volumes")
    else:
        found = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(found).transpose(2, 1, 0)
        affine = np.eye(4)
        affine[:3, :3] = np.array(found.GetDirection()).reshape(3, 3) * found.GetSpacing()
        affine[:3, 3] = found.GetOrigin()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    for info in CLASSES:
        if info.name in middles:
            middle = affine @ np.append(np.argwhere(array == info.index).mean(axis=0), 1.0)
            np.testing.assert_allclose(middle[:3], middles[info.name], atol=0.01)
