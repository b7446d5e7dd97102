"""A cascade: the masks of an earlier run are further channels of the next network, in training and in prediction."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg import pipeline as road
from medseg.config import IntensityPlan, Pipeline, Plan, Predict
from medseg.config_plan import load_plan
from medseg.config_planned import Previous
from medseg.core import ClassInfo, UserError
from medseg.core.atomic import read_json
from medseg.core.run import RunFolder
from medseg.ingest import previous
from medseg.ingest.augment.build import build_augmenter
from medseg.ingest.cache import open_prepared, prepared_cases
from medseg.ingest.previous import in_words, masks_for, masks_of, read_previous
from medseg.io.doors import read_image
from medseg.model.ensemble import save_ensemble
from medseg.model.export import export_model
from medseg.model.folder import load_model, verify_model
from medseg.predict.case import Predictor
from medseg.predict.many import _announce, _need, _prepare_budget
from medseg.predict.stage import open_job
from medseg.train import cascade, stage

CASES = 5
TURNED = np.array([[0, -2.0, 0, 30], [2, 0, 0, -7], [0, 0, -2, 11], [0, 0, 0, 1]])
"""Voxel axes of the files: their first runs to the front, their second to the right."""


def write_cohort(place: Path) -> Path:
    """Bright balls at places of their own, in files whose axes are permuted and turned."""
    lines = ["case,image,label,split"]
    for number in range(CASES):
        rng = np.random.default_rng(number)
        centre = np.array([8 + number, 14, 7 + 2 * number]).reshape(3, 1, 1, 1)
        inside = ((np.indices((26, 22, 24)) - centre) ** 2).sum(0) < 25
        image = (100 * inside + rng.normal(0, 8, inside.shape)).astype(np.float32)
        for kind, array in (("image", image), ("label", inside.astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, TURNED), place / f"{kind}{number}.nii.gz")
        lines.append(
            f"c{number},image{number}.nii.gz,label{number}.nii.gz,{'val' if number > 3 else 'train'}"
        )
    (place / "cases.csv").write_text("\n".join(lines) + "\n")
    return place / "cases.csv"


def make_pipeline(manifest: Path, system: Any, **sections: Any) -> Pipeline:
    train = {
        "steps": 3,
        "precision": "fp32",
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "augment": "light",
        **sections.pop("train", {}),
    }
    return Pipeline.model_validate(
        {
            "name": "t",
            "data": {"manifest": str(manifest), "classes": {"ball": 1}},
            "system": system,
            "train": train,
            "score": {"metrics": ["dice"]},
            "predict": {"engine": "torch", "overlap": 0.25, **sections.pop("predict", {})},
            "compute": {"cores": 1, "device": "cpu"},
            "track": {"enabled": False},
            **sections,
        }
    )


TINY = {"name": "3d-u-net", "size": "tiny"}


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """FIRST: Otsu's threshold of every case. SECOND: a tiny network on a finer grid that gets its masks."""
    place = tmp_path_factory.mktemp("cascade")
    manifest = write_cohort(place)
    first, second = place / "FIRST", place / "SECOND"
    steps = ("check", "plan", "ingest", "train", "predict")
    road.run(make_pipeline(manifest, "threshold-otsu"), first, steps=steps)
    ingest = {"spacing_mm": [1.6, 1.6, 1.6], "previous": str(first)}
    pipeline = make_pipeline(manifest, TINY, ingest=ingest)
    road.run(pipeline, second, steps=(*steps, "score"))
    return SimpleNamespace(
        place=place, manifest=manifest, first=first, second=RunFolder(second), pipeline=pipeline
    )


def test_the_plan_counts_the_masks_as_channels_and_says_so(journeys: SimpleNamespace) -> None:
    plan = load_plan(journeys.second.plan)
    assert (plan.in_channels, plan.image_channels, len(plan.intensity)) == (2, 1, 1)
    assert plan.previous is not None
    assert [info["name"] for info in plan.previous.classes] == ["ball"]
    assert "1 of the image, 1 of masks: ball" in plan.reasons["in_channels"]


