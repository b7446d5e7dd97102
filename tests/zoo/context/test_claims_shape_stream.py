"""What Gated-SCNN claims: gates clean the shape stream, and segmentation and edges must agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medseg.zoo.build import build
from medseg.zoo.context.gated_scnn import (
    GatedConv,
    boundary_disagreement,
    gumbel_classes,
    shape_loss,
)
from medseg.zoo.layers.edges import canny, label_edges
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def block(dims: int, side: int = 16) -> Tensor:
    """Labels (1, *S): a box of class 1 in class 0."""
    labels = torch.zeros(1, *(side,) * dims, dtype=torch.uint8)
    labels[(0, *(slice(side // 4, 3 * side // 4),) * dims)] = 1
    return labels


@pytest.mark.parametrize("dims", [2, 3])
def test_a_gate_lets_shape_through_where_the_deeper_stream_calls_for_it(dims: int) -> None:
    conv = GatedConv(dims, 2).eval()
    nn.init.constant_(conv.gate[1].weight, 0.0)
    conv.gate[1].weight.data[0, -1] = 1.0  # looks at the deeper stream alone
    nn.init.constant_(conv.gate[3].weight, 20.0)
    nn.init.constant_(conv.gate[3].bias, -10.0)
    nn.init.zeros_(conv.gate[1].bias)
    nn.init.dirac_(conv.conv.weight)
    shape = torch.ones(1, 2, *(4,) * dims)
    side = torch.zeros(1, 1, *(4,) * dims)
    side[:, :, 2:] = 1.0
    out = conv(shape, side)
    torch.testing.assert_close(out[:, :, :2], shape[:, :, :2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out[:, :, 2:], 2 * shape[:, :, 2:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_edge_map_reaches_the_segmentation(dims: int) -> None:
    net = build("gated-scnn", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, *(16,) * dims)
    with torch.no_grad():
        before = net(x)
        net.shape_stream.fuse.weight.mul_(-30.0)
        assert not torch.allclose(before, net(x))
        nn.init.zeros_(net.pyramid.edge[0].weight)
        silent = net(x)
        net.shape_stream.fuse.weight.zero_()
        torch.testing.assert_close(silent, net(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_edges_of_the_image_join_the_edge_map(dims: int) -> None:
    net = build("gated-scnn", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    seen: list[Tensor] = []
    net.with_image.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    image = block(dims)[None].float()
    with torch.no_grad():
        net(image)
    assert torch.equal(seen[0][:, 1:], canny(image).float())
    assert seen[0][:, 1:].any()


@pytest.mark.parametrize("dims", [2, 3])
def test_canny_marks_the_rim_of_a_box_once_and_skips_what_is_faint(dims: int) -> None:
    image = block(dims, 20)[None].float()
    image[0, 0, 0] += 0.004  # one grey value of 255
    edges = canny(image)
    inside = edges[(0, 0, slice(None), *(10,) * (dims - 1))]
    assert inside.nonzero().flatten().tolist() in ([4, 14], [5, 14], [4, 15], [5, 15])
    assert edges[0, 0, :3].sum() == 0
    assert torch.equal(canny(3.0 * image - 7.0), edges), "brightness and contrast do not matter"


def test_weak_edges_stay_where_they_join_strong_ones() -> None:
    image = torch.zeros(1, 1, 12, 30)
    image[:, :, 6:] = torch.linspace(0.1, 1.0, 30)
    strong_only = canny(image, low=700.0, high=700.0).sum()
    assert canny(image, low=100.0, high=700.0).sum() > strong_only > 0
    assert canny(image, low=100.0, high=5000.0).sum() == 0


def test_label_edges_lie_within_two_voxels_and_not_beside_ignored_ones() -> None:
    labels = block(2)
    masks, counts = label_masks(labels, 2, 2)
    row = label_edges(masks, counts)[0, 0, 8].nonzero().flatten().tolist()
    assert row == [2, 3, 4, 5, 10, 11, 12, 13]
    labels[labels == 0] = 255
    assert not label_edges(*label_masks(labels, 2, 2)).any()


@pytest.mark.parametrize("dims", [2, 3])
def test_blurred_or_shifted_segmentations_disagree_with_the_boundary(dims: int) -> None:
    masks, _ = label_masks(block(dims), 2, dims)
    assert boundary_disagreement(masks, masks) == 0
    assert boundary_disagreement(masks.roll(1, dims=2), masks) > 0.02
    assert boundary_disagreement(torch.full_like(masks, 0.5), masks) > 0.02


def test_drawn_classes_follow_the_logits_and_pass_gradients() -> None:
    logits = torch.zeros(1, 2, 64, 64)
    logits[:, 1] = 2.0
    logits.requires_grad_()
    drawn = gumbel_classes(logits, exclusive=True)
    assert drawn.detach().argmax(dim=1).float().mean() == pytest.approx(0.881, abs=0.03)
    drawn[:, 1].sum().backward()
    assert (logits.grad[:, 1] > 0).any()


@pytest.mark.parametrize("regions", [False, True])
def test_edges_are_trained_with_twenty_times_the_weight_and_ignored_voxels_teach_nothing(
    regions: bool,
) -> None:
    labels = block(2)
    targets = torch.stack([labels == 0, labels == 1], dim=1).to(torch.uint8) if regions else labels
    masks, counts = label_masks(labels, 2, 2)
    edges = label_edges(masks, counts).float()
    sure = 50.0 * (masks - 0.5)
    right = Outputs(sure, extras={"edges": 30.0 * (edges - 0.5)})
    wrong = Outputs(sure, extras={"edges": torch.zeros_like(edges)})
    assert shape_loss(right, targets, 2) < 0.1
    share = edges.mean()
    expected = 20 * 2 * share * (1 - share) * torch.tensor(2.0).log()
    torch.testing.assert_close(shape_loss(wrong, targets, 2), expected, rtol=0.05, atol=0.02)
    assert shape_loss(wrong, torch.full_like(targets, 255), 2) == 0


def test_the_pipelines_loss_is_one_term_of_the_training_step() -> None:
    net = build("gated-scnn", dims=2, in_channels=1, classes=2, size="tiny").train()
    step = net.training_step(
        torch.randn(2, 1, 16, 16), block(2).repeat(2, 1, 1), lambda o, t: o.main.sum() * 0 + 100
    )
    assert 100 < step < 200
    step.backward()
    assert all(p.grad is not None for p in net.shape_stream.parameters())
