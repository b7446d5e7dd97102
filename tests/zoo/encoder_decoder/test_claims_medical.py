"""What PDV-Net and the convolutional encoder network claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.encoder_decoder.cnn_encoder_3d import sensitivity_specificity
from medseg.zoo.encoder_decoder.pdv_net import DenseStack
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_output_of_pdv_net_refines_the_coarser_one(dims: int) -> None:
    net = build("pdv-net", dims=dims, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, *(16,) * dims))
    assert isinstance(outputs, Outputs)
    assert [a.shape[2] for a in outputs.auxiliary] == [4, 2]
    assert outputs.auxiliary_weights == (1.0, 1.0)
    for output in net.outputs[:2]:  # pass on what came from below, and nothing of the features
        nn.init.zeros_(output.bias)
        nn.init.zeros_(output.weight)
        for k in range(2):
            output.weight.data[(k, -2 + k, *(1,) * dims)] = 1.0
    outputs = net(torch.randn(2, 1, *(16,) * dims))
    mode = "bilinear" if dims == 2 else "trilinear"
    up = nn.functional.interpolate(outputs.auxiliary[1], scale_factor=2, mode=mode)
    torch.testing.assert_close(outputs.auxiliary[0], up)


def test_the_dense_stacks_have_the_published_layers() -> None:
    with torch.device("meta"):
        net = build("pdv-net", dims=3, in_channels=1, classes=6)
    assert [len(stack.layers) for stack in net.stacks] == [5, 10, 10]
    assert [stack.channels for stack in net.stacks] == [44, 104, 184]
    stack = DenseStack(2, 3, 2, 4)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(stack(x)[:, :3], x)


def test_layers_of_a_dense_stack_read_the_input_and_all_layers_before_them() -> None:
    stack = DenseStack(2, 3, 3, 4).eval()
    given: list[torch.Tensor] = []
    for layer in stack.layers:
        layer.register_forward_hook(lambda _m, seen, _o: given.append(seen[0]))
    out = stack(torch.randn(2, 3, 4, 4))
    assert [x.shape[1] for x in given] == [3, 7, 11]
    assert all(torch.equal(x, out[:, : x.shape[1]]) for x in given)


@pytest.mark.parametrize("dims", [2, 3])
def test_deconvolution_is_the_adjoint_of_convolution_and_restores_the_size(dims: int) -> None:
    net = build("cnn-encoder-3d", dims=dims, in_channels=1, classes=1, filters=2, kernels=(5, 3))
    x = torch.randn(1, 1, *(16,) * dims)
    y = torch.randn(1, 2, *(12,) * dims)
    assert net.first(x).shape == y.shape, "no padding"
    conv = nn.functional.conv2d if dims == 2 else nn.functional.conv3d
    back = nn.functional.conv_transpose2d if dims == 2 else nn.functional.conv_transpose3d
    torch.testing.assert_close((conv(x, net.first.weight) * y).sum(), (x * back(y, net.first.weight)).sum())
    assert net(x).shape == x.shape


def test_the_shortcut_brings_detail_that_pooling_erases() -> None:
    net = build("cnn-encoder-3d", dims=2, in_channels=1, classes=1, size="tiny").eval()
    nn.init.zeros_(net.first.weight)
    net.first.weight.data[:, :, 1, 1] = 1.0
    stripes, grey = torch.zeros(1, 1, 32, 32), torch.full((1, 1, 32, 32), 0.5)
    stripes[:, :, ::2] = 1.0  # the mean of two neighbouring rows is the same everywhere
    with torch.no_grad():
        assert not torch.allclose(net(stripes), net(grey))
        net.shortcut = None
        torch.testing.assert_close(net(stripes), net(grey))


def test_the_loss_is_a_mean_on_lesions_and_one_elsewhere_however_rare_lesions_are() -> None:
    masks = torch.zeros(1, 1, 10, 10)
    masks[..., 0, 0] = 1
    counts = torch.ones(1, 1, 10, 10, dtype=torch.bool)
    missed = sensitivity_specificity(torch.zeros_like(masks), masks, counts, 0.05, 0)
    assert missed == pytest.approx(0.05), "one lesion voxel of a hundred"
    invented = sensitivity_specificity(torch.ones_like(masks), masks, counts, 0.05, 0)
    assert invented == pytest.approx(0.95)
    half = torch.full_like(masks, 0.5)
    assert sensitivity_specificity(half, masks, counts, 0.3, 0) == pytest.approx(0.25)


@pytest.mark.parametrize("regions", [False, True])
def test_the_loss_leaves_ignored_voxels_out(regions: bool) -> None:
    net = build("cnn-encoder-3d", dims=2, in_channels=1, classes=2, size="tiny")
    logits = torch.randn(1, 2, 6, 6)
    labels = torch.zeros(1, 6, 6, dtype=torch.uint8)
    labels[:, 2:4, 2:4] = 1
    targets = torch.stack([labels == 0, labels == 1], dim=1).to(torch.uint8) if regions else labels
    targets[..., 4:] = 255
    before = net.loss(logits, targets)
    logits[..., 4:] = 99.0
    torch.testing.assert_close(net.loss(logits, targets), before)
    logits[..., :4] += torch.randn(1, 2, 6, 4)
    assert net.loss(logits, targets) != before


def test_even_kernels_are_refused() -> None:
    with pytest.raises(UserError, match="kernels are odd, share between 0 and 1"):
        build("cnn-encoder-3d", dims=2, in_channels=1, classes=2, kernels=(4, 3))
