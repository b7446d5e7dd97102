"""Prompts on the road: from files, from the manifest, simulated; placed in mm; what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.config_types import Prompts
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.prompt import Prompt
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.model.folder import save_model
from medseg.predict.api import predict
from medseg.predict.classical import in_values_of, on_grid, segment_classical
from medseg.predict.folder import predict_folder
from medseg.predict.simulate import simulated
from medseg.zoo.build import build

CLASSES = (ClassInfo("big", 3, (255, 0, 0)), ClassInfo("small", 5, (0, 255, 0)))
SHAPE = (24, 26, 14)
LPS = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 2, -40], [0, 0, 0, 1.0]])


def balls() -> tuple[np.ndarray, np.ndarray]:
    """A bright and a grey ball in noise (1, *S), and their labels 3 and 5."""
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[((grid - [7, 12, 6]) ** 2).sum(-1) < 20] = 3
    labels[((grid - [17, 12, 6]) ** 2).sum(-1) < 12] = 5
    image = np.choose(np.searchsorted([0, 3, 5], labels), [10.0, 100.0, 60.0])
    return (image + np.random.default_rng(0).normal(0, 3, SHAPE))[None].astype(np.float32), labels


def a_model(folder: Path, name: str = "random-walker", dims: int = 3, **arguments: Any) -> Path:
    plan = Plan(
        dims=dims,
        in_channels=1,
        classes=[c.as_json() for c in CLASSES],
        out_channels=3,
        spacing_mm=None,
        intensity=[IntensityPlan(scheme="none")],
        patch_size=[16] * dims,
        batch_size=1,
    )
    save_model(folder, None, system=System(name=name, arguments=arguments), plan=plan)
    return folder


def settings(**sections: Any) -> Pipeline:
    return Pipeline.model_validate({"name": "p", "system": "x", "compute": {"cores": 1}, **sections})


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans of the balls with labels, in the layout images/, labels/."""
    image, labels = balls()
    for name in ("a", "b"):
        for kind, array in (("images", image[0]), ("labels", labels)):
            (tmp_path / "scans" / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, LPS), tmp_path / "scans" / kind / f"{name}.nii.gz")
    return tmp_path / "scans"


def at(*index: float) -> list[float]:
    """Patient mm (RAS) of a voxel."""
    return [float(v) for v in Geometry(SHAPE, LPS).to_world(index)]


def three_points() -> dict[str, Any]:
    return {
        "points": [
            {"class": "big", "at": at(7, 12, 6)},
            {"class": "small", "at": at(17, 12, 6)},
            {"class": "background", "at": at(1, 1, 1)},
        ]
    }


def dice(found: np.ndarray, true: np.ndarray) -> float:
    return 2 * (found & true).sum() / (found.sum() + true.sum())


# --- placing ------------------------------------------------------------------------------------------------------


def test_patient_places_find_their_voxel_on_flipped_axes() -> None:
    geometry = Geometry(SHAPE, LPS)
    prompt = on_grid(Prompt(points=np.array([at(7, 12, 6)]), point_classes=np.array([1])), geometry)
    # Upright, the first two axes run the other way.
    assert prompt.points.tolist() == [[1.5 * (23 - 7), 1.5 * (25 - 12), 2.0 * 6]]


def test_a_box_covers_the_voxels_whose_centres_lie_in_it() -> None:
    geometry = Geometry(SHAPE, LPS)
    corners = np.sort([at(6.6, 9.6, 3.6), at(9.4, 12.4, 7.4)], axis=0)
    box = on_grid(Prompt(boxes=corners[None]), geometry).boxes[0] / [1.5, 1.5, 2.0]
    assert box.tolist() == [[23 - 9, 25 - 12, 4], [23 - 6, 25 - 9, 8]]


def test_a_mask_is_turned_like_its_image() -> None:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[2, 3, 4] = 1
    turned = on_grid(Prompt(mask=mask), Geometry(SHAPE, LPS)).mask
    assert turned is not None
    assert np.argwhere(turned).tolist() == [[21, 22, 4]]


def test_a_place_outside_is_refused_with_both_ranges_in_mm() -> None:
    prompt = Prompt(points=np.array([[500.0, 0, 0]]), point_classes=np.array([1]))
    with pytest.raises(
        UserError, match=r"at \(500, 0, 0\) mm lies outside .* spans -15.2..20.8, -8.2..30.8, -41..-13 mm"
    ):
        on_grid(prompt, Geometry(SHAPE, LPS))
    with pytest.raises(
        UserError, match=r"scribble of the prompt at \(30, 2\) px lies outside .* -0.5..19.5, -0.5..29.5 px"
    ):
        on_grid(Prompt(scribbles=((np.array([[1.0, 1], [30, 2]]), 1),)), Geometry.pixels((20, 30)))
    with pytest.raises(
        UserError, match=r"box 1 of the prompt from \(500, 0, 0\) to \(501, 1, 1\) mm has no voxel"
    ):
        on_grid(Prompt(boxes=np.array([[[500.0, 0, 0], [501, 1, 1]]])), Geometry(SHAPE, LPS))


