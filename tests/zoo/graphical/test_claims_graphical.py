"""What each paper with a graphical model claims, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.zoo.build import build


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def two_halves(dims: int = 2) -> Tensor:
    """An image (1, 1, *S) dark on one half, bright on the other."""
    image = torch.full((1, 1, *(32,) * dims), -1.0)
    image[..., 16:] = 1.0
    return image + 0.05 * torch.randn_like(image)


def blurred(scores: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(scores, 9, 1, 4)


def test_mean_field_is_a_recurrent_network_of_shared_weights() -> None:
    net = build("crf-rnn", dims=2, in_channels=1, classes=2, size="tiny").eval()
    x = two_halves()
    counts = []
    for steps in (1, 5):
        net.crf.test_iterations = steps
        counts.append((sum(p.numel() for p in net.crf.parameters()), net(x)))
    assert counts[0][0] == counts[1][0] == 3 * 2 * 2
    scores = net.unary(x)
    again = scores
    for _ in range(5):  # the same step, fed with its own output
        net.crf.test_iterations = 1
        probabilities = torch.softmax(again, 1)
        again = scores + net.crf(torch.log(probabilities), x) - torch.log(probabilities)
    torch.testing.assert_close(again, counts[1][1], rtol=1e-3, atol=1e-3)


def test_the_field_learns_what_the_network_cannot_say() -> None:
    net = build("crf-rnn", dims=2, in_channels=1, classes=2, size="tiny", unary_loss=0).train()
    net(two_halves()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.crf.parameters())
    assert net.unary.encoder.stages[0][0][0].weight.grad.abs().sum() > 0
    alone = build("crf-rnn", dims=2, in_channels=1, classes=2, size="tiny", iterations=(0, 0)).eval()
    x = two_halves()
    torch.testing.assert_close(alone(x), alone.unary(x))


def test_the_scores_below_the_field_have_a_loss_of_their_own_in_training() -> None:
    net = build("crf-rnn", dims=2, in_channels=1, classes=2, size="tiny", unary_loss=0.5).train()
    x = two_halves()
    outputs = net(x)
    assert (len(outputs.auxiliary), outputs.auxiliary_weights) == (1, (0.5,))
    assert outputs.auxiliary[0].shape == outputs.main.shape
    outputs.auxiliary[0].square().mean().backward()
    assert all(p.grad is None for p in net.crf.parameters())
    assert net.unary.encoder.stages[0][0][0].weight.grad.abs().sum() > 0
    assert isinstance(net.eval()(x), Tensor)


def test_the_loss_on_marginals_reaches_the_scores_through_every_step() -> None:
    crf = build("fcdsn", dims=2, in_channels=1, classes=2, size="tiny").crf.double()
    image = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    unary = torch.randn(1, 2, 4, 5, requires_grad=True)
    target = torch.randint(0, 2, (1, 4, 5))

    def loss(scores: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(crf(scores, image), target)

    crf.float()
    (gradient,) = torch.autograd.grad(loss(unary), unary)
    step = 1e-2 * torch.randn_like(unary)
    with torch.no_grad():
        slope = (loss(unary + step) - loss(unary - step)) / 2
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=2e-2, atol=1e-5)
    weights = list(crf.parameters())
    assert [tuple(p.shape) for p in weights] == [(2, 2), (2, 2)], "one compatibility a kernel"
    one = torch.softmax(crf(unary, image), dim=1)[0, 0, 0, 0]
    (heard,) = torch.autograd.grad(one, unary)
    assert (heard[0].abs() > 0).all(), "the marginal of one voxel depends on the scores of all"


def test_fcdsn_gives_the_marginals_of_the_field_and_trains_all_of_it_through_them() -> None:
    net = build("fcdsn", dims=2, in_channels=1, classes=2, size="tiny").eval()
    x = two_halves()
    unary = torch.nn.functional.interpolate(net.scores(net.encoder(x)[-1]), x.shape[2:], mode="bilinear")
    torch.testing.assert_close(net(x), net.crf(unary, x))
    assert (torch.softmax(net(x), 1) - torch.softmax(unary, 1)).abs().max() > 1e-3
    net.train()(x)[:, 0].mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.crf.parameters())
    assert net.encoder.stages[0][0][0].weight.grad.abs().sum() > 0


def test_smooth_scores_get_the_edges_of_the_image_back() -> None:
    net = build("cnn-dense-crf", dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = two_halves()
    truth = image[:, 0] > 0
    moved = torch.roll(truth, 4, dims=-1)  # a boundary that lies four pixels off
    scores = blurred(torch.stack([~moved, moved], 1).float() * 2 - 1)
    net.unary = lambda x: torch.log_softmax(scores, 1)
    before, after = scores.argmax(1), net(image).argmax(1)
    assert (before == truth).float().mean() < 0.9
    assert (after == truth).float().mean() > 0.95
    net.bilateral[0] = 0.0  # without the kernel that sees the image nothing moves back
    assert (net(image).argmax(1) == truth).float().mean() < 0.9


def test_the_field_is_searched_after_training_and_saved_with_the_network() -> None:
    net = build(
        "cnn-dense-crf", dims=2, in_channels=1, classes=2, size="tiny", weights=(0.0, 3.0), iterations=3
    ).eval()
    image = two_halves()
    truth = image[:, 0] > 0
    scores = blurred(torch.stack([~truth, truth], 1).float() - 0.5) + 0.3 * torch.randn(1, 2, 32, 32)
    net.unary = lambda x: torch.log_softmax(scores, 1)
    first = net(image).argmax(1)
    found = net.search_crf(image, truth.long(), rounds=1)
    assert found >= 0.95
    assert (net(image).argmax(1) == truth).float().mean() > (first == truth).float().mean()
    assert net.bilateral[0] >= 5.0
    assert "bilateral" in net.state_dict()


def test_training_leaves_the_field_out() -> None:
    net = build("cnn-dense-crf", dims=2, in_channels=1, classes=2, size="tiny")
    x = two_halves()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trained = torch.log_softmax(net.train()(x), 1)
    torch.testing.assert_close(trained, net.unary(x))
    assert not torch.allclose(trained, net.eval()(x))
