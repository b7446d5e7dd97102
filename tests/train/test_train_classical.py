"""Classical methods in training: what they learn is stored and used again, arguments are searched and tabled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg import pipeline as road
from medseg.config import Pipeline
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.model.folder import copy_model, load_facts, load_model, verify_model
from medseg.predict.api import predict

SHAPE = (14, 15, 12)


def a_case(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A dark ball in bright noise, and its label 4."""
    rng = np.random.default_rng(number)
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0)
    labels = np.where(((grid - [6, 7, 5]) ** 2).sum(-1) < 16, 4, 0).astype(np.uint8)
    return (np.where(labels, 20.0, 90.0) + rng.normal(0, 4, SHAPE)).astype(np.float32), labels


@pytest.fixture
def walked(tmp_path: Path) -> Callable[..., RunFolder]:
    """Walks check, plan, ingest and train over five cases, two of them for validation."""
    lines = ["case,image,label,split"]
    for number in range(5):
        image, labels = a_case(number)
        for kind, array in (("image", image), ("label", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{kind}{number}.nii.gz")
        split = "val" if number > 2 else "train"
        lines.append(f"c{number},image{number}.nii.gz,label{number}.nii.gz,{split}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")

    def walk(system: Any, steps: tuple[str, ...] = (), **sections: Any) -> RunFolder:
        values = {
            "name": "dark",
            "data": {"manifest": str(tmp_path / "cases.csv"), "classes": {"hole": 4}},
            "system": system,
            "compute": {"cores": 1},
            "track": {"enabled": False},
            **sections,
        }
        out = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        wanted = ("check", "plan", "ingest", "train", *steps)
        return road.run(Pipeline.model_validate(values), out, steps=wanted).folder

    return walk


def test_a_search_finds_that_the_object_is_dark_and_keeps_the_table(walked: Callable) -> None:
    folder = walked("threshold-otsu", train={"search": 10})
    facts = load_facts(folder.model)
    found = facts["training"]["search"]
    assert found["best"] == {"dark": True}
    assert facts["system"]["arguments"] == {"dark": True}
    assert [one["arguments"] for one in found["tried"]] == [{}, {"dark": True}]
    assert found["tried"][0]["dice"] < 0.2 < 0.9 < found["tried"][1]["dice"] == found["dice"]
    assert (found["cases"], found["of"]) == (3, 3)
    assert facts["scores"]["n"] == 2
    assert facts["scores"]["dice"] > 0.9
    assert facts["scores"]["per_class"]["hole"]["dice"] == pytest.approx(facts["scores"]["dice"])


def test_what_was_found_is_used_and_training_cases_are_not_scored(walked: Callable) -> None:
    folder = walked("threshold-otsu", ("predict",), train={"search": 10})
    assert sorted(p.name for p in folder.predictions.glob("*.nii.gz")) == ["c3.nii.gz", "c4.nii.gz"]
    found = np.asarray(nibabel.load(folder.predictions / "c3.nii.gz").dataobj)
    assert (found == a_case(3)[1]).mean() > 0.99


def test_without_a_search_the_published_setting_is_written_down_and_all_cases_predicted(
    walked: Callable,
) -> None:
    folder = walked("threshold-otsu", ("predict",))
    facts = load_facts(folder.model)
    assert "training" not in facts
    assert facts["system"]["arguments"] == {}
    assert len(list(folder.predictions.glob("*.nii.gz"))) == 5


def test_arguments_that_a_person_set_are_not_searched(walked: Callable) -> None:
    system = {"name": "threshold-iterative", "arguments": {"dark": False}}
    with pytest.raises(UserError, match="threshold-iterative has no arguments left to search"):
        walked(system, train={"search": 10})


def test_a_grid_larger_than_the_search_is_drawn_from(walked: Callable) -> None:
    folder = walked("threshold-adaptive", train={"search": 6})
    tried = [one["arguments"] for one in load_facts(folder.model)["training"]["search"]["tried"]]
    assert tried[0] == {}
    assert 4 <= len(tried) <= 6
    assert len({json.dumps(one, sort_keys=True) for one in tried}) == len(tried)
    again = walked("threshold-adaptive", train={"search": 6})
    assert [one["arguments"] for one in load_facts(again.model)["training"]["search"]["tried"]] == tried


def test_the_search_ends_with_its_minutes_and_says_so(walked: Callable) -> None:
    folder = walked("threshold-adaptive", train={"search": 20, "minutes": 1e-6})
    found = load_facts(folder.model)["training"]["search"]
    assert (found["cases"], len(found["tried"])) == (1, 1)
    assert "1 cases of 3 (the time was over)" in folder.steps_done()["train"]["line"]


def test_settings_that_cannot_be_used_are_tabled_with_their_reason(walked: Callable) -> None:
    folder = walked("threshold-fixed", train={"search": 60})
    found = load_facts(folder.model)["training"]["search"]
    assert found["published"] is None
    reasons = [one["reason"] for one in found["tried"] if "reason" in one]
    assert any("neither `low` nor `high`" in reason for reason in reasons)
    assert any("is above high" in reason for reason in reasons)
    assert found["dice"] > 0.5


def test_a_method_whose_classes_are_none_of_the_labels_says_so(walked: Callable) -> None:
    system = {"name": "cluster-kmeans", "arguments": {"clusters": 4}}
    with pytest.raises(
        UserError, match=r"no setting of cluster-kmeans could be used: its classes \(cluster 1"
    ):
        walked(system, train={"search": 3})


def test_methods_that_need_prompts_are_searched_with_them(walked: Callable) -> None:
    folder = walked("random-walker", train={"search": 3}, predict={"prompt": "simulate"})
    facts = load_facts(folder.model)
    assert facts["training"]["search"]["dice"] > 0.9
    assert facts["scores"]["dice"] > 0.9


@pytest.mark.parametrize("name", ["pgm-generative", "pgm-discriminative", "pgm-bayesian-network"])
def test_what_was_fitted_is_stored_and_gives_the_same_labels(
    walked: Callable, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.zoo.classical.method import Classical

    kept: list[Classical] = []
    state = Classical.state
    monkeypatch.setattr(Classical, "state", lambda self: (kept.append(self), state(self))[1])
    arguments = {"trees": 8} if name == "pgm-discriminative" else {}
    folder = walked({"name": name, "arguments": arguments})
    facts = verify_model(folder.model)
    assert facts["kind"] == "classical"
    assert facts["training"]["fitted"] == 3
    assert sorted(p.name for p in folder.model.iterdir()) == ["model.json", "model.safetensors"]
    copy_model(folder.model, tmp_path / "copy")
    loaded = load_model(tmp_path / "copy").classical
    image = a_case(9)[0][None]
    before, after = kept[0].segment(image, (1, 1, 1)), loaded.segment(image, (1, 1, 1))
    assert np.array_equal(before, after)
    assert loaded.classes == {1: "hole"}
    result = predict(tmp_path / "copy", tmp_path / "image3.nii.gz")
    true = a_case(3)[1]
    assert (
        2 * ((result.labels == 4) & (true == 4)).sum() / ((result.labels == 4).sum() + (true == 4).sum())
        > 0.8
    )
    if arguments:
        assert facts["weights"]["parameters"] < 20_000


def test_what_was_fitted_must_fit_the_method(walked: Callable, tmp_path: Path) -> None:
    loaded = load_model(walked("pgm-bayesian-network").model).classical
    arrays = loaded.state()
    with pytest.raises(UserError, match="what pgm-bayesian-network learnt does not fit this version"):
        loaded.restore({k: v for k, v in arrays.items() if k != "prior"}, {1: "hole"})
    plain = load_model(walked("threshold-otsu").model).classical
    with pytest.raises(UserError, match="threshold-otsu learns nothing, and its model holds 6 arrays"):
        plain.restore(arrays, {1: "hole"})


def test_a_changed_prompt_in_the_manifest_is_predicted_again(walked: Callable, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[6, 7, 5], mask[0, 0, 0] = 4, 255
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "strokes.nii.gz")
    (tmp_path / "cases.csv").write_text(
        "case,image,label,prompt\nc0,image0.nii.gz,label0.nii.gz,strokes.nii.gz\nc1,image1.nii.gz,label1.nii.gz,lost.png\n"
    )
    folder = walked("interactive-seeds", ("predict",))
    checked = json.loads((folder.path / "steps.json").read_text())["check"]["result"]["failed"]
    assert "column 'prompt' does not exist" in checked["c1"]
    facts = json.loads((folder.predictions / "c0.json").read_text())
    assert facts["prompt"] == {"source": "a mask of scribbles", "voxels": 2}
    mask[12, 12, 10] = 255
    nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / "strokes.nii.gz")
    values = Pipeline.model_validate(
        {
            "name": "dark",
            "data": {"manifest": str(tmp_path / "cases.csv"), "classes": {"hole": 4}},
            "system": "interactive-seeds",
            "compute": {"cores": 1},
            "track": {"enabled": False},
        }
    )
    road.run(values, folder.path, steps=("check", "plan", "ingest", "train", "predict"))
    assert json.loads((folder.predictions / "c0.json").read_text())["prompt"]["voxels"] == 3