def test_places_with_the_wrong_number_of_axes_and_masks_of_another_shape_are_refused() -> None:
    flat = Prompt(points=np.zeros((1, 2)), point_classes=np.array([1]))
    with pytest.raises(UserError, match=r"places have shape \(1, 2\) on an image of 3 axes"):
        on_grid(flat, Geometry(SHAPE, LPS))
    with pytest.raises(UserError, match=r"scribbles has shape \(2, 2\), its image \(20, 30\)"):
        on_grid(Prompt(mask=np.zeros((2, 2))), Geometry.pixels((20, 30)))


def test_the_same_prompt_segments_the_same_place_in_any_stored_order() -> None:
    image, labels = balls()
    method = build("random-walker", dims=3, in_channels=1, classes=3, objects=2)
    geometry = Geometry(SHAPE, LPS)
    points = np.array([at(7, 12, 6), at(17, 12, 6), at(1, 1, 1)])
    prompt = Prompt(points=points, point_classes=np.array([1, 2, 0]))
    plain = segment_classical(method, Image(image, geometry), prompt)
    turned, order, flips = geometry.reoriented()
    upright = np.ascontiguousarray(np.flip(image, [1 + f for f in flips]))
    other = segment_classical(method, Image(upright, turned), prompt)
    assert order == (0, 1, 2)
    assert np.array_equal(np.flip(other, flips), plain)
    assert dice(plain == 1, labels == 3) > 0.95


# --- classes ------------------------------------------------------------------------------------------------------


def test_classes_of_a_prompt_become_the_methods_own_values() -> None:
    method = build("random-walker", dims=3, in_channels=1, classes=3).counting(2)
    prompt = in_values_of(Prompt(points=np.zeros((2, 3)), point_classes=np.array([2, 0])), method, CLASSES)
    assert prompt.point_classes.tolist() == [2, 0]


def test_a_class_that_the_method_does_not_tell_apart_is_named() -> None:
    method = build("graph-cuts", dims=3, in_channels=1, classes=3).counting(2)
    with pytest.raises(UserError, match="the prompt has the class small, and graph-cuts segments foreground"):
        in_values_of(Prompt(points=np.zeros((1, 3)), point_classes=np.array([2])), method, CLASSES)


# --- simulated ----------------------------------------------------------------------------------------------------


def a_label() -> Segmentation:
    return Segmentation(balls()[1], Geometry(SHAPE, LPS), CLASSES)


def test_simulated_points_are_the_centre_most_voxels() -> None:
    label = a_label()
    prompt = simulated(label, Prompts(simulate="points"), "a")
    assert prompt.point_classes.tolist() == [1, 2, 0]
    index = np.rint(label.geometry.to_index(prompt.points)).astype(int)
    assert [int(label.labels[tuple(i)]) for i in index] == [3, 5, 0]
    depth = ndimage.distance_transform_edt(np.pad(label.labels == 3, 1), sampling=label.geometry.spacing)
    assert depth[tuple(index[0] + 1)] == depth.max()
    assert prompt.source.startswith("simulated from the label")


def test_more_simulated_points_lie_deep_and_follow_the_seed() -> None:
    label = a_label()
    many = [simulated(label, Prompts(simulate="points", points=4, seed=s), "a").points for s in (0, 0, 1)]
    assert len(many[0]) == 12
    assert np.array_equal(many[0], many[1])
    assert not np.array_equal(many[0], many[2])


def test_simulated_boxes_hold_their_class_with_a_margin() -> None:
    label = a_label()
    prompt = simulated(label, Prompts(simulate="box", margin_percent=0), "a")
    box = on_grid(prompt, label.geometry).boxes[0] / label.geometry.spacing
    upright = np.flip(label.labels, (0, 1))
    places = np.argwhere(upright == 3)
    assert box.tolist() == [places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()]
    wider = on_grid(simulated(label, Prompts(simulate="box", margin_percent=10), "a"), label.geometry).boxes[
        0
    ]
    assert (wider / label.geometry.spacing - box).tolist() == [[-2, -3, -1], [2, 3, 1]]


def test_simulated_scribbles_stay_on_their_side() -> None:
    label = a_label()
    mask = simulated(label, Prompts(simulate="scribbles"), "a").mask
    assert mask is not None
    assert set(label.labels[mask == 1]) == {3}
    assert set(label.labels[mask == 2]) == {5}
    assert set(label.labels[mask == 255]) == {0}


def test_nothing_is_simulated_from_an_empty_label() -> None:
    empty = Segmentation(np.zeros(SHAPE, np.uint8), Geometry(SHAPE, LPS), CLASSES)
    with pytest.raises(UserError, match="the label has none of the classes"):
        simulated(empty, Prompts(simulate="points"), "a")


# --- on the road --------------------------------------------------------------------------------------------------


