"""Ensembles: the mean of logits or probabilities, in the memory of one network, of members that go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.ensemble import facts_of, load_models, save_ensemble
from medseg.model.folder import build_system, copy_model, load_model, read_weights, save_model, verify_model
from medseg.predict.case import Predictor, predict_case
from medseg.predict.engines.eager import Eager
from medseg.predict.engines.several import engine_of
from medseg.predict.ensemble import stream_mean_chances
from medseg.predict.memory import estimate, window_bytes
from medseg.predict.windows import Cut, stream_logits

ORGAN = ClassInfo("organ", 1, (255, 0, 0))
VESSEL = ClassInfo("vessel", 2, (0, 255, 0))


def a_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "dims": 3, "in_channels": 1, "classes": [ORGAN.as_json(), VESSEL.as_json()], "out_channels": 3,
        "spacing_mm": [2.0, 2.0, 2.0], "intensity": [IntensityPlan(scheme="zscore")], "image_order": 1,
        "patch_size": [16, 16, 16], "batch_size": 1,
    }  # fmt: skip
    return Plan(**{**values, **changes})


def save(folder: Path, seed: int, plan: Plan | None = None, name: str = "3d-u-net") -> Path:
    plan = plan or a_plan()
    torch.manual_seed(seed)
    system = System(name=name, size="tiny")
    net = build_system(system, plan)
    for parameter in net.parameters():  # far from each other, so that a mean differs from its parts
        parameter.data += 0.2 * torch.randn_like(parameter)
    save_model(folder, net, system=system, plan=plan, data_hash="d")
    return folder


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("members")
    return [save(place / f"fold-{seed}", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def joined(members: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined") / "model"
    save_ensemble(folder, {path.name: path for path in members}, scores={"dice": 0.8, "n": 9})
    return folder


@pytest.fixture(scope="module")
def image() -> Image:
    rng = np.random.default_rng(4)
    return Image(
        rng.normal(0, 1, (1, 26, 20, 22)).astype(np.float32), Geometry.from_spacing((26, 20, 22), (2, 2, 2))
    )


def logits_of(folder: Path, array: torch.Tensor, cut: Cut) -> torch.Tensor:
    run = Eager(load_model(folder).net)
    return torch.cat([slab.logits.clone() for slab in stream_logits(run, array, cut, 3)], dim=1)


def test_the_mean_of_logits_is_the_mean_of_whole_predictions(members: list[Path], joined: Path) -> None:
    array = torch.randn((1, 40, 20, 22), generator=torch.Generator().manual_seed(1))
    cut = Cut((16, 16, 16))
    assert cut.lead((40, 20, 22)) == 0
    expected = torch.stack([logits_of(path, array, cut) for path in members]).mean(dim=0)
    run = engine_of(load_model(joined).net)
    ours = torch.cat([slab.logits.clone() for slab in stream_logits(run, array, cut, 3)], dim=1)
    assert torch.allclose(ours, expected, atol=1e-4)
    assert not torch.allclose(ours, logits_of(members[0], array, cut), atol=1e-2)


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_mean_of_probabilities_is_that_of_the_members(members: list[Path], overlapping: bool) -> None:
    array = torch.randn((1, 24, 16, 16), generator=torch.Generator().manual_seed(2))
    cut = Cut((16, 16, 16))
    turn = (lambda x: x.sigmoid()) if overlapping else (lambda x: x.softmax(dim=0))
    expected = torch.stack([turn(logits_of(path, array, cut)) for path in members]).mean(dim=0)
    runs = [Eager(load_model(path).net) for path in members]
    slabs = stream_mean_chances(runs, array, cut, 3, overlapping)
    ours = turn(torch.cat([slab.logits.clone() for slab in slabs], dim=1))
    assert torch.allclose(ours, expected, atol=1e-4)


def test_the_two_means_are_a_choice_that_shows_in_the_result(members: list[Path], image: Image) -> None:
    model = load_models(members)
    by_logits = Predictor(model, Predict(precision="fp32"))
    by_chances = Predictor(model, Predict(precision="fp32", ensemble="probabilities"))
    first, second = by_logits.segment(image), by_chances.segment(image)
    assert "3 members, mean of logits" in by_logits.engine
    assert "3 members, mean of probabilities" in by_chances.engine
    assert first.labels.shape == second.labels.shape == image.geometry.shape


def test_an_ensemble_of_one_model_and_itself_changes_nothing(
    members: list[Path], image: Image, tmp_path: Path
) -> None:
    shutil.copytree(members[0], tmp_path / "same")
    alone = predict_case(load_model(members[0]), image, Predict(precision="fp32"))
    for mean in ("logits", "probabilities"):
        twice = predict_case(
            load_models([members[0], tmp_path / "same"]), image, Predict(precision="fp32", ensemble=mean)
        )
        assert np.array_equal(alone.labels, twice.labels)


def test_systems_of_different_divisors_are_averaged(
    members: list[Path], image: Image, tmp_path: Path
) -> None:
    other = save(tmp_path / "v-net", 5, name="v-net")
    seg = predict_case(load_models([members[0], other]), image, Predict(precision="fp32"))
    assert seg.provenance["system"] == "3d-u-net-tiny + v-net-tiny"
    assert window_bytes(load_models([members[0], other]).net, 1, (16, 16, 16), 3) > 0


def test_logits_need_the_memory_of_one_network_and_probabilities_are_counted() -> None:
    grid = Geometry.from_spacing((200, 200, 200), (2, 2, 2))
    plan, cut = a_plan(), Cut((16, 16, 16))
    one, many = (estimate(grid, 2, plan, cut, 0, accumulators=n) for n in (1, 5))
    assert one.sums == 4 * 3 * 200 * 200 * 16
    assert many.sums == (4 * 5 + 12) * 3 * 200 * 200 * 16


def test_a_model_folder_of_members_is_verified_copied_and_loaded(
    members: list[Path], joined: Path, tmp_path: Path
) -> None:
    facts = verify_model(joined)
    assert facts["kind"] == "ensemble"
    assert [one["name"] for one in facts["weights"]["members"]] == [path.name for path in members]
    assert facts["scores"] == {"dice": 0.8, "n": 9}
    copy_model(joined, tmp_path / "copy")
    assert load_model(tmp_path / "copy").hash == facts["hash"]
    assert facts_of([joined])["hash"] == facts["hash"]
    # An ensemble given beside another model brings its members.
    save(tmp_path / "more", 9)
    assert len(facts_of([joined, tmp_path / "more"])["weights"]["members"]) == 4


def test_an_exchanged_member_is_noticed(joined: Path, members: list[Path], tmp_path: Path) -> None:
    shutil.copytree(joined, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "fold-1")
    shutil.copytree(members[2], tmp_path / "model" / "fold-1")
    with pytest.raises(UserError, match=r"expected the model .*, found") as caught:
        load_model(tmp_path / "model")
    assert "exchanged" in str(caught.value)


def test_a_missing_member_and_a_stranger_are_noticed(joined: Path, tmp_path: Path) -> None:
    shutil.copytree(joined, tmp_path / "less")
    shutil.rmtree(tmp_path / "less" / "fold-2")
    with pytest.raises(UserError, match="expected fold-2"):
        verify_model(tmp_path / "less")
    shutil.copytree(joined, tmp_path / "more")
    (tmp_path / "more" / "notes.py").write_text("1")
    with pytest.raises(UserError, match=r"found notes\.py as well"):
        verify_model(tmp_path / "more")


def test_a_members_name_cannot_lead_out_of_the_folder(joined: Path, tmp_path: Path) -> None:
    from medseg.model.facts import model_hash

    shutil.copytree(joined, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    facts = json.loads(path.read_text())
    facts["weights"]["members"][0]["name"] = "../joined"
    path.write_text(json.dumps({**facts, "hash": model_hash(facts)}))
    with pytest.raises(UserError, match="expected the name of a member"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"classes": [ORGAN.as_json(), ClassInfo("bone", 2, (0, 0, 9)).as_json()]},
            ("classes", "vessel (2)", "bone (2)"),
        ),
        ({"crop": "nonzero"}, ("crop", "none", "nonzero")),
        ({"guided_filter": {"radius_mm": 3.0}}, ("guided_filter", "radius_mm")),
        ({"in_channels": 2, "intensity": [IntensityPlan(scheme="zscore")] * 2}, ("image channels", "1", "2")),
    ],
)
def test_members_that_differ_are_refused_and_the_difference_is_named(
    members: list[Path], tmp_path: Path, changes: dict, words: tuple
) -> None:
    other = save(tmp_path / "other", 7, a_plan(**changes))
    with pytest.raises(UserError, match="cannot be averaged") as caught:
        load_models([members[0], other])
    for word in (*words, "know the same classes"):
        assert word in str(caught.value), word
    with pytest.raises(UserError, match="cannot be averaged"):
        save_ensemble(tmp_path / "never", {"a": members[0], "b": other})
    assert not (tmp_path / "never").exists()


def test_a_member_made_before_a_key_was_known_joins_those_that_have_its_default(
    members: list[Path], tmp_path: Path
) -> None:
    from medseg.model.facts import model_hash

    facts = json.loads((members[0] / "model.json").read_text())
    shutil.copytree(members[0], tmp_path / "older")
    for key in ("margin", "swap_sides", "flips"):
        del facts["plan"][key]
    (tmp_path / "older" / "model.json").write_text(json.dumps({**facts, "hash": model_hash(facts)}))
    save_ensemble(tmp_path / "both", {"older": tmp_path / "older", "newer": members[1]})
    assert load_model(tmp_path / "both").plan.margin == 0
    assert load_model(tmp_path / "both").parts == ()
    wide = save(tmp_path / "wide", 7, a_plan(margin=4))
    save_ensemble(tmp_path / "mixed", {"older": tmp_path / "older", "wide": wide})
    assert len(load_model(tmp_path / "mixed").parts) == 2


def test_a_classical_method_is_no_member(members: list[Path], tmp_path: Path) -> None:
    plan = a_plan(classes=[ORGAN.as_json()], out_channels=2)
    save_model(tmp_path / "otsu", None, system=System(name="otsu"), plan=plan)
    with pytest.raises(UserError, match="is a classical model"):
        load_models([members[0], tmp_path / "otsu"])


def test_weights_to_start_from_are_those_of_one_member(joined: Path) -> None:
    with pytest.raises(UserError, match="is an ensemble") as caught:
        read_weights(joined)
    assert "fold-0, fold-1, fold-2" in str(caught.value)


def test_chosen_post_processing_changes_the_hash_and_is_applied(image: Image, tmp_path: Path) -> None:
    plan = a_plan(classes=[ORGAN.as_json()], out_channels=2)
    two = {f"fold-{seed}": save(tmp_path / f"fold-{seed}", seed, plan) for seed in range(2)}
    steps = [{"step": "fill_holes", "class": "organ"}]
    plain = save_ensemble(tmp_path / "plain", two)
    assert save_ensemble(tmp_path / "model", two, postprocessing=steps) != plain
    model = load_model(tmp_path / "model")
    labels = np.zeros(image.geometry.shape, np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    labels[7, 7, 7] = 0
    for setting, voxel in (("auto", 1), ("none", 0)):
        predictor = Predictor(model, Predict(postprocessing=setting))
        seg = predictor._finished(labels.copy(), None, model.classes, image, {})
        assert seg.labels[7, 7, 7] == voxel
        assert any("chosen by cross-validation" in note for note in seg.provenance["notes"]) == bool(voxel)
