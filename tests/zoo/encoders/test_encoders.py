"""Backbones: published weights, declared pyramids, and MONAI's ResNets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.encoders.xception import Xception


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [("resnet18", 11_689_512, 513_000), ("resnet34", 21_797_672, 513_000), ("resnet50", 25_557_032, 2_049_000),
     ("resnet101", 44_549_160, 2_049_000), ("resnet152", 60_192_808, 2_049_000)],
)  # fmt: skip
def test_resnets_have_the_published_weights(name: str, published: int, classifier: int) -> None:
    with torch.device("meta"):
        assert count(make_resnet(name, 2, 3)) == published - classifier


@pytest.mark.parametrize(("middle", "published"), [(8, 26.97e6), (16, 39.92e6)])
def test_aligned_xceptions_have_the_published_weights(middle: int, published: float) -> None:
    with torch.device("meta"):
        assert count(Xception(2, 3, middle=middle)) + 2_049_000 == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_a_pyramid_has_the_channels_and_strides_it_declares(dims: int, output_stride: int) -> None:
    with torch.device("meta"):
        for net in (
            make_resnet("resnet-tiny", dims, 1, output_stride, deep_stem=True),
            Xception(dims, 1, 1, (4, 4, 8, 8, 8, 8, 8, 16), output_stride),
        ):
            features = net(torch.zeros(1, 1, *(64,) * dims))
            assert tuple(f.shape[1] for f in features) == net.channels
            assert tuple(64 // f.shape[2] for f in features) == net.strides


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "dims"), [("resnet18", 2), ("resnet50", 2), ("resnet18", 3)])
def test_a_resnet_equals_monai(name: str, dims: int) -> None:
    from monai.networks.nets import resnet

    torch.manual_seed(0)
    theirs = getattr(resnet, name)(
        spatial_dims=dims, n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False,
        conv1_t_stride=2,
    ).eval()  # fmt: skip
    ours = make_resnet(name, dims, 1).eval()
    weights, own = theirs.state_dict(), ours.state_dict()
    assert [tuple(t.shape) for t in weights.values()] == [tuple(t.shape) for t in own.values()]
    ours.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    x = torch.randn(1, 1, *(32,) * dims)
    with torch.no_grad():
        expected = theirs(x)
        deepest = ours(x)[-1].mean(dim=tuple(range(2, dims + 2)))
    torch.testing.assert_close(deepest, expected.reshape(deepest.shape), rtol=1e-3, atol=1e-4)
