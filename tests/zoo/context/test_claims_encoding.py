"""What EncNet claims about its encoding, shown on a small case."""

from __future__ import annotations

import pytest
import torch

from medseg.zoo.build import build
from medseg.zoo.context.enc_net import ContextEncoding
from medseg.zoo.layers.encoding import Encoding
from medseg.zoo.layers.presence import present_classes


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_encodings_are_softly_assigned_residuals_to_the_codewords(dims: int) -> None:
    layer = Encoding(5, 3)
    x = torch.randn(2, 5, *(4,) * dims)
    points = x.flatten(2).transpose(1, 2)
    residuals = points[:, :, None] - layer.codewords
    weights = torch.softmax(layer.smoothing * residuals.square().sum(dim=-1), dim=2)
    torch.testing.assert_close(layer(x), (weights[..., None] * residuals).sum(dim=1))


def test_encodings_keep_their_precision_under_autocast() -> None:
    layer = Encoding(4, 2)
    x = 100.0 + torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    torch.testing.assert_close(half, layer(x))


def test_the_encoding_does_not_depend_on_where_things_are() -> None:
    module = ContextEncoding(2, 6, 3, 4).eval()
    x = torch.randn(1, 6, 4, 4)
    moved = x.flatten(2)[..., torch.randperm(16)].reshape(x.shape)
    torch.testing.assert_close(module.describe(x), module.describe(moved))


def test_the_same_feature_is_weighed_by_what_else_is_in_the_image() -> None:
    module = ContextEncoding(2, 6, 3, 4).eval()
    x = torch.randn(1, 6, 4, 4).abs()
    other = x.clone()
    other[..., 2:] += 3.0
    assert (module(x)[0][..., 0, 0] != module(other)[0][..., 0, 0]).any()
    ratio = module(x)[0] / x
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))
    assert ((ratio > 1) & (ratio < 2)).all(), "gamma lies between 0 and 1"


def test_a_class_of_one_voxel_is_as_present_as_a_large_one() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[0, 0, 0], labels[1] = 2, 255
    assert present_classes(labels, 3, 2).tolist() == [[1, 0, 1], [0, 0, 0]]
    masks = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    masks[0, 1, 3, 3], masks[0, 2] = 1, 255
    assert present_classes(masks, 3, 2).tolist() == [[0, 1, 0]]


def test_the_presence_of_classes_is_trained_beside_the_segmentation() -> None:
    net = build("enc-net", dims=2, in_channels=1, classes=3, size="tiny").train()
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[:, :4, :4] = 1
    loss = net.training_step(torch.randn(2, 1, 32, 32), labels, lambda outputs, targets: torch.zeros(()))
    loss.backward()
    assert net.context.present.bias.grad[1] < 0, "class 1 is there: its logit should rise"
    assert net.context.present.bias.grad[2] > 0, "class 2 is not"
    assert net.context.encoding.codewords.grad.abs().sum() > 0


@pytest.mark.parametrize("lateral", [False, True])
def test_stages_three_and_four_join_where_laterals_are_asked_for(lateral: bool) -> None:
    net = build("enc-net", dims=2, in_channels=1, classes=2, size="tiny", lateral=lateral).eval()
    assert len(net.lateral) == 2 * lateral
    assert net(torch.randn(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_the_head_on_stage_four_counts_as_much_as_the_presence() -> None:
    net = build("enc-net", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 32, 32))
    assert outputs.auxiliary_weights == (0.2,)
    outputs.auxiliary[0].sum().backward()
    assert all(p.grad is None for p in net.encoder.stages[3].parameters())
    assert net.encoder.stages[2][0].path[0][0].weight.grad is not None
