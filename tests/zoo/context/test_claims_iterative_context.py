"""What iterative pyramid contexts claim about masks and boundaries, shown on a small case."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.ipc import (
    PyramidContext,
    PyramidContextModule,
    balanced_bce,
    class_boundaries,
    spatial_gradient,
)
from medseg.zoo.layers.label_masks import label_masks


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(**arguments: object) -> torch.nn.Module:
    return build("ipc", dims=2, in_channels=1, classes=3, size="tiny", **arguments)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_gradient_of_a_mask_lies_where_it_changes(dims: int) -> None:
    mask = torch.zeros(1, 1, *(8,) * dims)
    mask[:, :, :4] = 1.0
    line = spatial_gradient(mask)[(0, 0, slice(None), *(4,) * (dims - 1))]
    torch.testing.assert_close(line, torch.tensor([0, 0, 0, 1 / 3, 1 / 3, 0, 0, 0]))


def test_boundaries_belong_to_the_classes_that_meet() -> None:
    masks = torch.zeros(1, 3, 1, 9)
    masks[0, 0, :, :3], masks[0, 1, :, 3:7], masks[0, 2, :, 7:] = 1, 1, 1
    counts = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    rows = class_boundaries(masks, counts, radius=1)[0, :, 0].int().tolist()
    assert rows == [[0, 0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1, 0]]
    counts[..., 7:] = False
    assert class_boundaries(masks * counts, counts, radius=1)[0, 2].sum() == 0


def test_the_context_of_one_task_refines_the_other() -> None:
    module = PyramidContextModule(2, 4, 2, (1, 3)).eval()
    own, fine, coarse = (torch.randn(1, 4, n, n, requires_grad=True) for n in (8, 8, 4))
    features = module.own(own)
    up = torch.nn.functional.interpolate(module.others[1](coarse), size=(8, 8), mode="bilinear")
    out = module(own, [fine, coarse])
    torch.testing.assert_close(out, features * (1 + module.others[0](fine) + up))


def test_the_pyramid_sees_the_whole_image() -> None:
    context = PyramidContext(2, 3, (1, 3)).eval()
    x = torch.randn(1, 3, 9, 9, requires_grad=True)
    context(x)[0, :, 0, 0].sum().backward()
    assert (x.grad[0, :, 8, 8] != 0).any()


def test_the_tasks_take_turns() -> None:
    net = tiny().train()
    outputs = net(torch.randn(2, 1, 32, 32))
    outputs.extras["boundary"].sum().backward()
    assert net.segment.weight.grad.abs().sum() > 0, "the mask's gradient joins the boundary scores"
    net.zero_grad()
    net(torch.randn(2, 1, 32, 32)).main.sum().backward()
    second = net.exchanges[0][0].own[0].weight.grad
    assert second.abs().sum() > 0, "the step of the boundaries refines the masks of the next"
    assert net.last.own[0].weight.grad is None, "the last step is for boundaries alone"


def test_each_class_fuses_its_own_two_maps() -> None:
    net = tiny()
    edges = torch.randn(1, 3, 4, 4)
    gradient = torch.zeros(1, 3, 4, 4, requires_grad=True)
    net.fused(edges, gradient)[0, 1].sum().backward()
    assert (gradient.grad[0].abs().sum(dim=(1, 2)) > 0).tolist() == [False, True, False]


def test_duality_vanishes_for_the_true_mask() -> None:
    net = tiny().train()
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    labels[:, 4:10, 4:10], labels[:, 12:] = 1, 255
    loss = net.training_step(torch.randn(1, 1, 16, 16), labels, lambda outputs, targets: torch.zeros(()))
    assert loss.isfinite()
    masks = torch.nn.functional.one_hot(labels.clamp_max(2).long(), 3).movedim(-1, 1).float()
    sharp = torch.softmax(100 * masks, dim=1)
    torch.testing.assert_close(spatial_gradient(sharp), spatial_gradient(masks))


def test_boundaries_and_duality_are_trained_beside_the_mask() -> None:
    net = tiny().train()
    images, labels = torch.randn(2, 1, 32, 32), torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[:, 8:20, 8:20], labels[:, 28:] = 1, 255
    outputs = net(images)
    masks, counts = label_masks(labels, 3, 2)
    boundary = balanced_bce(outputs.extras["boundary"], class_boundaries(masks, counts), counts)
    apart = (outputs.extras["gradient"] - spatial_gradient(masks)).abs() * counts
    duality = apart.sum() / (3 * counts.sum())
    loss = net.training_step(images, labels, lambda _outputs, _targets: torch.tensor(2.0))
    torch.testing.assert_close(loss, 2.0 + boundary + duality)
    assert min(boundary, duality) > 1e-3


def test_an_odd_number_of_steps_is_refused() -> None:
    with pytest.raises(UserError, match="steps is 3; the two tasks take turns"):
        tiny(steps=3)
