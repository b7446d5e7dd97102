"""Files of prompts: medseg's JSON, markups, listed boxes, masks of scribbles, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.io.prompts import Coding, read_prompt

VOLUME = Geometry((10, 12, 8), np.diag([-1.5, -1.5, 2.0, 1.0]))
PHOTO = Geometry.pixels((20, 30))
TWO = Coding((ClassInfo("liver", 4, (255, 0, 0)), ClassInfo("left kidney", 7, (0, 255, 0))))


def written(folder: Path, document: Any, name: str = "a.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def test_points_boxes_and_scribbles_are_read_by_class_name_or_value(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {
            "points": [{"class": "Left Kidney", "at": [1, 2, 3]}, {"class": "background", "at": [4, 5, 6]}],
            "boxes": [{"class": 4, "low": [0, 1, 2], "high": [3, 4, 5]}],
            "scribbles": [{"class": "liver", "line": [[0, 0, 0], [1, 1, 1]]}],
        },
    )
    prompt = read_prompt(path, VOLUME, TWO)
    assert prompt.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert prompt.point_classes.tolist() == [2, 0]
    assert prompt.boxes.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert prompt.box_classes.tolist() == [1]
    assert prompt.scribbles[0][1] == 1


def test_the_other_frame_is_turned_into_ras_boxes_included(tmp_path: Path) -> None:
    document = {
        "frame": "LPS",
        "points": [{"class": "liver", "at": [1, 2, 3]}],
        "boxes": [{"class": "liver", "low": [0, 1, 2], "high": [3, 4, 5]}],
    }
    prompt = read_prompt(written(tmp_path, document), VOLUME, TWO)
    assert prompt.points.tolist() == [[-1, -2, 3]]
    assert prompt.boxes.tolist() == [[[-3, -4, 2], [0, -1, 5]]]


def test_photographs_have_no_frame(tmp_path: Path) -> None:
    document = {"frame": "LPS", "points": [{"class": "liver", "at": [3, 4]}]}
    assert read_prompt(written(tmp_path, document), PHOTO, TWO).points.tolist() == [[3, 4]]


def test_a_list_of_all_cases_gives_each_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": {"points": [{"class": "liver", "at": [1, 2]}]}, "b": {"text": "liver"}})
    assert len(read_prompt(path, PHOTO, Coding(TWO.classes, case="a")).points) == 1
    assert read_prompt(path, PHOTO, Coding(TWO.classes, case="b")).text == "liver"
    with pytest.raises(UserError, match="no entry for this case"):
        read_prompt(path, PHOTO, Coding(TWO.classes, case="c9"))


def test_listed_boxes_are_columns_and_rows_and_fit_the_photograph(tmp_path: Path) -> None:
    entry = {"width": 30, "height": 20, "drawn": None, "from_mask": [5, 2, 9, 8]}
    path = written(tmp_path, {"a": entry, "b": {**entry, "width": 31}})
    prompt = read_prompt(path, PHOTO, Coding(TWO.classes, case="a"))
    assert prompt.boxes.tolist() == [[[2, 5], [8, 9]]]
    assert prompt.source == "listed box 'from_mask'"
    with pytest.raises(UserError, match="no box 'drawn' for this case"):
        read_prompt(path, PHOTO, Coding(TWO.classes, box="drawn", case="a"))
    with pytest.raises(UserError, match="drawn on an image of 20x31 px, this one has 20x30 px"):
        read_prompt(path, PHOTO, Coding(TWO.classes, case="b"))


def test_markups_of_slicer_are_points_by_label_and_curves_by_name(tmp_path: Path) -> None:
    def point(label: str, *at: float) -> dict[str, Any]:
        return {"label": label, "position": list(at)}

    fiducials = {"type": "Fiducial", "name": "liver", "coordinateSystem": "LPS"}
    curve = {"type": "Curve", "name": "background", "coordinateSystem": "LPS"}
    document = {
        "markups": [
            {**fiducials, "controlPoints": [point("liver-1", 1, 2, 3), point("F-2", 4, 5, 6)]},
            {**curve, "controlPoints": [point("C-1", 1, 1, 1), point("C-2", 2, 2, 2)]},
        ]
    }
    prompt = read_prompt(written(tmp_path, document, "m.mrk.json"), VOLUME, TWO)
    assert prompt.points.tolist() == [[-1, -2, 3], [-4, -5, 6]]
    assert prompt.point_classes.tolist() == [1, 1]
    assert prompt.scribbles[0][0].tolist() == [[-1, -1, 1], [-2, -2, 2]]
    assert prompt.scribbles[0][1] == 0


def test_scribbles_have_the_classes_own_values_and_a_value_of_background(tmp_path: Path) -> None:
    mask = np.zeros((10, 12, 8), dtype=np.uint8)
    mask[1, 1, 1], mask[2, 2, 2], mask[3, 3, 3] = 4, 7, 2
    nibabel.save(nibabel.Nifti1Image(mask, VOLUME.affine), tmp_path / "a.nii.gz")
    prompt = read_prompt(tmp_path / "a.nii.gz", VOLUME, Coding(TWO.classes, background=2))
    assert prompt.mask is not None
    assert [int(prompt.mask[i, i, i]) for i in (0, 1, 2, 3)] == [0, 1, 2, 255]


def test_scribbles_count_the_classes_where_their_values_are_others(tmp_path: Path) -> None:
    drawn = np.zeros((20, 30), dtype=np.uint8)
    drawn[1, 1], drawn[2, 2] = 1, 2
    Pillow.fromarray(drawn).save(tmp_path / "a.png")
    coding = Coding((ClassInfo("object", 255, (255, 0, 0)),), background=2)
    prompt = read_prompt(tmp_path / "a.png", PHOTO, coding)
    assert prompt.mask is not None
    assert (int(prompt.mask[1, 1]), int(prompt.mask[2, 2])) == (1, 255)


def test_scribbles_on_another_grid_are_refused_with_both_shapes(tmp_path: Path) -> None:
    Pillow.fromarray(np.ones((19, 30), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="scribbles has 19x30 px, its image 20x30 px"):
        read_prompt(tmp_path / "a.png", PHOTO, TWO)
    shifted = VOLUME.affine.copy()
    shifted[0, 3] = 5
    nibabel.save(nibabel.Nifti1Image(np.ones((10, 12, 8), np.uint8), shifted), tmp_path / "a.nii.gz")
    with pytest.raises(UserError, match=r"are 5\.00 mm apart"):
        read_prompt(tmp_path / "a.nii.gz", VOLUME, TWO)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"points": [{"class": "lever", "at": [1, 2, 3]}]},
            "class 'lever', which there is not, did you mean liver",
        ),
        ({"points": [{"class": 5, "at": [1, 2, 3]}]}, "class 5, which there is not"),
        ({"points": [{"at": [1, 2, 3]}]}, "class None"),
        ({"points": [{"class": "liver", "at": [1, 2]}]}, r"the place \[1, 2\]"),
        ({"points": [{"class": "liver", "at": [1, 2, "x"]}]}, "the place"),
        ({"points": [{"class": "liver", "at": [1, 2, None]}]}, "the place"),
        ({"points": [[1, 2, 3]]}, r"the entry \[1, 2, 3\]"),
        ({"points": {"class": "liver"}}, "points of the prompt is"),
        ({"point": []}, "the key 'point', did you mean points"),
        ({"points": [], "colour": 1}, "the key 'colour'"),
        ({"frame": "XYZ", "points": []}, "frame is 'XYZ'"),
        ({"points": []}, "the prompt is empty"),
        ({}, "the key 'nothing'"),
        ([1], "the prompt is a list"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_prompt(written(tmp_path, document), VOLUME, TWO)


def test_a_file_that_is_no_json_or_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"points": [')
    with pytest.raises(UserError, match="the prompt is not JSON"):
        read_prompt(tmp_path / "a.json", VOLUME, TWO)
    with pytest.raises(UserError, match="does not exist"):
        read_prompt(tmp_path / "b.json", VOLUME, TWO)


def test_values_of_scribbles_that_mean_nothing_are_said(tmp_path: Path) -> None:
    drawn = np.zeros((20, 30), dtype=np.uint8)
    drawn[1, 1] = 9
    Pillow.fromarray(drawn).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"the value 9, which is no class \(4 liver, 7 left kidney"):
        read_prompt(tmp_path / "a.png", PHOTO, TWO)
    with pytest.raises(UserError, match="background is 4, which is the class liver"):
        read_prompt(tmp_path / "a.png", PHOTO, Coding(TWO.classes, background=4))


def test_the_scribble_benchmark_is_read(shared_data: Path) -> None:
    place = shared_data / "interactive"
    names = sorted(p.stem for p in (place / "images").glob("*.jpg"))
    if not names:
        pytest.skip("the photographs with scribbles are not here")
    coding = Coding((ClassInfo("object", 255, (255, 0, 0)),), background=2, case=names[0])
    shape = np.asarray(Pillow.open(place / "masks" / f"{names[0]}.png")).shape
    strokes = read_prompt(place / "scribbles_sparse" / f"{names[0]}.png", Geometry.pixels(shape), coding)
    assert strokes.mask is not None
    assert set(np.unique(strokes.mask)) == {0, 1, 255}
    box = read_prompt(place / "boxes.json", Geometry.pixels(shape), coding)
    assert box.boxes.shape == (1, 2, 2)
