"""What hierarchical multi-scale attention claims, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.hmsa import HMSA, blend
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.layers.region_mutual import region_mutual_loss


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_place_takes_the_scale_that_attention_chooses(dims: int) -> None:
    fine, coarse = torch.randn(1, 2, *(8,) * dims), torch.ones(1, 2, *(4,) * dims)
    attention = torch.zeros(1, 1, *(4,) * dims)
    attention[:, :, :2] = 1.0
    joint = blend(fine, coarse, attention, 0.5)
    torch.testing.assert_close(joint[:, :, :3], torch.ones_like(joint[:, :, :3]))
    torch.testing.assert_close(joint[:, :, 5:], fine[:, :, 5:])


def test_scales_of_prediction_chain_the_attention_of_each_to_the_next_finer_one() -> None:
    class Told(HMSA):
        def at_scale(self, x: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
            size = [round(n * scale) for n in x.shape[2:]]
            logits = torch.full((1, 2, *size), scale)
            return logits, logits, torch.full((1, 1, *size), {0.5: 0.2, 1.0: 0.3, 2.0: 0.9}[scale])

    net = Told(2, 1, 2, 2, (1, 1, 1), (8, 4, 4)).eval()
    logits = net(torch.randn(1, 1, 8, 8))
    assert logits.shape[2:] == (8, 8)
    expected = 0.2 * 0.5 + 0.8 * (0.3 * 1.0 + 0.7 * 2.0)
    torch.testing.assert_close(logits, torch.full_like(logits, expected))


def test_the_blend_is_trained_on_half_and_full_scale_whatever_is_predicted_on() -> None:
    net = build("hmsa", dims=2, in_channels=1, classes=2, size="tiny", scales=[1.0]).train()
    seen: list[float] = []
    honest = net.at_scale
    net.at_scale = lambda x, scale: (seen.append(scale), honest(x, scale))[1]  # type: ignore[method-assign]
    outputs = net(torch.randn(2, 1, 64, 64))
    assert seen == [0.5, 1.0]
    assert outputs.auxiliary_weights == (0.4, 0.05, 0.05)


def test_mutual_information_tells_apart_what_cross_entropy_does_not() -> None:
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 16:48, 16:48] = 1
    right = torch.stack([labels == 0, labels == 1], dim=1).float() * 2 - 1
    lump, scattered = torch.zeros(64, 64, dtype=torch.bool), torch.zeros(64 * 64, dtype=torch.bool)
    lump[:16, :16] = True
    scattered[torch.randperm(64 * 64)[:256]] = True
    wrong = [torch.where(place, -right, right) for place in (lump, scattered.view(64, 64))]
    entropy = [region_mutual_loss(x, labels, share=1.0) for x in wrong]
    torch.testing.assert_close(entropy[0], entropy[1])
    best, one, other = (region_mutual_loss(x, labels, share=0.0) for x in (right, *wrong))
    assert best < min(one, other)
    assert abs(one - other) > 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_voxels_left_out_change_neither_part_of_the_loss(dims: int) -> None:
    labels = torch.randint(0, 2, (1, *(16,) * dims))
    labels[:, :4] = 255
    logits = torch.randn(1, 2, *(16,) * dims)
    other = logits.clone()
    other[:, :, :4] = 7.0
    torch.testing.assert_close(region_mutual_loss(logits, labels), region_mutual_loss(other, labels))


def test_overlapping_classes_have_a_mask_each() -> None:
    regions = torch.tensor([[[[1, 0, 255]], [[1, 1, 255]]]])
    masks, counts = label_masks(regions, 2, 2)
    assert masks[0, :, 0].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert counts.flatten().tolist() == [True, True, False]


def test_scales_without_the_image_itself_are_refused() -> None:
    with pytest.raises(UserError, match="1 is among them"):
        build("hmsa", dims=2, in_channels=1, classes=2, scales=[0.5, 2.0])


@pytest.mark.parametrize(("norm", "same"), [("group", True), ("batch", False)])
def test_with_group_norms_both_scales_are_seen_as_in_training(norm: str, same: bool) -> None:
    net = build("hmsa", dims=2, in_channels=1, classes=2, size="tiny", norm=norm)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    noise = torch.randn(2, 1, 64, 64)  # its copy of half the size is half as noisy
    trained = net.train()(noise).main
    assert torch.allclose(trained, net.eval()(noise), atol=1e-4) == same


def test_a_norm_that_hmsa_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="norm is 'layer'; it is batch or group"):
        build("hmsa", dims=2, in_channels=1, classes=2, norm="layer")
