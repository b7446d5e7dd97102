"""The step: from a run folder with prepared cases to a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.config import Pipeline
from medseg.config_plan import save_plan
from medseg.core.errors import Interrupted, UserError
from medseg.core.run import RunFolder
from medseg.model.folder import load_facts, load_model, read_weights
from medseg.train import stage


@pytest.fixture
def walk(tmp_path: Path, ball: Callable, plan: Callable) -> Callable[..., tuple[Pipeline, RunFolder]]:
    """A run folder as far as ingest takes it: six balls, two of them for validation."""
    from medseg.data.cohort import find_cases, load_cohort, save_cohort
    from medseg.ingest.stage import run as ingest

    lines = ["case,image,label,split"]
    for number in range(6):
        case = ball(number)
        for kind, array in (("image", case.image[0].astype(np.float32)), ("label", case.target)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{kind}{number}.nii.gz")
        lines.append(
            f"c{number},image{number}.nii.gz,label{number}.nii.gz,{'val' if number > 3 else 'train'}"
        )
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    for number in range(6, 9):
        image = ball(number).image[0].astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / f"image{number}.nii.gz")
    lines += ["u6,image6.nii.gz,,", "u7,image7.nii.gz,,", "u8,image8.nii.gz,,test"]
    (tmp_path / "more.csv").write_text("\n".join(lines) + "\n")

    def make(name: str = "run", **changes) -> tuple[Pipeline, RunFolder]:
        values = {
            "name": "balls",
            "data": {"manifest": str(tmp_path / "cases.csv"), "classes": {"ball": 1}},
            "system": {"name": "3d-u-net", "size": "tiny"},
            "compute": {"cores": 1, "device": "cpu"},
            "track": {"enabled": False},
        }
        settings = {"steps": 4, "augment": "none", "precision": "fp32", **changes.pop("train", {})}
        pipeline = Pipeline(**{**values, **changes}, train=settings)
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        cohort = find_cases(pipeline.data)
        facts = [
            {"status": "ok" if row.labels else "skipped", "reason": "", "content": f"hash-{row.case}"}
            for row in cohort.rows
        ]
        save_cohort(cohort, folder, facts)
        save_plan(plan(classes=[info.as_json() for info in load_cohort(folder).classes]), folder.plan)
        ingest(pipeline, folder)
        return pipeline, folder

    return make


def test_a_network_is_trained_and_its_folder_says_how(walk: Callable) -> None:
    pipeline, folder = walk()
    result = stage.run(pipeline, folder)
    model = load_model(folder.model)
    assert model.hash == result.details["model"]
    assert model.system.name == "3d-u-net"
    assert result.done == 4
    assert "4 steps in" in result.line
    assert "validation Dice" in result.line
    assert model.facts["scores"]["n"] in (1, 2)
    assert model.facts["scores"]["per_class"]["ball"]["dice"] == pytest.approx(result.details["val_dice"])
    assert model.facts["training"]["cases"] == 4
    assert model.facts["training"]["settings"]["steps"] == 4
    assert len(model.facts["data_hash"]) == 64
    assert {path.name for path in folder.checkpoints.iterdir()} == {"finished", "last.safetensors"}
    assert len(folder.history.read_text().splitlines()) == 4


def test_names_of_cases_and_folders_are_not_in_the_model(walk: Callable, tmp_path: Path) -> None:
    pipeline, folder = walk()
    stage.run(pipeline, folder)
    text = (folder.model / "model.json").read_text()
    assert str(tmp_path) not in text
    assert '"c0"' not in text


def test_the_same_run_again_gives_the_same_model(walk: Callable) -> None:
    train = {"augment": "default", "steps": 3}
    hashes = {stage.run(*walk(name, train=train)).details["model"] for name in ("a", "b")}
    assert len(hashes) == 1


def test_an_interrupted_step_is_continued_to_the_same_model(
    walk: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    from medseg.train.sampler import Sampler

    pipeline, folder = walk("cut")
    whole = stage.run(*walk("whole")).details["model"]
    read = Sampler.batch

    def batch(self, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, step)

    monkeypatch.setattr(Sampler, "batch", batch)
    with pytest.raises(Interrupted):
        stage.run(pipeline, folder)
    assert not folder.model.exists()
    monkeypatch.undo()
    assert stage.run(pipeline, folder).details["model"] == whole


def test_training_without_labels_is_said(walk: Callable) -> None:
    pipeline, folder = walk()
    listing = folder.path / "prepared.json"
    listing.write_text(json.dumps({**json.loads(listing.read_text()), "cases": ["c4", "c5"]}))
    with pytest.raises(UserError, match="no training case has a label"):
        stage.run(pipeline, folder)


def test_a_classical_system_has_nothing_to_train(walk: Callable) -> None:
    pipeline, folder = walk(system={"name": "threshold-otsu"})
    result = stage.run(pipeline, folder)
    assert result.line == "nothing to train: threshold-otsu is computed"
    assert load_model(folder.model).classical is not None
    assert not folder.history.exists()


def test_a_given_model_is_copied_and_not_trained(walk: Callable) -> None:
    pipeline, folder = walk("first")
    digest = stage.run(pipeline, folder).details["model"]
    given, second = walk("second", predict={"model": str(folder.model)})
    result = stage.run(given, second)
    assert "nothing to train: the given 3d-u-net is used" in result.line
    assert load_facts(second.model)["hash"] == digest == result.details["model"]
    assert not second.history.exists()


def test_starting_from_a_model_takes_the_weights_that_fit_and_names_the_others(
    walk: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(stage, "say", said.append)
    pipeline, folder = walk("first")
    stage.run(pipeline, folder)
    slow = {"optimizer": {"rate": 1e-12, "weight_decay": 0}, "start_from": str(folder.model), "steps": 1}
    stage.run(*walk("second", train=slow))
    assert "44 of 44 weight tensors taken from train.start_from" in said[0]
    first, second = read_weights(folder.model), read_weights(folder.path.parent / "second" / "model")
    assert all(np.allclose(first[name], second[name], atol=1e-6) for name in first)
    said.clear()
    wider = {"name": "3d-u-net", "size": "tiny", "arguments": {"features": [4, 8, 20]}}
    stage.run(*walk("third", train=slow, system=wider))
    assert "new: analysis" in said[0]
    assert "needed 10" in said[0]


def test_starting_from_something_quite_different_is_refused(walk: Callable) -> None:
    pipeline, folder = walk("first", system={"name": "v-net", "size": "tiny"})
    stage.run(pipeline, folder)
    other, second = walk("second", train={"start_from": str(folder.model)})
    with pytest.raises(UserError, match=r"not one kernel of its \d+ weight tensors fits"):
        stage.run(other, second)
    lost, third = walk("third", train={"start_from": str(folder.path / "nowhere")})
    with pytest.raises(UserError, match="no such model folder"):
        stage.run(lost, third)


def test_a_start_of_other_axes_is_refused_although_its_norms_would_fit(
    walk: Callable, plan: Callable
) -> None:
    from medseg.config import System
    from medseg.model.folder import build_system
    from medseg.train.start_from import take_weights

    pipeline, folder = walk("first", system={"name": "u-net", "size": "tiny"})
    stage.run(pipeline, folder)
    flat, system = plan(dims=2, patch_size=[16, 16]), System(name="u-net", size="tiny")
    with pytest.raises(UserError, match="is a network of 3D kernels, this one has 2D kernels"):
        take_weights(build_system(system, flat), folder.model, system, flat)


def test_a_start_whose_channels_have_other_names_is_said(walk: Callable, plan: Callable) -> None:
    from medseg.model.folder import build_system, save_model
    from medseg.train.start_from import take_weights

    pipeline, folder = walk()
    system = pipeline.only_system
    t1, t2 = plan(channels=["t1"]), plan(channels=["t2"])
    save_model(folder.model, build_system(system, t1), system=system, plan=t1)
    taken = take_weights(build_system(system, t2), folder.model, system, t2)
    assert taken.line.endswith("; its images have the channels t1, these have t2")
    assert take_weights(build_system(system, t1), folder.model, system, t1).note == ""


def test_deep_supervision_reaches_systems_that_offer_it(
    walk: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.zoo.build import find

    said: list[str] = []
    monkeypatch.setattr(stage, "say", said.append)
    deep = {"deep_supervision": True}
    pipeline, _ = walk("a", system={"name": "nnunet-plain", "size": "tiny"}, train=deep)
    assert stage.with_deep_supervision(pipeline, find("nnunet-plain")).arguments == {"deep_supervision": True}
    pipeline, _ = walk("b", train=deep)
    assert stage.with_deep_supervision(pipeline, find("3d-u-net")).arguments == {}
    assert "no outputs for deep supervision" in said[0]


def test_a_loss_that_a_system_has_no_use_for_is_said(walk: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(stage, "say", said.append)
    stage.run(*walk(train={"loss": "focal", "steps": 1}, system={"name": "cnn-encoder-3d", "size": "tiny"}))
    assert "train    this system learns by a loss of its own; without effect: train.loss" in said


def test_cases_are_held_in_memory_only_when_there_is_room(walk: Callable) -> None:
    from medseg.ingest.cache import prepared_cases

    pipeline, folder = walk()
    paths = prepared_cases(folder)
    held = stage.open_cases(paths, pipeline)["c0"]
    tight = pipeline.model_copy(update={"compute": pipeline.compute.model_copy(update={"ram": "100 kB"})})
    stored = stage.open_cases(paths, tight)["c0"]
    box = ([2, 3, 4], [12, 13, 14])
    assert np.array_equal(held.read_image(*box), stored.read_image(*box))
    assert isinstance(held._image, np.ndarray)
    assert not isinstance(stored._image, np.ndarray)


def test_the_step_is_done_again_when_seed_or_given_model_change(walk: Callable, tmp_path: Path) -> None:
    pipeline, folder = walk()
    before = stage.inputs(pipeline, folder)
    assert stage.inputs(pipeline, folder) == before
    reseeded = pipeline.model_copy(update={"compute": pipeline.compute.model_copy(update={"seed": 4})})
    more_cores = pipeline.model_copy(update={"compute": pipeline.compute.model_copy(update={"cores": 2})})
    assert stage.inputs(reseeded, folder) != before
    assert stage.inputs(more_cores, folder) == before


def test_cases_without_a_label_take_part_where_a_procedure_learns_from_them(
    walk: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(stage, "say", said.append)
    data = {"manifest": str(tmp_path / "more.csv"), "classes": {"ball": 1}}
    pipeline, folder = walk("teacher", data=data, train={"procedure": "mean_teacher"})
    stage.run(pipeline, folder)
    facts = load_facts(folder.model)["training"]
    assert facts["unlabelled_cases"] == 2
    assert "mean teacher" in facts["notes"][0]
    assert facts["kept"] == "the running average of the weights"
    assert any("2 cases without a label take part" in line for line in said)
    plain, other = walk("plain", data=data)
    stage.run(plain, other)
    assert load_facts(other.model)["training"]["unlabelled_cases"] == 0
    assert load_facts(other.model)["hash"] != load_facts(folder.model)["hash"]


def test_scans_of_held_out_patients_are_not_learnt_from_without_a_label_either(
    walk: Callable, tmp_path: Path
) -> None:
    from medseg.train.unlabelled import unlabelled_rows

    lines = ["case,patient,image,label,split"]
    lines += [f"c{i},p{i},image{i}.nii.gz,label{i}.nii.gz,{'val' if i > 3 else 'train'}" for i in range(6)]
    lines += ["again,p5,image6.nii.gz,,", "other,p9,image7.nii.gz,,"]
    (tmp_path / "patients.csv").write_text("\n".join(lines) + "\n")
    _, folder = walk("run", data={"manifest": str(tmp_path / "patients.csv"), "classes": {"ball": 1}})
    assert [row.case for row in unlabelled_rows(folder)] == ["other"]


def test_the_last_layers_start_anew_for_other_classes_even_when_their_number_is_the_same(
    walk: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(stage, "say", said.append)
    pipeline, folder = walk("first")
    stage.run(pipeline, folder)
    still = {"optimizer": {"rate": 1e-12, "weight_decay": 0}, "from": str(folder.model), "steps": 1}
    data = {"manifest": str(tmp_path / "cases.csv"), "classes": {"globe": 1}}
    stage.run(*walk("second", train=still, data=data))
    assert "other classes, the given model has ball" in said[0]
    assert "42 of 44 weight tensors" in said[0]
    first, second = read_weights(folder.model), read_weights(tmp_path / "second" / "model")
    changed = {name for name in first if not np.allclose(first[name], second[name], atol=1e-6)}
    assert changed
    assert {name.rpartition(".")[0] for name in changed} == {"head"}


def test_frozen_weights_stay_as_they_are(walk: Callable, tmp_path: Path) -> None:
    pipeline, folder = walk("first")
    stage.run(pipeline, folder)
    freeze = {"start_from": str(folder.model), "freeze": ["analysis.*"], "steps": 3}
    stage.run(*walk("second", train=freeze))
    first, second = read_weights(folder.model), read_weights(tmp_path / "second" / "model")
    for name in first:
        same = bool((first[name] == second[name]).all())
        assert same == name.startswith("analysis.") or not name.startswith("analysis."), name
    assert any(not bool((first[name] == second[name]).all()) for name in first)


def test_patterns_that_freeze_nothing_or_everything_are_refused(walk: Callable) -> None:
    with pytest.raises(
        UserError, match=r"no weight of this network is named like 'analisis\.\*', did you mean analysis"
    ):
        stage.run(*walk("a", train={"freeze": ["analisis.*"]}))
    with pytest.raises(UserError, match="weights are frozen, so nothing is learnt"):
        stage.run(*walk("b", train={"freeze": ["*"]}))
