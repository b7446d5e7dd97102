"""How sure a network is: figures of whole cases equal those worked out at once, and stand beside every mask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas
import pytest
import torch

from medseg.config import IntensityPlan, Pipeline, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.ensemble import load_models
from medseg.model.folder import Model, build_system, load_model, save_model
from medseg.predict import confidence
from medseg.predict.case import Predictor
from medseg.predict.confidence import Confidence, Disagreement, summary
from medseg.predict.folder import predict_folder
from medseg.predict.outputs import settings_digest
from medseg.predict.windows import Slab

NAMES = ("organ", "vessel")
SHAPE = (9, 7, 8)


def logits(channels: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn((channels, *SHAPE), generator=torch.Generator().manual_seed(3))


def seen(values: torch.Tensor, lead: int, step: int, background: bool, overlapping: bool) -> Confidence:
    """Fed in slabs of `step` planes along `lead`, as a case streams by."""
    found = Confidence(SHAPE, lead, len(values), background, overlapping)
    for start in range(0, SHAPE[lead], step):
        stop = min(SHAPE[lead], start + step)
        found.take(Slab(lead, start, stop, values.narrow(lead + 1, start, stop - start)))
    return found


def at_once(values: np.ndarray, background: bool) -> dict[str, dict[str, float]]:
    """The same by the formulas, in numpy: probability of the winner and entropy / log K, averaged over its voxels."""
    chances = np.exp(values) / np.exp(values).sum(axis=0)
    label, best = chances.argmax(axis=0), chances.max(axis=0)
    entropy = -(chances * np.log(chances)).sum(axis=0) / np.log(len(values))
    return {
        name: {
            "probability": float(best[label == position + background].mean()),
            "entropy": float(entropy[label == position + background].mean()),
        }
        for position, name in enumerate(NAMES)
    }


@pytest.mark.parametrize(("lead", "step"), [(0, 9), (0, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize("background", [True, False])
def test_figures_are_those_of_the_whole_case_however_it_streams_by(
    lead: int, step: int, background: bool
) -> None:
    values = logits(2 + background)
    found = summary(NAMES, seen(values, lead, step, background, False), None)
    expected = at_once(values.double().numpy(), background)
    for name in NAMES:
        assert found["classes"][name] == pytest.approx(expected[name], abs=1e-4)
    label = values.argmax(0).numpy() - background
    voxels = [np.count_nonzero(label == position) for position in range(2)]
    mean = np.average([expected[name]["probability"] for name in NAMES], weights=voxels)
    assert found["case"]["probability"] == pytest.approx(mean, abs=1e-4)


def test_regions_are_looked_at_one_by_one() -> None:
    values = logits(2)
    found = summary(NAMES, seen(values, 1, 2, True, True), None)["classes"]
    for name, channel in zip(NAMES, values.double().numpy()):
        chances = 1 / (1 + np.exp(-channel[channel > 0]))
        entropy = -(chances * np.log2(chances) + (1 - chances) * np.log2(1 - chances))
        assert found[name]["probability"] == pytest.approx(chances.mean(), abs=1e-4)
        assert found[name]["entropy"] == pytest.approx(entropy.mean(), abs=1e-4)


def test_a_certain_network_has_no_entropy_and_a_torn_one_has_all_of_it() -> None:
    sure, torn = torch.zeros((3, *SHAPE)), torch.zeros((3, *SHAPE))
    sure[1], torn[1] = 50, 1e-6
    certain = summary(NAMES, seen(sure, 0, 4, True, False), None)
    assert certain["case"] == {"probability": 1.0, "entropy": 0.0}
    assert list(certain["classes"]) == ["organ"], "a class that was not found has no figures"
    doubtful = summary(NAMES, seen(torn, 0, 4, True, False), None)["case"]
    assert doubtful == {"probability": 0.3333, "entropy": 1.0}


def test_where_nothing_is_found_there_is_nothing_to_be_sure_of() -> None:
    values = torch.zeros((3, *SHAPE))
    values[0] = 9
    assert summary(NAMES, seen(values, 0, 4, True, False), None) == {"case": {}, "classes": {}}


@pytest.mark.parametrize(("lead", "step"), [(0, 9), (0, 2), (2, 3)])
def test_large_grids_are_thinned_alike_however_they_stream_by(
    lead: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence.thinning, "__defaults__", (np.prod(SHAPE) // 8,))
    values = logits(3)
    found = summary(NAMES, seen(values, lead, step, True, False), None)["classes"]
    expected = at_once(values[:, ::2, ::2, ::2].double().numpy(), True)
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], abs=1e-4)


def test_members_that_agree_do_not_disagree_and_others_do_by_their_dice() -> None:
    one, other = logits(3), logits(3).flip(1)
    mean = (one + other) / 2
    for members in ([mean, mean], [one, other]):
        watch = Disagreement(3, background=True, overlapping=False)
        watch.take([watch.labels(member) for member in members], watch.labels(mean))
        found = summary(NAMES, seen(mean, 0, 4, True, False), watch)
        for position, name in enumerate(NAMES, start=1):
            ours = mean.argmax(0) == position
            theirs = [member.argmax(0) == position for member in members]
            both = sum(int((ours & mask).sum()) for mask in theirs)
            sizes = sum(int(ours.sum() + mask.sum()) for mask in theirs)
            assert found["classes"][name]["disagreement"] == pytest.approx(1 - 2 * both / sizes, abs=1e-4)
        assert (found["case"]["disagreement"] == 0) == (members[0] is members[1])


def test_members_regions_are_compared_one_by_one() -> None:
    one, mean = logits(2), logits(2).flip(1)
    watch = Disagreement(2, background=True, overlapping=True)
    watch.take([watch.labels(one)], watch.labels(mean))
    a, b = one[1] > 0, mean[1] > 0
    dice = 2 * int((a & b).sum()) / int(a.sum() + b.sum())
    assert 1 - 2 * watch.both[1] / watch.sizes[1] == pytest.approx(1 - dice)


# --- through the whole of prediction ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small networks of the same plan that answer differently."""
    place = tmp_path_factory.mktemp("members")
    classes = [ClassInfo(name, index + 1, (1, 2, 3)).as_json() for index, name in enumerate(NAMES)]
    plan = Plan(dims=3, in_channels=1, classes=classes, out_channels=3, spacing_mm=[2.0, 2.0, 2.0],
                intensity=[IntensityPlan(scheme="zscore")], image_order=1, patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    for seed in range(2):
        torch.manual_seed(seed)
        net = build_system(system, plan)
        for parameter in net.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        save_model(place / f"fold-{seed}", net, system=system, plan=plan)
    return sorted(place.iterdir())


def an_array() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 1, (24, 16, 20)).astype(np.float32)


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
def test_an_ensembles_members_are_compared_and_one_network_is_not(mean: Any, members: list[Path]) -> None:
    image = Image(an_array()[None], Geometry.from_spacing((24, 16, 20), (2, 2, 2)))
    settings = Predict(precision="fp32", ensemble=mean)
    several = Predictor(load_models(members), settings)
    first = dict(several.segment(image).provenance["confidence"])
    assert 0 < first["case"]["disagreement"] < 1
    assert several.segment(image).provenance["confidence"] == first, "the next case begins at nought"
    alone = Predictor(load_model(members[0]), settings).segment(image).provenance["confidence"]
    assert set(alone["case"]) == {"probability", "entropy"}
    assert 0 < alone["case"]["probability"] < 1