def test_masks_lie_on_the_prepared_grid_where_the_label_lies(journeys: SimpleNamespace) -> None:
    found = prepared_cases(journeys.second)
    assert len(found) == CASES
    for path in found.values():
        case = open_prepared(path)
        zeros = [0] * 3
        image, target = case.read_image(zeros, case.shape), case.read_target(zeros, case.shape)
        assert image.shape == (2, *target.shape)
        mask = image[1].astype(np.float32)
        assert set(np.unique(mask)) == {0.0, 1.0}
        dice = 2 * (mask * (target == 1)).sum() / (mask.sum() + (target == 1).sum())
        assert dice > 0.95
        turned = mask[::-1]
        assert 2 * (turned * (target == 1)).sum() / (turned.sum() + (target == 1).sum()) < 0.9


def test_the_model_folder_holds_both_stages_and_needs_nothing_else(
    journeys: SimpleNamespace, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(journeys.second.model, moved)
    assert sorted(path.name for path in moved.iterdir()) == ["model.json", "model.safetensors", "previous"]
    model = load_model(moved)
    assert model.previous is not None
    assert model.previous.system.name == "threshold-otsu"
    image = read_image(journeys.place / "image0.nii.gz")
    here = Predictor(load_model(journeys.second.model), Predict(engine="torch", overlap=0.25)).segment(image)
    there = Predictor(model, Predict(engine="torch", overlap=0.25)).segment(image)
    assert np.array_equal(here.labels, there.labels)
    assert here.geometry.same_grid(image.geometry)


def test_the_second_stage_uses_the_masks(
    journeys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its probabilities change when the masks are blanked, and near the masks most."""
    image = read_image(journeys.place / "image0.nii.gz")

    def chances() -> np.ndarray:
        found = np.zeros((2, *image.geometry.shape), np.float32)

        def sink_of(prepared: Any) -> Any:
            def take(box: Any, values: Any) -> None:
                found[(slice(None), *box)] = values.numpy()

            found.resize((2, *prepared.kept.shape), refcheck=False)
            return take

        Predictor(load_model(journeys.second.model), Predict(engine="torch")).segment(image, sink=sink_of)
        return found

    as_trained = chances()
    own = Predictor._classical

    def blank(self: Predictor, *given: Any) -> Any:
        labels, regions, classes = own(self, *given)
        return np.zeros_like(labels), regions, classes

    monkeypatch.setattr(Predictor, "_classical", blank)
    assert np.abs(as_trained - chances()).max() > 1e-3


def test_members_of_an_ensemble_share_one_earlier_stage(journeys: SimpleNamespace, tmp_path: Path) -> None:
    save_ensemble(tmp_path / "both", {"a": journeys.second.model, "b": journeys.second.model})
    model = load_model(tmp_path / "both")
    assert model.previous is not None
    image = read_image(journeys.place / "image2.nii.gz")
    settings = Predict(engine="torch", overlap=0.25)
    single = Predictor(load_model(journeys.second.model), settings).segment(image)
    assert np.array_equal(Predictor(model, settings).segment(image).labels, single.labels)
    shutil.copytree(tmp_path / "both", tmp_path / "moved")
    assert load_model(tmp_path / "moved").previous is not None


def test_both_stages_keep_the_memory_that_is_allowed(journeys: SimpleNamespace, tmp_path: Path) -> None:
    """What is announced covers the mask of the first stage; too little memory is refused before the case."""
    pipeline = journeys.pipeline.model_copy(update={"predict": Predict(engine="torch")})
    job = open_job(pipeline, [journeys.second.model], tmp_path)
    image = read_image(journeys.place / "image0.nii.gz")
    _prepare_budget(job)
    need = _need(job, image)
    assert need is not None
    assert need.image == image.array.nbytes
    assert need.labels == 2 * image.array.size
    job.budget = 1000
    with pytest.raises(UserError, match="of memory"):
        _announce(job, image, SimpleNamespace(case="c0"))


def test_every_case_was_predicted_and_scored(journeys: SimpleNamespace) -> None:
    assert read_json(journeys.second.scores_json)["n"] == 1
    assert len(list(journeys.second.predictions.glob("*.nii.gz"))) == 1


def test_an_exchanged_or_lost_earlier_stage_is_refused(journeys: SimpleNamespace, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(journeys.second.model, moved)
    shutil.rmtree(moved / "previous")
    with pytest.raises(UserError, match="expected previous, found no such file"):
        verify_model(moved)
    shutil.copytree(journeys.second.model, moved / "previous")
    with pytest.raises(UserError, match="expected the earlier stage"):
        verify_model(moved)


def test_a_killed_training_leaves_a_folder_that_is_refused_rather_than_used_without_masks(
    journeys: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the weights and the copy of the earlier stage."""
    folder = RunFolder(tmp_path / "again")
    shutil.copytree(journeys.second.path, folder.path)
    shutil.rmtree(folder.model)
    monkeypatch.setattr(stage, "add_earlier", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        stage.run(journeys.pipeline, folder)
    with pytest.raises(UserError, match="expected previous"):
        load_model(folder.model)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_cascade_of_a_cascade_is_refused(journeys: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="is a cascade itself") as caught:
        read_previous(str(journeys.second.path))
    assert caught.value.where == "ingest.previous"


def test_the_second_stage_is_not_exported_alone(journeys: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a cascade: its network needs the masks"):
        export_model(journeys.second.model, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished model"):
        read_previous(str(tmp_path))


def test_cases_that_the_earlier_run_has_not_predicted_are_counted_and_named(
    journeys: SimpleNamespace, tmp_path: Path
) -> None:
    strange = tmp_path / "strange.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), strange)
    rows = [
        SimpleNamespace(case="known", images=((str(journeys.place / "image1.nii.gz"),),)),
        SimpleNamespace(case="strange", images=((str(strange),),)),
    ]
    with pytest.raises(UserError, match="no mask of 1 of 2 cases, the first is strange") as caught:
        masks_for(str(journeys.first), rows)
    assert "--folds all" in caught.value.hint
    assert set(masks_for(str(journeys.first), rows[:1])) == {"known"}


def test_a_classical_method_takes_no_masks(journeys: SimpleNamespace, tmp_path: Path) -> None:
    pipeline = make_pipeline(journeys.manifest, "threshold-otsu", ingest={"previous": str(journeys.first)})
    with pytest.raises(UserError, match="no masks of an earlier stage"):
        road.run(pipeline, tmp_path / "run", steps=("check", "plan"))


def test_a_procedure_for_unlabelled_cases_is_refused(journeys: SimpleNamespace) -> None:
    train = {**journeys.pipeline.train.model_dump(), "procedure": "mean_teacher"}
    pipeline = journeys.pipeline.model_copy(update={"train": type(journeys.pipeline.train)(**train)})
    with pytest.raises(UserError, match="labelled cases only"):
        stage.unlabelled_of(pipeline, journeys.second, load_plan(journeys.second.plan))


# --- which mask a case gets ---------------------------------------------------------------------------------------


def fake_run(place: Path, folds: int) -> None:
    """A run folder as a cross-validation leaves it, with sidecars and masks that name who drew them."""
    import pandas as pd

    from medseg.core.atomic import write_json
    from medseg.model.folder import save_model

    plan = make_plan(previous=None, in_channels=1)
    method = Pipeline.model_validate({"name": "t", "system": "threshold-otsu"}).only_system
    run = RunFolder(place)
    save_model(run.model, None, system=method, plan=plan, extra={"training": {"settings": {}}})
    splits = pd.DataFrame({"case": ["a", "b"], "split": ["train", "val"]})
    run.cases.parent.mkdir(parents=True, exist_ok=True)
    splits.to_parquet(run.cases)

    def draw(folder: RunFolder, case: str) -> None:
        folder.predictions.mkdir(parents=True, exist_ok=True)
        (folder.predictions / f"{case}.nii.gz").write_bytes(b"mask")
        write_json(
            folder.predictions / f"{case}.json",
            {"case": case, "input": f"bytes of {case}", "files": [f"{case}.nii.gz"]},
        )

    draw(run, "a")
    draw(run, "b")
    for number, case in zip(range(folds), "ab"):
        member = run.fold(f"fold-{number}")
        member.path.mkdir(parents=True)
        pd.DataFrame(
            {"case": ["a", "b"], "split": ["val" if name == case else "train" for name in "ab"]}
        ).to_parquet(member.cases)
        write_json(member.member, {"fold": number, "seed": 17, "settings": ""})
        draw(member, case)


def test_masks_of_models_that_have_not_seen_the_case_come_first(tmp_path: Path) -> None:
    fake_run(tmp_path, folds=2)
    found = masks_of(str(tmp_path))
    assert {mask.path.parent.parent.name for mask in found.values()} == {"fold-0", "fold-1"}
    assert not any(mask.seen for mask in found.values())
    assert "none of a case that its model was trained on" in in_words(found)


def test_masks_of_cases_that_were_learnt_are_said(tmp_path: Path) -> None:
    fake_run(tmp_path, folds=0)
    found = masks_of(str(tmp_path))
    assert found["bytes of a"].seen
    assert not found["bytes of b"].seen
    assert in_words(found).startswith(
        "1 of 2 masks of the earlier stage show cases that its model was trained"
    )


# --- augmentation -------------------------------------------------------------------------------------------------

SIDED = [
    ClassInfo("left kidney", 1, (1, 1, 1), laterality="left").as_json(),
    ClassInfo("right kidney", 2, (1, 1, 1), laterality="right").as_json(),
]


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "dims": 3,
        "in_channels": 3,
        "previous": Previous(model="0", classes=SIDED),
        "classes": SIDED,
        "out_channels": 3,
        "spacing_mm": [1.0, 1.0, 1.0],
        "intensity": [IntensityPlan(scheme="none")],
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "mirror_axes": [1, 2],
    }
    return Plan(**{**values, **changes})


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two patches whose masks are their targets."""
    rng = np.random.default_rng(seed)
    target = np.zeros((2, 16, 16, 16), np.uint8)
    target[:, 2:7, 3:9, 2:12] = 1
    target[:, 9:14, 3:8, 5:12] = 2
    targets = torch.from_numpy(target)
    image = torch.from_numpy(rng.normal(size=(2, 1, 16, 16, 16)).astype(np.float32))
    return torch.cat([image, cascade.as_channels(targets, 2)], dim=1), targets


SPATIAL = {
    "rotate": {"probability": 1.0},
    "scale": {"probability": 1.0},
    "flip": {"probability": 1.0},
    "noise": {"probability": 1.0},
    "truncate": {"probability": 0.5},
}


@pytest.mark.parametrize("spec", [SPATIAL, {**SPATIAL, "swap_sides": {"probability": 1.0}}])
def test_masks_move_with_the_label_and_keep_clear_of_intensities(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "spoil", lambda positions, classes, rng: positions)
    images, targets = batch()
    augmenter = cascade.CascadeAugmenter(build_augmenter(spec, make_plan()), make_plan())
    moved, changed = augmenter(images, targets, np.random.default_rng(3))
    assert moved.shape == images.shape
    assert torch.equal(moved[:, 1:], cascade.as_channels(changed, 2))
    assert not torch.equal(changed, targets)
    assert not torch.equal(moved[:, :1], images[:, :1])


def test_the_same_random_numbers_give_the_same_batch() -> None:
    images, targets = batch()
    augmenter = cascade.CascadeAugmenter(build_augmenter(SPATIAL, make_plan()), make_plan())
    one, other, third = (augmenter(images, targets, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], third[0])


def test_the_image_and_the_label_are_those_without_a_cascade() -> None:
    images, targets = batch()
    plain = build_augmenter(SPATIAL, make_plan())
    augmenter = cascade.CascadeAugmenter(plain, make_plan())
    moved, changed = augmenter(images, targets, np.random.default_rng(5))
    alone, label = plain(images[:, :1], targets, np.random.default_rng(5))
    assert torch.equal(moved[:, :1], alone)
    assert torch.equal(changed, label)


def test_sides_without_a_partner_cannot_be_swapped() -> None:
    plan = make_plan(previous=Previous(model="0", classes=SIDED[:1]), in_channels=2)
    with pytest.raises(UserError, match="left kidney of the earlier stage has no partner"):
        cascade.CascadeAugmenter(build_augmenter({"swap_sides": 0.5}, plan), plan)


def ball(radius: float, n: int = 33) -> np.ndarray:
    return ((np.indices((n,) * 3) - n // 2) ** 2).sum(0) <= radius**2


def test_balls_grow_and_shrink_by_the_radius() -> None:
    assert np.array_equal(cascade.dilate(ball(0), 5), ball(5))
    assert cascade.dilate(ball(5), 3).sum() > 1.7 * ball(5).sum()
    assert cascade.erode(ball(8), 3).sum() < 0.4 * ball(8).sum()
    assert not cascade.dilate(np.zeros((4, 4), bool), 3).any()
    assert cascade.erode(np.ones((4, 4), bool), 3).all()


def test_opening_loses_thin_parts_and_closing_fills_gaps() -> None:
    mask = ball(6)
    thread = mask.copy()
    thread[16, 16, :] = True
    assert not cascade.open_(thread, 3)[16, 16, 0]
    hole = mask.copy()
    hole[16, 16, 16] = False
    assert cascade.close(hole, 2)[16, 16, 16]


@pytest.mark.parametrize("operation", cascade.CHANGES, ids=lambda one: one.__name__)
def test_a_change_within_the_box_of_a_class_is_that_of_the_whole_patch(
    operation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "CHANGES", (operation,))
    monkeypatch.setattr(cascade, "RADIUS", (3, 3))
    rng = np.random.default_rng(1)
    mask = cascade.dilate(rng.random((40, 40, 40)) > 0.9995, 3)
    mask[:, :, :4] = False
    positions = mask.astype(np.uint8)
    cascade.change_shape(positions, 1, np.random.default_rng(0))
    assert np.array_equal(positions == 1, operation(mask, 3))


def test_what_a_class_gains_is_taken_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "CHANGES", (cascade.dilate,))
    positions = np.zeros((20, 8, 8), np.uint8)
    positions[:10], positions[10:] = 1, 2
    cascade.change_shape(positions, 1, np.random.default_rng(2))
    assert set(np.unique(positions)) <= {1, 2}
    assert (positions == 1).sum() > 10 * 64


def test_one_small_part_is_lost_and_no_large_one() -> None:
    positions = np.zeros((20, 20, 20), np.uint8)
    positions[:10, :10, :] = 1
    positions[15:17, 15:17, 2:4] = 1
    positions[15:17, 15:17, 8:10] = 1
    cascade.remove_part(positions, 1, np.random.default_rng(0))
    assert (positions == 1).sum() == 10 * 10 * 20 + 8
    empty = np.zeros((5, 5), np.uint8)
    cascade.remove_part(empty, 1, np.random.default_rng(0))
    assert not empty.any()


def test_masks_are_spoilt_as_often_as_is_said() -> None:
    positions = np.zeros((24, 24, 24), np.uint8)
    positions[8:15, 8:15, 8:15] = 1
    rng = np.random.default_rng(0)
    changed = sum(not np.array_equal(cascade.spoil(positions, 1, rng), positions) for _ in range(400))
    # Morphology 0.4 x 0.5 (opening, closing and small radii may change nothing), removal 0.2 x 0.5.
    assert 0.15 < changed / 400 < 0.32
    assert (positions == 1).sum() == 343


def test_channels_and_positions_are_one_and_the_same() -> None:
    images, targets = batch()
    assert torch.equal(cascade.as_positions(images[:, 1:]), targets)


# --- held-out cases -----------------------------------------------------------------------------------------------


def test_held_out_cases_get_masks_by_models_that_have_not_seen_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_cohort(tmp_path)
    lines = [line.rpartition(",")[0] for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(lines) + "\n")  # no split: two folds are dealt
    crossed = {"data": {"manifest": str(manifest), "classes": {"ball": 1}, "split": {"folds": 2}}}
    first, second = RunFolder(tmp_path / "FIRST"), RunFolder(tmp_path / "SECOND")
    road.run(make_pipeline(manifest, TINY, **crossed, train={"steps": 1, "folds": "all"}), first.path)
    drawn = {}
    for member in first.finished_folds():
        for path in member.predictions.glob("c*.nii.gz"):
            mask = nib.load(path)
            drawn[path.name.partition(".")[0]] = found = np.zeros(mask.shape, np.uint8)
            found[2 + int(path.name[1]), 3:9, 3:9] = 1  # unlike anything that would be drawn anew
            nib.save(nib.Nifti1Image(found, mask.affine), path)
    assert set(drawn) == {f"c{n}" for n in range(CASES)}

    pipeline = make_pipeline(
        manifest, TINY, **crossed, ingest={"previous": str(first.path)}, train={"steps": 1}
    )
    road.run(pipeline, second.path, steps=("check", "plan", "ingest", "train"))
    seen = []
    appended = previous.with_previous
    monkeypatch.setattr(
        previous,
        "with_previous",
        lambda prepared, seg, plan: seen.append(seg.labels) or appended(prepared, seg, plan),
    )
    road.run(pipeline, second.path, steps=("predict",))
    sidecars = sorted(second.predictions.glob("c*.json"))
    assert len(seen) == len(sidecars) > 0
    for labels, path in zip(seen, sidecars):
        assert np.array_equal(labels, drawn[path.stem])
    seen.clear()
    alone = pipeline.model_copy(
        update={"predict": pipeline.predict.model_copy(update={"model": str(second.model)})}
    )
    road.run(
        alone, tmp_path / "NEW"
    )  # of a model that was given nobody knows which cases are new: it draws them
    assert len(seen) == CASES
    assert not any(np.array_equal(labels, mask) for labels in seen for mask in drawn.values())
