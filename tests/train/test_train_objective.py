"""What is minimised, and that a network's own loss is honoured."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medseg.config import Train
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.train.objective import Objective, class_weights, known_channels, step_loss, without_effect
from medseg.zoo.outputs import Outputs

SIZE = (8, 8, 8)


def classes(*names: str) -> list[dict]:
    return [ClassInfo(name, i + 1, (1, 2, 3)).as_json() for i, name in enumerate(names)]


def logits_for(targets: torch.Tensor, channels: int, sharpness: float = 20.0) -> torch.Tensor:
    """Logits that answer `targets` rightly."""
    right = torch.nn.functional.one_hot(targets.long().clamp(max=channels - 1), channels)
    return sharpness * right.movedim(-1, 1).float()


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.randint(0, 2, (2, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_right_logits_cost_nothing_and_wrong_ones_do(plan: Callable, targets: torch.Tensor) -> None:
    objective = Objective(Train(), plan())
    assert objective(logits_for(targets, 2), targets) < 0.01
    assert objective(logits_for(1 - targets, 2), targets) > 1


def test_ignored_voxels_cost_nothing_whatever_they_are(plan: Callable, targets: torch.Tensor) -> None:
    objective = Objective(Train(loss="ce"), plan(ignore=11))
    targets[:, :4] = 255
    logits = logits_for(targets, 2)
    worse = logits.clone()
    worse[:, :, :4] = torch.randn(2, 2, 4, 8, 8)
    assert objective(logits, targets) == objective(worse, targets)


def test_what_lies_beyond_the_image_counts_nowhere_when_asked(plan: Callable, targets: torch.Tensor) -> None:
    objective = Objective(Train(beyond_image="ignored"), plan())
    targets[:, :4] = 255
    logits = logits_for(targets, 2)
    worse = logits.clone()
    worse[:, :, :4] = torch.randn(2, 2, 4, 8, 8)
    assert objective(logits, targets) == objective(worse, targets) < 0.01


def test_padding_counts_nowhere_where_classes_have_no_background(
    plan: Callable, targets: torch.Tensor
) -> None:
    bare = plan(classes=classes("road", "sky"), background=False, out_channels=2)
    targets[:, :2] = 255
    assert torch.isfinite(Objective(Train(), bare)(torch.randn(2, 2, *SIZE), targets))


def test_overlapping_regions_are_learnt_channel_by_channel(plan: Callable) -> None:
    both = plan(classes=classes("lung", "heart"), overlapping=True, out_channels=2, ignore=9)
    regions = torch.zeros(1, 2, *SIZE, dtype=torch.uint8)
    regions[:, :, :4] = 1
    right = (regions.float() - 0.5) * 40
    objective = Objective(Train(), both)
    assert objective(right, regions) < 0.01
    regions[:, :, 6:] = 255
    changed = right.clone()
    changed[:, :, 6:] *= -1
    assert objective(changed, regions) == objective(right, regions)


def test_auxiliary_outputs_count_with_the_networks_own_weights(plan: Callable, targets: torch.Tensor) -> None:
    objective = Objective(Train(loss="ce"), plan())
    main, coarse = torch.randn(2, 2, *SIZE), torch.randn(2, 2, 4, 4, 4)
    alone = objective(main, targets)
    aside = objective(coarse, targets[:, 1::2, 1::2, 1::2])
    weighted = objective(Outputs(main, (coarse,), (0.4,)), targets)
    assert weighted == pytest.approx(float(alone + 0.4 * aside))
    assert objective(Outputs(main, (coarse,), (0.0,)), targets) == alone


def test_the_loss_is_float32_in_bf16(plan: Callable, targets: torch.Tensor) -> None:
    loss = Objective(Train(), plan())(torch.randn(2, 2, *SIZE).bfloat16(), targets)
    assert loss.dtype == torch.float32


def test_balanced_weights_are_the_inverse_root_of_the_frequency(plan: Callable) -> None:
    weights = class_weights("balanced", plan())
    assert weights[1] / weights[0] == pytest.approx((0.96 / 0.04) ** 0.5)
    assert sum(weights) == pytest.approx(2)
    assert class_weights({"ball": 3}, plan()) == [1.0, 3.0]
    assert class_weights({"background": 0.5}, plan()) == [0.5, 1.0]
    assert class_weights(None, plan()) is None


def test_an_unknown_class_name_is_answered_with_the_nearest(plan: Callable) -> None:
    with pytest.raises(UserError, match="no class named 'bal', did you mean ball"):
        class_weights({"bal": 3.0}, plan())
    with pytest.raises(UserError, match="does not know how frequent 'ball' is"):
        class_weights("balanced", plan(foreground_fraction={}))


def test_unknown_losses_and_arguments_are_refused(plan: Callable) -> None:
    with pytest.raises(UserError, match="dice_cee"):
        Objective(Train(loss="dice_cee"), plan())
    with pytest.raises(UserError, match="alfa"):
        Objective(Train(loss={"name": "tversky", "alfa": 0.3}), plan())


def test_settings_that_a_systems_own_loss_does_not_look_at_are_named() -> None:
    own, step, plain = nn.Module(), nn.Module(), nn.Module()
    own.loss = step.loss = step.training_step = print
    asked = Train(loss={"name": "focal"}, class_weights="balanced")
    assert without_effect(own, asked).endswith("without effect: train.loss, train.class_weights")
    assert without_effect(own, Train()) == without_effect(step, asked) == without_effect(plain, asked) == ""


def test_a_system_with_its_own_loss_is_asked(plan: Callable, targets: torch.Tensor) -> None:
    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def loss(self, outputs: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
            return outputs.sum() + given.sum()

    net = Own()
    images = torch.ones(2, 2, *SIZE)
    found = step_loss(net, net, Objective(Train(), plan()), SIZE)(images, targets, None)
    assert found == images.sum() + targets.sum()


def test_a_patch_that_does_not_fit_the_network_is_refused_with_the_nearest_that_does(plan: Callable) -> None:
    net = nn.Identity()
    net.divisor = (16, 16, 8)
    with pytest.raises(UserError, match=r"\[60, 64, 20\].*multiples of \[16, 16, 8\]") as caught:
        step_loss(net, net, Objective(Train(), plan()), (60, 64, 20))
    assert "[64, 64, 16]" in caught.value.hint


def test_networks_of_unpadded_convolutions_get_the_border_they_lose(
    plan: Callable, targets: torch.Tensor
) -> None:
    class Valid(nn.Module):
        margin = 1

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 3)

        def border(self, length: int) -> tuple[int, int]:
            return 1, 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[2:] == (10, 10, 10)
            return self.conv(x)

    net = Valid()
    assert torch.isfinite(
        step_loss(net, net, Objective(Train(), plan()), SIZE)(torch.ones(2, 1, *SIZE), targets, None)
    )


def test_classes_that_nobody_drew_in_a_case_are_not_learnt_as_background(plan: Callable) -> None:
    three = plan(classes=classes("liver", "spleen"), out_channels=3)
    cases = {"all": SimpleNamespace(known=None), "liver only": SimpleNamespace(known=("liver",))}
    job = SimpleNamespace(train=cases, plan=three)
    assert known_channels(job, ("all", "all"), "cpu") is None
    known = known_channels(job, ("all", "liver only"), "cpu")
    assert known.tolist() == [[True, True, True], [True, True, False]]
    objective = Objective(Train(loss="ce"), three)
    spleen = logits_for(torch.full((2, *SIZE), 2), 3)
    background = torch.zeros(2, *SIZE, dtype=torch.uint8)
    assert objective(spleen[1:], background[1:], known[1:]) < 0.01
    assert objective(spleen[1:], background[1:]) > 1
