"""Cases in which a class was not drawn teach nothing against that class, whichever loss a network learns by."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.config import System, Train
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system
from medseg.train.objective import Objective, step_loss
from medseg.train.undrawn import hide_undrawn, partly_labelled, require_fixed_sides, require_honoured
from medseg.zoo.catalog import cards

N = 32
BY_FORWARD = (
    "dfn", "enc-net", "ex-fuse", "gated-scnn", "ipc", "lrr", "adobe-portrait-net", "cnn-encoder-3d",
    "fcn-skin-jaccard", "hmsa",
)  # fmt: skip
BY_PARTS = ("zoom-out", "lenet-patch")
REFUSED = ("mask2former",)


def classes(*names: str) -> list[dict]:
    return [ClassInfo(name, i + 1, (1, 2, 3)).as_json() for i, name in enumerate(names)]


@pytest.fixture
def two(plan: Callable) -> Callable:
    """A plan with liver and spleen, of which spleen is the one that is sometimes not drawn."""

    def make(dims: int = 2, **changes):
        size = {"patch_size": [N] * dims, "batch_size": 2, "dims": dims}
        return plan(**{"classes": classes("liver", "spleen"), "out_channels": 3, **size, **changes})

    return make


def labels(dims: int) -> torch.Tensor:
    """Two samples with a liver; the spleen of the second was not drawn."""
    target = torch.zeros(2, *(N,) * dims, dtype=torch.uint8)
    target[:, : N // 2, : N // 2] = 1
    target[0, N // 2 :, N // 2 :] = 2
    return target


KNOWN = torch.tensor([[True, True, True], [True, True, False]])


def gradient_on_spleen(
    name: str, plan, known: torch.Tensor | None, given: torch.Tensor | None = None, channel: int = 2
) -> torch.Tensor:
    """The gradient on the spleen's logits in the second sample, wherever nothing was drawn."""
    torch.manual_seed(0)
    net = build_system(System(name=name, size="tiny"), plan).train()
    net.mark_forward_method = lambda _: None
    seen: dict[str, torch.Tensor] = {}

    def keep(module, given, outputs):
        if getattr(outputs, "main", outputs).requires_grad and len(seen) == 0:
            seen["main"] = getattr(outputs, "main", outputs)
            seen["main"].retain_grad()

    net.register_forward_hook(keep)
    images = torch.randn(2, plan.in_channels, *plan.patch_size, generator=torch.Generator().manual_seed(1))
    target = labels(plan.dims) if given is None else given
    torch.manual_seed(3)
    step_loss(net, net, Objective(Train(), plan), plan.patch_size)(images, target, known).backward()
    return seen["main"].grad[1, channel][labels(plan.dims)[1] == 0]


def test_every_network_with_a_loss_of_its_own_is_looked_at() -> None:
    """By its source: whoever adds such a network says here how it honours undrawn classes."""
    from pathlib import Path

    import medseg.zoo

    place = Path(medseg.zoo.__file__).parent
    files = {
        ".".join(("medseg.zoo", *path.relative_to(place).with_suffix("").parts))
        for path in place.rglob("*.py")
        if re.search(r"^    def (training_step|loss)\(", path.read_text(), re.MULTILINE)
    }
    found = {card.name for card in cards() if card.at.partition(":")[0] in files}
    assert found == {*BY_FORWARD, *BY_PARTS, *REFUSED, "fcn-cascade-aniso"}


@pytest.mark.parametrize("name", BY_FORWARD)
def test_an_undrawn_class_is_never_pushed_down(two: Callable, name: str) -> None:
    naive = gradient_on_spleen(name, two(), None)
    assert naive.max() > 0, "without the mask the network learns that there is no spleen"
    assert gradient_on_spleen(name, two(), KNOWN).max() <= 0.01 * naive.max()


@pytest.mark.parametrize("name", ["cnn-encoder-3d", "fcn-skin-jaccard", "gated-scnn"])
def test_an_undrawn_region_has_no_gradient_at_all(two: Callable, name: str) -> None:
    regions = two(overlapping=True, out_channels=2)
    given = torch.stack([labels(2) == 1, labels(2) == 2], dim=1).to(torch.uint8)
    naive = gradient_on_spleen(name, regions, None, given, 1)
    assert naive.abs().max() > 0
    assert gradient_on_spleen(name, regions, KNOWN[:, 1:], given, 1).abs().max() == 0