def test_a_folder_of_prompts_is_used_and_remembered_without_places(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "prompts" / f"{name}.json").write_text(json.dumps(three_points()))
    out, model = tmp_path / "out", a_model(tmp_path / "model")
    chosen = settings(predict={"prompt": str(tmp_path / "prompts")})
    result = predict_folder(model, scans, out, chosen)
    assert result.done == 2
    found = np.asarray(nibabel.load(out / "a.nii.gz").dataobj)
    assert dice(found == 3, balls()[1] == 3) > 0.95
    assert dice(found == 5, balls()[1] == 5) > 0.9
    facts = json.loads((out / "a.json").read_text())
    assert facts["prompt"] == {"source": "a file of prompts", "points": 3}
    assert str(tmp_path) not in json.dumps(facts["prompt"]) + json.dumps(facts["notes"])


def test_a_changed_prompt_is_done_again_and_an_unchanged_one_is_kept(scans: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (scans / "images" / f"{name}.prompt.json").write_text(json.dumps(three_points()))
    out, model = tmp_path / "out", a_model(tmp_path / "model")
    assert predict_folder(model, scans / "images", out, settings()).details["new"] == 2
    changed = three_points()
    changed["points"][2]["at"] = at(2, 2, 2)
    (scans / "images" / "a.prompt.json").write_text(json.dumps(changed))
    assert predict_folder(model, scans / "images", out, settings()).details["new"] == 1


def test_each_case_says_what_is_wrong_with_its_prompt_and_the_others_go_on(
    scans: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(three_points()))
    bad = {"points": [{"class": "big", "at": [500, 0, 0]}]}
    (folder / "b.json").write_text(json.dumps(bad))
    nibabel.save(nibabel.load(scans / "images" / "a.nii.gz"), scans / "images" / "c.nii.gz")
    chosen = settings(predict={"prompt": {"files": str(folder)}})
    result = predict_folder(a_model(tmp_path / "model"), scans / "images", tmp_path / "out", chosen)
    assert result.done == 1
    assert "(500, 0, 0) mm lies outside the image, which spans" in result.failed["b"]
    assert "random-walker needs a prompt and this case has none" in result.failed["c"]


def test_a_folder_of_prompts_that_is_not_there_is_said(scans: Path, tmp_path: Path) -> None:
    chosen = settings(predict={"prompt": "nowhere"})
    with pytest.raises(UserError, match="no folder or list of prompts 'nowhere'"):
        predict_folder(a_model(tmp_path / "model"), scans, tmp_path / "out", chosen)


def test_prompts_are_either_files_or_simulated() -> None:
    with pytest.raises(ValueError, match="leave out one of files and simulate"):
        settings(predict={"prompt": {"files": "x", "simulate": "box"}})


def test_a_simulated_prompt_says_that_it_knows_the_answer(scans: Path, tmp_path: Path) -> None:
    chosen = settings(predict={"prompt": "simulate"}, data={"classes": {"big": 3, "small": 5}})
    out = tmp_path / "out"
    assert predict_folder(a_model(tmp_path / "model"), scans, out, chosen).done == 2
    notes = json.loads((out / "a.json").read_text())["notes"]
    assert any("simulated from the label" in note and "knows part of the answer" in note for note in notes)


def test_a_case_without_a_label_cannot_be_simulated(scans: Path, tmp_path: Path) -> None:
    chosen = settings(predict={"prompt": "simulate"})
    with pytest.raises(UserError) as caught:
        predict_folder(a_model(tmp_path / "model"), scans / "images", tmp_path / "out", chosen)
    assert "this case has no label" in " ".join(caught.value.faults)


def test_one_image_takes_a_prompt_from_python_and_from_a_file(scans: Path, tmp_path: Path) -> None:
    model, image = a_model(tmp_path / "model"), scans / "images" / "a.nii.gz"
    path = tmp_path / "three.json"
    path.write_text(json.dumps(three_points()))
    places = np.array([entry["at"] for entry in three_points()["points"]])
    by_hand = predict(model, image, prompt=Prompt(points=places, point_classes=np.array([1, 2, 0])))
    by_file = predict(model, image, prompt=path)
    assert np.array_equal(by_hand.labels, by_file.labels)
    assert set(np.unique(by_file.labels)) == {0, 3, 5}


def test_a_method_without_use_for_prompts_ignores_them(scans: Path, tmp_path: Path) -> None:
    chosen = settings(predict={"prompt": "simulate"}, data={"classes": {"big": 3, "small": 5}})
    out = tmp_path / "out"
    predict_folder(a_model(tmp_path / "model", "threshold-multi-otsu"), scans, out, chosen)
    assert json.loads((out / "a.json").read_text())["prompt"] is None


def test_the_automatic_rule_of_growing_needs_no_prompt(scans: Path, tmp_path: Path) -> None:
    model = a_model(tmp_path / "model", "region-growing", rule="automatic", levels=3)
    assert predict_folder(model, scans / "images", tmp_path / "out", settings()).done == 2
