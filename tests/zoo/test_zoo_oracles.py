"""Networks that MONAI keeps too: the same weights give the same output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.build import build

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def live(net: nn.Module) -> nn.Module:
    """Random running statistics, so that norms count in eval mode too."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight, 1.0, 0.1)
            nn.init.normal_(module.bias)
    return net.eval()


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copies weights and statistics of layers that both nets register in the same order."""

    def of(net: nn.Module) -> list[torch.Tensor]:
        return [t for t in net.state_dict().values() if t.ndim > 0]

    ours, theirs = of(target), of(source)
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    with torch.no_grad():
        for one, other in zip(ours, theirs, strict=True):
            one.copy_(other)


@pytest.mark.parametrize("dims", [2, 3])
def test_v_net_equals_monai(dims: int) -> None:
    from monai.networks.nets import VNet

    theirs = live(VNet(spatial_dims=dims, in_channels=1, out_channels=2))
    ours = build("v-net", dims=dims, in_channels=1, classes=2, activation="elu").eval()
    copy_in_order(theirs, ours)
    x = torch.randn(1, 1, *(16,) * dims)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_the_grid_of_unet_plus_plus_equals_monai() -> None:
    from monai.networks.nets import BasicUNetPlusPlus

    theirs = BasicUNetPlusPlus(
        spatial_dims=2, in_channels=1, out_channels=2, features=(4, 8, 16, 32, 64, 4)
    ).eval()
    ours = build("u-net-plus-plus", dims=2, in_channels=1, classes=2, features=(4, 8, 16, 32, 64)).eval()
    for i in range(5):
        block = getattr(theirs, f"conv_{i}_0")
        ours.column[i] = block if i == 0 else block.convs
    for name in ours.node:
        both = getattr(theirs, f"upcat_{name}")
        ours.up[name], ours.node[name] = both.upsample, both.convs
    for j in range(4):
        ours.heads[j] = getattr(theirs, f"final_conv_0_{j + 1}")
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)[-1])


@pytest.mark.parametrize("dims", [2, 3])
def test_the_plain_nnunet_equals_monai_dynunet(dims: int) -> None:
    from monai.networks.nets import DynUNet

    strides = [(1,) * dims, (1,) + (2,) * (dims - 1), (2,) * dims]
    kernels = [
        (3,) * dims
    ] * 3  # with kernels that differ MONAI gives a decoder stage the kernel of the one below
    theirs = DynUNet(dims, 1, 3, kernels, strides, strides[1:], filters=(4, 8, 16)).eval()
    ours = build(
        "nnunet-plain",
        dims=dims,
        in_channels=1,
        classes=3,
        features_per_stage=(4, 8, 16),
        strides=strides,
        kernel_sizes=kernels,
    ).eval()
    stages = [theirs.input_block, *theirs.downsamples, theirs.bottleneck]
    with torch.no_grad():
        for stage, block in zip(ours.encoder, stages, strict=True):
            take_block(stage, block)
        for up, stage, block in zip(ours.up, ours.decoder, theirs.upsamples, strict=True):
            up.weight.copy_(block.transp_conv.conv.weight)
            nn.init.zeros_(up.bias)
            take_block(stage, block.conv_block)
        ours.heads[-1].weight.copy_(theirs.output_block.conv.conv.weight)
        ours.heads[-1].bias.copy_(theirs.output_block.conv.conv.bias)
        x = torch.randn(1, 1, *(16,) * dims)
        torch.testing.assert_close(ours(x), theirs(x))


def take_block(stage: nn.Module, block: nn.Module) -> None:
    """Two convolutions and norms of a DynUNet block; ours have a bias before the norm, theirs none."""
    for ours, conv, norm in ((stage[0], block.conv1, block.norm1), (stage[1], block.conv2, block.norm2)):
        ours[0].weight.copy_(conv.conv.weight)
        nn.init.normal_(norm.weight)
        ours[1].weight.copy_(norm.weight)
        ours[1].bias.copy_(norm.bias)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_feature_pyramid_equals_monai(dims: int) -> None:
    from collections import OrderedDict

    from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork

    from medseg.zoo.layers.feature_pyramid import TopDown

    theirs = FeaturePyramidNetwork(dims, [2, 4, 8], 3)
    ours = TopDown(dims, (2, 4, 8), 3)
    copy_in_order(theirs, ours)
    features = [torch.randn(1, 2**i, *(2 ** (5 - i),) * dims) for i in (1, 2, 3)]
    expected = theirs(OrderedDict((str(i), x) for i, x in enumerate(features)))
    for got, other in zip(ours(features), expected.values(), strict=True):
        torch.testing.assert_close(got, other)


def test_squeeze_and_excitation_equals_monai() -> None:
    from monai.networks.blocks import ChannelSELayer

    from medseg.zoo.layers.gates import SqueezeExcite

    theirs = ChannelSELayer(spatial_dims=3, in_channels=8, r=4)
    ours = SqueezeExcite(8, 4)
    copy_in_order(theirs, ours)
    x = torch.randn(2, 8, 4, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))
