"""Backbones beside the ResNets: counts, pyramids, oracles, weights from files, planes into volumes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.encoders.pretrained import inflate, inflate_encoder, torchvision_names
from medseg.zoo.encoders.table import make_resnet


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def live(net: nn.Module) -> nn.Module:
    """Random running statistics, so that norms count in eval mode too."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def head(features: int, wide: int, inner: int = 0) -> int:
    """Weights between the last feature and 1000 classes: 1x1 with norm, perhaps a layer, the classifier."""
    first = features * wide + 2 * wide
    return first + (wide * inner + inner + inner * 1000 + 1000 if inner else wide * 1000 + 1000)


@pytest.mark.parametrize(
    ("name", "published"),
    [("efficientnet-b0", 5_288_548 - head(320, 1280)), ("efficientnet-b3", 12_233_232 - head(384, 1536)),
     ("efficientnet-b5", 30_389_784 - head(512, 2048)), ("efficientnet-b7", 66_347_960 - head(640, 2560)),
     ("mobilenet-v2", 3_504_872 - head(320, 1280)), ("mobilenet-v3-large", 5_483_032 - head(160, 960, 1280)),
     ("mobilenet-v3-small", 2_542_856 - head(96, 576, 1024))],
)  # fmt: skip
def test_published_weights_without_the_classifier(name: str, published: int) -> None:
    with torch.device("meta"):
        assert count(make_resnet(name, 2, 3)) == published


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("name", ["efficientnet-tiny", "mobilenet-v2-tiny", "mobilenet-v3-small"])
def test_a_pyramid_has_the_channels_and_strides_it_declares(name: str, output_stride: int, dims: int) -> None:
    with torch.device("meta"):
        net = make_resnet(name, dims, 1, output_stride)
        image = torch.zeros(1, 1, *(64,) * dims)
        features = net(image)
        assert tuple(f.shape[1] for f in features) == net.channels
        assert tuple(64 // f.shape[2] for f in features) == net.strides
        assert net.strides[-1] == output_stride
        assert net.half(image).shape[1:3] == (net.half_channels, 32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dims", [2, 3])
def test_an_efficientnet_equals_monai(dims: int) -> None:
    from monai.networks.nets import EfficientNetBN

    theirs = live(
        EfficientNetBN("efficientnet-b0", spatial_dims=dims, in_channels=1, num_classes=2, pretrained=False)
    )
    ours = make_resnet("efficientnet-b0", dims, 1).eval()
    given = [t for t in theirs.state_dict().values() if t.ndim]
    own = [t for t in ours.state_dict().values() if t.ndim]
    assert [t.shape for t in own] == [t.shape for t in given[: len(own)]]
    with torch.no_grad():
        for one, other in zip(own, given):
            one.copy_(other)
        # MONAI fixes its padding for images of 224, where the last stage pads 14 -> 7 like every even size.
        x = torch.randn(1, 1, *((64,) if dims == 2 else (32,)) * dims)
        y = theirs._conv_stem(theirs._conv_stem_padding(x))
        y = theirs._swish(theirs._bn0(y))
        y = theirs._blocks(y)
        torch.testing.assert_close(ours(x)[-1], y, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_mobilenet_v2_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = live(transformers.MobileNetV2Model(transformers.MobileNetV2Config()))
    ours = make_resnet("mobilenet-v2", 2, 3).eval()
    given = [t for t in theirs.state_dict().values() if t.ndim]
    own = [t for t in ours.state_dict().values() if t.ndim]
    assert [t.shape for t in own] == [t.shape for t in given[: len(own)]]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(own, given):
            one.copy_(other)
        expected = theirs(x, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(ours(x)[-1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet-tiny", "efficientnet-tiny", "mobilenet-v2-tiny"])
def test_on_a_volume_of_equal_slices_the_inflated_net_sees_what_the_net_of_planes_sees(name: str) -> None:
    planes, volumes = live(make_resnet(name, 2, 1)), make_resnet(name, 3, 1).eval()
    inflate_encoder(planes, volumes)
    flat = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected, found = planes(flat), volumes(flat[..., None].repeat(1, 1, 1, 1, 64))
    for one, other in zip(expected, found):
        torch.testing.assert_close(other, one[..., None].expand_as(other), rtol=1e-4, atol=1e-5)


def test_the_mean_form_is_equal_away_from_the_ends() -> None:
    flat, kernel = torch.randn(1, 2, 9, 9), torch.randn(3, 2, 3, 3)
    volume = flat[..., None].repeat(1, 1, 1, 1, 7)
    found = nn.functional.conv3d(volume, inflate(kernel, 3, "mean"), padding=1)
    expected = nn.functional.conv2d(flat, kernel, padding=1)
    torch.testing.assert_close(found[..., 3], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[..., 0], expected, atol=1e-2)


def test_weights_come_from_a_local_file_by_our_names_and_by_torchvisions(tmp_path: Path) -> None:
    source = live(make_resnet("resnet-tiny", 2, 3))
    tensors = {n: t.contiguous() for n, t in source.state_dict().items() if "num_batches" not in n}
    save_file(tensors, str(tmp_path / "own.safetensors"))
    renamed = dict(zip(torchvision_names(source), tensors.values(), strict=True))
    save_file({**renamed, "fc.weight": torch.zeros(2, 2)}, str(tmp_path / "tv.safetensors"))
    x = torch.randn(1, 3, 32, 32)
    for name in ("own", "tv"):
        net = make_resnet(f"resnet-tiny@{tmp_path / name}.safetensors", 2, 3).eval()
        with torch.no_grad():
            torch.testing.assert_close(net(x)[-1], source(x)[-1])
    grey = make_resnet(f"resnet-tiny@{tmp_path / 'tv.safetensors'}", 3, 1).eval()
    with torch.no_grad():
        one = x[:, :1]
        found = grey(one[..., None].repeat(1, 1, 1, 1, 32))[-1][..., 0]
        torch.testing.assert_close(found, source(one.repeat(1, 3, 1, 1))[-1], rtol=1e-4, atol=1e-5)


def test_names_of_torchvision_are_those_of_a_bottleneck_resnet() -> None:
    with torch.device("meta"):
        names = torchvision_names(make_resnet("resnet50", 2, 3))
    assert names[:5] == ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"]
    assert {"layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "layer3.5.bn2.running_var"} <= set(names)
    assert len(names) == 5 * 53


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"not safetensors", "is no safetensors file"), ({}, "lacks")],
)
def test_a_bad_weights_file_is_refused_in_words(content: object, words: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file({"else": torch.zeros(1)}, str(file))
    with pytest.raises(UserError, match=words):
        build("linknet", dims=2, in_channels=3, classes=2, backbone=f"resnet-tiny@{file}")


@pytest.mark.parametrize("name", ["efficientnet-tiny", "mobilenet-v2-tiny"])
@pytest.mark.parametrize("dims", [2, 3])
def test_systems_take_the_new_backbones(name: str, dims: int) -> None:
    net = build("fpn", dims=dims, in_channels=1, classes=3, backbone=name, width=8, inner=8)
    assert net(torch.randn(2, 1, *(32,) * dims)).shape == (2, 3, *(32,) * dims)


def test_a_backbone_of_another_library_serves_a_system() -> None:
    pytest.importorskip("transformers")
    net = build("fpn", dims=2, in_channels=1, classes=3, backbone="hf:resnet", width=8, inner=8)
    assert net(torch.randn(1, 1, 64, 64)).shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match="downloads nothing"):
        build("fpn", dims=2, in_channels=3, classes=3, backbone="hf:nobody/has-this")
    with pytest.raises(UserError, match="ends at stride 32 and this system wants 8"):
        build("pspnet", dims=2, in_channels=1, classes=3, backbone="hf:resnet", channels=8)


def test_what_cannot_be_had_is_said_with_the_extra() -> None:
    for library in ("timm", "transformers"):
        if importlib.util.find_spec(library) is None:
            name = {"timm": "timm:resnet18", "transformers": "hf:resnet"}[library]
            with pytest.raises(UserError, match=r"medseg\[backbones\]"):
                build("fpn", dims=2, in_channels=1, classes=3, backbone=name)
    with pytest.raises(UserError, match="flat images only"):
        build("fpn", dims=3, in_channels=1, classes=3, backbone="hf:resnet")
    with pytest.raises(UserError, match="did you mean efficientnet-b0"):
        build("fpn", dims=2, in_channels=1, classes=3, backbone="efficientnet_b0")