@pytest.mark.parametrize("name", BY_PARTS)
def test_places_where_an_undrawn_class_may_lie_are_left_out(two: Callable, name: str) -> None:
    """These learn from pieces, not from one map of logits: what may be spleen counts as little as what is ignored."""
    found = []
    for known, ignored in ((KNOWN, False), (None, True), (None, False)):
        plan = two(ignore=9)
        torch.manual_seed(0)
        net = build_system(System(name=name, size="tiny"), plan).train()
        net.mark_forward_method = lambda _: None
        target = labels(2)
        if ignored:
            target[1][target[1] == 0] = 255
        images = torch.randn(2, 1, N, N, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(3)
        found.append(
            float(
                step_loss(net, net, Objective(Train(loss="ce"), plan), plan.patch_size)(images, target, known)
            )
        )
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert found[0] != pytest.approx(found[2], abs=1e-4)


def test_what_an_image_shows_is_not_asked_of_undrawn_classes() -> None:
    from medseg.zoo.layers.presence import presence_loss

    logits = torch.zeros(2, 3, requires_grad=True)
    presence_loss(logits, labels(2), 2, KNOWN).backward()
    assert logits.grad[1, 2] == 0
    assert (logits.grad[0] != 0).all()


def test_a_mean_mask_is_made_of_fully_drawn_images_alone(two: Callable) -> None:
    net = build_system(System(name="adobe-portrait-net", size="tiny"), two())
    net.train()
    images = torch.zeros(2, 1, N, N)
    net.training_step(images, labels(2), Objective(Train(), two()), known=KNOWN)
    assert net.seen == 1
    net.training_step(images[1:], labels(2)[1:], Objective(Train(), two()), known=KNOWN[1:])
    assert net.seen == 1
    assert net.mean_mask.isfinite().all()


def test_hidden_targets_say_255_wherever_an_undrawn_class_may_lie(two: Callable) -> None:
    hidden = hide_undrawn(labels(2), KNOWN, Objective(Train(), two()))
    assert torch.equal(hidden[0], labels(2)[0])
    assert (hidden[1][labels(2)[1] == 0] == 255).all()
    assert (hidden[1][labels(2)[1] == 1] == 1).all()
    bare = two(background=False, out_channels=2)
    sky = torch.zeros(2, 4, 4, dtype=torch.uint8)
    assert torch.equal(hide_undrawn(sky, KNOWN[:, 1:], Objective(Train(), bare)), sky)
    regions = two(overlapping=True, out_channels=2)
    both = torch.zeros(2, 2, 4, 4, dtype=torch.uint8)
    assert (hide_undrawn(both, KNOWN[:, 1:], Objective(Train(), regions)) == 255).sum() == 16


def test_a_network_that_cannot_honour_undrawn_classes_refuses_such_cases(
    two: Callable, job: Callable, ball: Callable
) -> None:
    cases = {f"t{i}": ball(i, dims=2) for i in range(4)}
    cases["t2"].known = ("liver",)
    given = replace(job(plan=two(), train=cases), system=System(name="mask2former", size="tiny"))
    net = build_system(given.system, given.plan)
    assert partly_labelled(given) == ["t2"]
    with pytest.raises(
        UserError, match=r"mask2former learns by a loss of its own.*1 of 4.*spleen is not drawn in case t2"
    ):
        require_honoured(net, given)
    cases["t2"].known = ("liver", "spleen")
    require_honoured(net, given)
    assert partly_labelled(given) == []


def test_exchanged_sides_and_undrawn_classes_do_not_go_together(
    two: Callable, job: Callable, ball: Callable
) -> None:
    cases = {f"t{i}": ball(i, dims=2) for i in range(2)}
    given = job(plan=two(), train=cases)
    require_fixed_sides({"swap_sides": {}}, given)
    cases["t1"].known = ("liver",)
    require_fixed_sides("default", given)
    with pytest.raises(UserError, match=r"swap_sides exchanges left and right, but 1 of 2.*the first is t1"):
        require_fixed_sides({"swap_sides": {}}, given)


def test_half_the_cases_without_a_class_do_not_push_it_down(
    two: Callable, job: Callable, ball: Callable
) -> None:
    """Two kinds of balls; in half of the cases the second was not drawn. With the mask it is found, without it is not."""
    from medseg.train.loop import train

    torch.manual_seed(0)
    dice = {}
    for masked in (True, False):
        cases = {f"t{i}": shapes(type(ball(0)), i, drawn=i % 4 == 0, masked=masked) for i in range(8)}
        val = {f"v{i}": shapes(type(ball(0)), 100 + i, drawn=True, masked=masked) for i in range(3)}
        given = job(f"masked-{masked}", plan=two(), train=cases, val=val, steps=80, batch_size=2)
        torch.manual_seed(5)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1)
        )
        dice[masked] = train(net, given).scores["per_class"]["spleen"]["dice"]
    assert dice[True] > 0.7
    assert dice[True] > dice[False] + 0.1


def shapes(kind: type, seed: int, drawn: bool, masked: bool):
    """A bright liver and a dark spleen on grey; the spleen is labelled only where it was drawn."""
    rng = np.random.default_rng(seed)
    target = np.zeros((40, 40), np.uint8)
    for value, low in ((1, 2), (2, 22)):
        x, y = rng.integers(low, low + 6), rng.integers(4, 24)
        target[x : x + 10, y : y + 10] = value
    image = np.choose(target, [0.0, 1.0, -1.0]) + rng.normal(0, 0.45, target.shape)
    seen = np.where(target == 2, 0, target).astype(np.uint8) if not drawn else target
    return kind(image[None].astype(np.float16), seen, ("liver",) if masked and not drawn else None)
