"""The recipes: nnU-Net's figures as they are published, and that a pipeline takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.config_file import load_pipeline
from medseg.core.errors import UserError
from medseg.train.loop import train
from medseg.train.objective import Objective
from medseg.train.schedule import rate_factor
from medseg.zoo.outputs import Outputs

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"


@pytest.fixture
def load(tmp_path: Path) -> Callable:
    def make(recipe: str, *sets: str):
        path = tmp_path / "journey.yaml"
        path.write_text(
            f"include: {RECIPES / recipe}\nname: balls\nsystem: {{name: nnunet-plain, size: tiny}}\n"
        )
        return load_pipeline(path, sets)

    return make


def test_nnunets_recipe_has_nnunets_figures(load: Callable) -> None:
    given = load("nnunet.yaml").train
    assert (given.steps, given.rate_every, given.schedule, given.warmup) == (1000 * 250, 250, "poly", 0.0)
    assert given.optimizer.model_dump() == {
        "name": "sgd", "rate": 0.01, "momentum": 0.99, "weight_decay": 3e-5,
    }  # fmt: skip
    assert (given.clip, given.foreground, given.ema, given.patience) == (12.0, 0.33, None, None)
    assert (given.deep_supervision, given.auxiliary) == (True, "halved")
    assert load("nnunet.yaml").predict.overlap == 0.5


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.01), (1, 0.009990999549834914), (100, 0.009095325760829623),
                                            (500, 0.005358867312681466), (990, 0.00015848931924611145)])  # fmt: skip
def test_the_learning_rate_of_an_epoch_is_nnunets(load: Callable, epoch: int, rate: float) -> None:
    given = load("nnunet.yaml").train
    t = epoch * given.rate_every / given.steps
    assert given.optimizer.rate * rate_factor(t, given.schedule, given.warmup) == pytest.approx(
        rate, rel=1e-9
    )


def test_the_rate_changes_once_an_epoch(job: Callable, small: Callable) -> None:
    given = job(steps=8, rate_every=4, warmup=0.0, val={}, optimizer={"rate": 0.01})
    train(small(), given)
    rates = [json.loads(line)["rate"] for line in given.folder.history.read_text().splitlines()]
    assert rates[:4] == [0.01] * 4
    assert rates[4:] == pytest.approx([0.01 * 0.5**0.9] * 4)


def test_the_warm_up_goes_on_between_changes_of_the_rate(job: Callable, small: Callable) -> None:
    given = job(steps=10, rate_every=10, warmup=0.4, val={}, optimizer={"rate": 0.01}, schedule="constant")
    train(small(), given)
    rates = [json.loads(line)["rate"] for line in given.folder.history.read_text().splitlines()]
    assert rates == pytest.approx([0.0001, 0.0025, 0.005, 0.0075, *[0.01] * 6])


def test_a_longer_training_takes_the_rate_of_its_own_length_at_once(job: Callable, small: Callable) -> None:
    settings = {"rate_every": 4, "warmup": 0.0, "val": {}, "optimizer": {"rate": 0.01}}
    train(small(), job("run", steps=6, **settings))
    longer = job("run", steps=12, **settings)
    train(small(), longer)
    lines = [json.loads(line) for line in longer.folder.history.read_text().splitlines()]
    rates = {line["step"]: line["rate"] for line in lines}
    # Step 8 belongs to the stretch that began with step 5, at a third of the longer training.
    assert rates[8] == pytest.approx(0.01 * (2 / 3) ** 0.9)


def test_augmentation_has_nnunets_probabilities_and_ranges(load: Callable, plan: Callable) -> None:
    from medseg.ingest.augment.build import entries_of

    entries = {e.name: e for e in entries_of(load("nnunet.yaml").train.augment)}
    assert {name: e.probability for name, e in entries.items()} == {
        "rotate": 0.2, "scale": 0.2, "noise": 0.1, "blur": 0.2, "brightness": 0.15, "contrast": 0.15,
        "low_resolution": 0.25, "gamma_inverted": 0.1, "gamma": 0.3, "flip": 1.0,
    }  # fmt: skip
    assert "elastic" not in entries
    assert entries["scale"].ranges == {"factor": (0.7, 1.4)}
    assert entries["gamma"].ranges == {"exponent": (0.7, 1.5)}
    assert entries["brightness"].ranges == {"factor": (0.75, 1.25)}
    assert entries["rotate"].ranges == {"degrees": 30.0, "free_degrees": 180.0}


@pytest.mark.parametrize(
    ("outputs", "weights"),
    [(1, (1.0,)), (2, (1.0, 0.0)), (3, (2 / 3, 1 / 3, 0.0)),
     (5, (0.5333333333333333, 0.26666666666666666, 0.13333333333333333, 0.06666666666666667, 0.0))],
)  # fmt: skip
def test_outputs_of_all_resolutions_have_nnunets_weights(
    load: Callable, plan: Callable, outputs: int, weights: tuple
) -> None:
    """Whatever weights the network itself gives: a gradient of ones on each output's mean shows them."""
    objective = Objective(load("nnunet.yaml").train, plan())
    heads = [torch.randn(2, 2, *(16 // 2**i,) * 3, requires_grad=True) for i in range(outputs)]
    targets = torch.randint(0, 2, (2, 16, 16, 16), dtype=torch.uint8)
    others = tuple(heads[1:])
    given = Outputs(heads[0], others, tuple(7.0 for _ in others)) if others else heads[0]
    from medseg.losses.supervision import nearest_labels

    parts = [float(objective.loss(h, nearest_labels(targets, h.shape[2:]))) for h in heads]
    assert float(objective(given, targets)) == pytest.approx(float(np.dot(parts, weights)), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "over_batch"),
    [
        ({"dims": 2, "patch_size": [16, 16]}, True),
        ({}, False),
        ({"patch_size": [16, 16, 1], "topology": {"slices": 2}}, True),
        ({"estimate": {"lowres_spacing_mm": [3.0, 3.0, 3.0]}}, True),
        ({"estimate": {"lowres_spacing_mm": None}}, False),
    ],
    ids=["2D", "3D", "slices", "beside a coarse stage", "no coarse stage"],
)
def test_dice_is_taken_over_the_batch_where_nnunet_does(
    load: Callable, plan: Callable, changes: dict, over_batch: bool
) -> None:
    objective = Objective(load("nnunet.yaml").train, plan(**{"dims": 3, "patch_size": [16] * 3, **changes}))
    assert objective.loss.measure.keywords["settings"].batch_dice is over_batch


@pytest.mark.parametrize("recipe", ["nnunet.yaml", "fast.yaml"])
def test_a_recipe_trains(load: Callable, job: Callable, plan: Callable, recipe: str) -> None:
    from dataclasses import replace

    from medseg.ingest.augment.build import build_augmenter
    from medseg.model.folder import build_system

    pipeline = load(recipe, "train.steps=2", "train.precision=fp32")
    given = replace(job(val={}, plan=plan(patch_size=[32, 32, 32])), settings=pipeline.train)
    system = pipeline.only_system.model_copy(
        update={"arguments": {"deep_supervision": pipeline.train.deep_supervision}}
    )
    net = build_system(system, given.plan)
    before = [p.detach().clone() for p in net.parameters()]
    assert train(net, given, build_augmenter(pipeline.train.augment, given.plan)).steps == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_a_setting_of_the_journey_wins_over_the_recipe(load: Callable) -> None:
    assert load("fast.yaml", "train.minutes=3").train.minutes == 3
    with pytest.raises(UserError, match=r"train\.auxiliary"):
        load("fast.yaml", "train.auxiliary=halve")