def test_the_figures_stand_beside_the_mask_and_in_the_manifest(members: list[Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(an_array(), np.diag([2.0, 2, 2, 1])), tmp_path / "in" / "a.nii.gz")
    settings = Pipeline.model_validate({"name": "predict", "system": "from-model", "compute": {"cores": 1},
                                        "predict": {"precision": "fp32"}})  # fmt: skip
    out = tmp_path / "out"
    predict_folder(members, tmp_path / "in", out, settings)
    facts = json.loads((out / "a.json").read_text())
    found = set(np.unique(np.asarray(nibabel.load(out / "a.nii.gz").dataobj)).astype(int)) - {0}
    assert set(facts["confidence"]) == {NAMES[value - 1] for value in found}
    table = pandas.read_csv(out / "manifest" / "manifest.csv")
    for name in confidence.FIGURES:
        assert 0 <= facts[name] <= 1
        assert table[name][0] == facts[name]


# --- several answers of one network -------------------------------------------------------------------------------


def a_network(
    seed: int = 0, mirrored: bool = False, dropout: float = 0.4, channels: int = 8, **changes: Any
) -> Model:
    """A small network with a dropout in its middle, sure of little."""
    torch.manual_seed(seed)
    classes = tuple(ClassInfo(name, index + 1, (1, 2, 3)) for index, name in enumerate(NAMES))
    facts = {"dims": 3, "in_channels": 1, "classes": [one.as_json() for one in classes], "out_channels": 3, "spacing_mm": [2.0] * 3,
             "intensity": [IntensityPlan(scheme="zscore")], "image_order": 1, "patch_size": [16] * 3, "batch_size": 1,
             "mirror_axes": [0, 2] if mirrored else [], "flips": mirrored}  # fmt: skip
    plan = Plan.model_validate({**facts, **changes})
    conv = torch.nn.Conv3d
    layers = [
        conv(1, channels, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        conv(channels, plan.out_channels, 1),
    ]
    return Model(
        torch.nn.Sequential(*layers).eval(), None, plan, classes, System(name="3d-u-net"), "f" * 64, {}
    )


def an_image() -> Image:
    return Image(an_array()[None], Geometry.from_spacing((24, 16, 20), (2, 2, 2)))


def alone(model: Model, **settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
    seg = Predictor(model, Predict(precision="fp32", **settings)).segment(an_image())
    return seg.labels, seg.provenance["confidence"]


@pytest.mark.parametrize("kind", ["mirrors", "dropout"])
def test_one_networks_answers_are_compared_where_it_is_asked_for_and_the_mask_is_the_same(kind: Any) -> None:
    model = a_network(mirrored=True)
    labels, plain = alone(model)
    same, figures = alone(model, disagreement=kind)
    assert np.array_equal(labels, same)
    assert set(plain["case"]) == {"probability", "entropy"}
    assert 0 < figures["case"]["disagreement"] < 1
    assert {name: value for name, value in figures["case"].items() if name != "disagreement"} == plain["case"]
    torch.randn(5)
    assert alone(model, disagreement=kind)[1] == figures, "whatever random numbers were drawn before"


def test_dropout_draws_no_random_number_of_the_callers_and_is_off_afterwards() -> None:
    model = a_network()
    torch.manual_seed(3)
    wanted = torch.randn(4)
    torch.manual_seed(3)
    alone(model, disagreement="dropout")
    assert torch.equal(torch.randn(4), wanted)
    assert not any(layer.training for layer in model.net.modules())


def test_answers_of_a_network_that_is_the_same_in_the_mirror_do_not_differ() -> None:
    model = a_network(mirrored=True)
    for layer in model.net:
        if isinstance(layer, torch.nn.Conv3d):
            layer.weight.data = (
                layer.weight.data
                + layer.weight.data.flip(2, 4)
                + layer.weight.data.flip(2)
                + layer.weight.data.flip(4)
            ) / 4
    _, figures = alone(model, disagreement="mirrors")
    assert figures["case"]["disagreement"] <= 0.001


@pytest.mark.parametrize("kind", ["mirrors", "dropout"])
def test_a_network_without_its_last_layer_is_compared_by_the_classes_that_it_leads_to(kind: Any) -> None:
    small, whole = a_network(mirrored=True, channels=2), a_network(mirrored=True, channels=2)
    predictor = Predictor(small, Predict(precision="fp32", disagreement=kind))
    assert predictor.summed == 3, "two features and the mark of air in the place of three classes"
    found = predictor.segment(an_image()).provenance["confidence"]
    other = Predictor(whole, Predict(precision="fp32", disagreement=kind))
    other.net = whole.net  # the network as it is
    assert other.segment(an_image()).provenance["confidence"]["case"]["disagreement"] == pytest.approx(
        found["case"]["disagreement"], abs=0.002
    )


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ({"disagreement": "mirrors"}, "no mirrored copies are predicted", "predict.flips: true"),
        ({"disagreement": "dropout"}, "no layer of dropout", "several folds"),
    ],
)
def test_what_a_network_cannot_be_asked_is_said_with_the_way_out(
    settings: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Predictor(a_network(dropout=0.0), Predict(**settings))
    assert hint in caught.value.hint
    assert "predict.disagreement" in caught.value.where


def test_converted_networks_ensembles_and_classical_methods_are_refused(members: list[Path]) -> None:
    with pytest.raises(UserError, match="openvino computes without dropout"):
        Predictor(a_network(), Predict(disagreement="dropout", engine="openvino"))
    with pytest.raises(UserError, match="of an ensemble the members are compared"):
        Predictor(load_models(members), Predict(disagreement="mirrors", flips=True))
    with pytest.raises(UserError, match="a classical method gives one answer"):
        Predictor(replace(a_network(), net=None), Predict(disagreement="dropout"))


def test_what_is_compared_decides_whether_a_case_is_done_again() -> None:
    digests = {settings_digest(Predict(disagreement=kind), None) for kind in ("auto", "mirrors", "dropout")}
    assert len(digests) == 3
