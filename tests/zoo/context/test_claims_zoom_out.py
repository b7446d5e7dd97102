"""What the zoom-out paper claims, shown on a small case."""

from __future__ import annotations

import pytest
import torch

from medseg.zoo.build import build
from medseg.zoo.context.zoom_out import Standardise, ZoomOut, cropped, neighbourhoods


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_a_superpixel_has_the_published_number_of_features() -> None:
    with torch.device("meta"):
        net = ZoomOut(2, 3, 21)
    assert net.features == 12_416
    assert len(net.layers(torch.randn(1, 3, 32, 32, device="meta"))) == 13


@pytest.mark.parametrize("dims", [2, 3])
def test_a_superpixel_is_described_by_nested_regions(dims: int) -> None:
    net = build("zoom-out", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    label = torch.arange(8).repeat_interleave(2).expand(*(16,) * dims).contiguous()  # eight slabs in a row
    layers = [torch.randn(w, *(16,) * dims, requires_grad=True) for w in (4, 8)]
    described = net.describe(layers, label, 8)
    torch.testing.assert_close(described[2, :4], layers[0][..., 4:6].flatten(1).mean(dim=1))
    wide = net.fc[2].out_features
    near, around, scene = described[0].split([12, wide, wide])
    (own,) = torch.autograd.grad(near[:4].sum(), layers[0], retain_graph=True)
    assert (own[..., 2:] == 0).all()
    (box,) = torch.autograd.grad(around.sum(), layers[1], retain_graph=True)
    assert (box[..., 10:] == 0).all(), "three slabs away and no further"
    assert (box[..., 4:9] != 0).any()
    (whole,) = torch.autograd.grad(scene.sum(), layers[1])
    assert (whole[..., 10:] != 0).any()


def test_the_neighbourhood_reaches_three_superpixels_far() -> None:
    label = torch.arange(8).repeat_interleave(2).expand(16, 16).contiguous()
    low, high = neighbourhoods(label, 9)
    assert low[4].tolist() == [0.0, 2 / 16]
    assert high[4].tolist() == [1.0, 16 / 16]
    assert high[0].tolist() == [1.0, 8 / 16]
    assert (low[8].tolist(), high[8].tolist()) == ([0.0, 0.0], [1.0, 1.0])  # an empty one sees all


def test_a_crop_samples_the_middles_of_its_parts() -> None:
    layer = torch.arange(8.0).expand(1, 4, 8)
    got = cropped(layer, torch.tensor([[0.0, 0.5]]), torch.tensor([[1.0, 1.0]]), 2)
    torch.testing.assert_close(got[0, 0], torch.tensor([[4.5, 6.5], [4.5, 6.5]]))


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    net = build("zoom-out", dims=2, in_channels=1, classes=2, size="tiny").train()
    image, targets = torch.zeros(1, 1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    image[:, :, :8, :8], targets[:, :8, :8] = 3.0, 1
    labels = targets[0].clone()
    fixed = torch.tensor([[[0.0, 0.0], [0.0, 4.0]]])  # sure of the rare class, undecided on the common one
    net.scores = lambda x: (fixed, labels[None], 2)
    loss = net.training_step(image, targets, lambda o, t: None)
    sure, undecided = torch.log1p(torch.exp(torch.tensor(-4.0))), torch.log(torch.tensor(2.0))
    torch.testing.assert_close(loss, (sure + undecided) / 2)
    targets[:] = 255
    assert net.training_step(image, targets, lambda o, t: None) == 0


def test_every_voxel_of_a_superpixel_gets_its_class() -> None:
    net = build("zoom-out", dims=2, in_channels=1, classes=3, size="tiny").eval()
    x = torch.randn(1, 1, 32, 32)
    scores, labels, count = net.scores(x)
    logits = net(x)
    for k in range(count):
        inside = logits[0][:, labels[0] == k]
        torch.testing.assert_close(inside, scores[0, k][:, None].expand_as(inside))


def test_features_are_standardised_alike_in_training_and_at_test() -> None:
    norm = Standardise(3).train()
    for _ in range(60):
        batch = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.2]) + torch.tensor([0.0, 3.0, -2.0])
        trained = norm(batch)
    torch.testing.assert_close(trained, norm.eval()(batch))
    torch.testing.assert_close(norm.mean, torch.tensor([0.0, 3.0, -2.0]), rtol=0.1, atol=0.5)
    torch.testing.assert_close(norm.variance.sqrt(), torch.tensor([1.0, 5.0, 0.2]), rtol=0.15, atol=0.02)
