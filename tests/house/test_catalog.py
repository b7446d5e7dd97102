"""The contracts that every row of the catalog keeps, in each of its dims."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from medseg.config import IntensityPlan, Plan, Train
from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.core.segmentation import ClassInfo
from medseg.plan.cost import network_cost
from medseg.train.objective import Objective, step_loss
from medseg.zoo.build import arguments_of, build, parameter_count
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG, names_of
from medseg.zoo.docs import story_of
from medseg.zoo.outputs import Outputs, main_of

CHANNELS, CLASSES = 2, 3
NETWORKS = [(card, dims) for card in CATALOG if card.kind == "network" for dims in card.dims]
CLASSICAL = [(card, dims) for card in CATALOG if card.kind == "classical" for dims in card.dims]
ids = functools.partial(pytest.mark.parametrize, ids=lambda v: v.name if isinstance(v, Card) else f"{v}D")
every_network = ids(("card", "dims"), NETWORKS)
every_method = ids(("card", "dims"), CLASSICAL)


@functools.cache
def tiny(card: Card, dims: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(card.name, dims=dims, in_channels=CHANNELS, classes=CLASSES, size="tiny")


def image(net: torch.nn.Module, dims: int, batch: int = 2) -> Tensor:
    """A batch in the smallest size worth looking at."""
    side = 32 if dims == 2 else 16
    torch.manual_seed(1)
    least = getattr(net, "minimum", net.divisor)
    return torch.randn(batch, CHANNELS, *(max(side, d, m) for d, m in zip(net.divisor, least, strict=True)))


def waived(card: Card, contract: str) -> None:
    if contract in card.waived:
        pytest.skip(card.waived[contract])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_names_and_aliases_are_given_once() -> None:
    names = [name for card in CATALOG for name in names_of(card)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("card", CATALOG, ids=lambda c: c.name)
def test_a_row_is_complete(card: Card) -> None:
    assert {"tiny", "paper"} <= set(card.sizes)
    assert set(card.dims) <= {2, 3}
    assert card.paper.startswith(("arXiv:", "doi:", "ISBN:", "url:"))
    assert 1950 < card.year < 2100
    assert card.name == card.name.lower()
    assert " " not in card.name


@pytest.mark.parametrize("card", CATALOG, ids=lambda c: c.name)
def test_the_file_names_its_paper_its_differences_and_its_oracle(card: Card) -> None:
    story = story_of(card)
    assert card.paper in story.citation.replace("http://doi.org/", "doi:"), (
        "the citation lacks the paper's id"
    )
    assert len(story.idea) > 80
    assert story.differs
    assert story.oracle


@pytest.mark.parametrize("card", CATALOG, ids=lambda c: c.name)
def test_sizes_name_arguments_that_exist(card: Card) -> None:
    known = {name for name, _ in arguments_of(card)}
    for size, arguments in card.sizes.items():
        assert set(arguments) <= known, f"size {size}"


@every_network
def test_the_published_size_builds(card: Card, dims: int) -> None:
    assert parameter_count(card, "paper", dims=dims) > 0


@pytest.mark.parametrize("card", [c for c in CATALOG if c.params], ids=lambda c: c.name)
def test_the_published_count_holds(card: Card) -> None:
    waived(card, "published_count")
    assert card.params_source
    assert parameter_count(card, "paper", **card.params_form) == pytest.approx(card.params, rel=0.01)


@every_network
def test_logits_cover_an_odd_sized_image_after_padding(card: Card, dims: int) -> None:
    net = tiny(card, dims).eval()
    assert len(net.divisor) == dims
    x = image(net, dims, batch=1)
    odd = x[(..., *(slice(0, n - 3 + i) for i, n in enumerate(x.shape[2:])))]
    margins = [(-n) % d for n, d in zip(odd.shape[2:], net.divisor, strict=True)]
    padded = torch.nn.functional.pad(odd, [m for margin in reversed(margins) for m in (0, margin)])
    with torch.no_grad():
        logits = net(padded)
    assert isinstance(logits, Tensor), "in eval mode a network returns its logits alone"
    assert logits.shape == (1, CLASSES, *padded.shape[2:])


@every_network
def test_finite_gradients_reach_every_parameter(card: Card, dims: int) -> None:
    net = tiny(card, dims).train()
    net.zero_grad()
    outputs = net(image(net, dims))
    loss = main_of(outputs).square().mean()
    if isinstance(outputs, Outputs):
        assert len(outputs.auxiliary) == len(outputs.auxiliary_weights)
        assert all(a.shape[:2] == outputs.main.shape[:2] for a in outputs.auxiliary)
        loss = loss + sum(a.square().mean() for a in outputs.auxiliary)
        extras = outputs.extras.values()
        loss = loss + sum(e.square().mean() for e in extras if isinstance(e, Tensor) and e.requires_grad)
    loss.backward()
    frozen = tuple(card.waived.get("frozen", "").split())
    dead = [n for n, p in net.named_parameters() if p.grad is None and not n.startswith(frozen or ("\0",))]
    wild = [n for n, p in net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    net.zero_grad(set_to_none=True)
    assert dead == []
    assert wild == []


@every_network
def test_a_plan_counts_its_cost(card: Card, dims: int) -> None:
    cost = network_cost(card.name, "tiny", "{}", dims, CHANNELS, CLASSES)
    assert cost.flops > 0
    assert cost.parameters > 0


@every_network
def test_a_step_of_the_training_loop_is_taken(card: Card, dims: int) -> None:
    net = tiny(card, dims).train()
    net.mark_forward_method = lambda name: None  # as the wrapper of devices has it
    images = image(net, dims)
    targets = torch.randint(0, CLASSES, (len(images), *images.shape[2:]), dtype=torch.uint8)
    loss = step_loss(net, net, Objective(Train(), _plan(dims)), tuple(images.shape[2:]))
    value = loss(images, targets, None)
    value.backward()
    net.zero_grad(set_to_none=True)
    assert torch.isfinite(value)


def _plan(dims: int) -> Plan:
    return Plan(
        dims=dims, in_channels=CHANNELS, out_channels=CLASSES, patch_size=[16] * dims, batch_size=2,
        classes=[ClassInfo(f"c{n}", n, (200, 30, 30)).as_json() for n in range(1, CLASSES)],
        intensity=[IntensityPlan(scheme="none")] * CHANNELS, foreground_fraction={"c1": 0.1, "c2": 0.1},
    )  # fmt: skip


@every_network
def test_eval_is_deterministic_and_sees_one_image_at_a_time(card: Card, dims: int) -> None:
    net = tiny(card, dims).eval()
    x = image(net, dims)
    with torch.no_grad():
        both, again, alone = net(x), net(x), net(x[1:])
    assert torch.equal(both, again)
    # One image is rounded otherwise than two: where two values tie, max pooling may then remember the other's place.
    alike = torch.isclose(both[1:], alone, rtol=1e-3, atol=1e-4).float().mean()
    assert alike > 0.99


@every_network
def test_weights_survive_a_file(card: Card, dims: int) -> None:
    from safetensors.torch import load, save

    net = tiny(card, dims).eval()
    other = build(card.name, dims=dims, in_channels=CHANNELS, classes=CLASSES, size="tiny").eval()
    other.load_state_dict(load(save({k: v.contiguous() for k, v in net.state_dict().items()})))
    x = image(net, dims, batch=1)
    with torch.no_grad():
        assert torch.equal(net(x), other(x))


@every_network
def test_bf16_gives_finite_logits(card: Card, dims: int) -> None:
    net = tiny(card, dims).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(image(net, dims, batch=1))
    assert logits.float().isfinite().all()


@every_method
@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(lambda s: np.full((1, *s), -1000.0), id="constant"),
        pytest.param(lambda s: np.full((1, *(1 for _ in s)), -900.0), id="one pixel"),
        pytest.param(lambda s: np.full((1, *s), np.nan), id="NaN"),
        pytest.param(lambda s: np.random.default_rng(0).normal(-500, 400, (3, *s)), id="colour"),
        pytest.param(lambda s: np.zeros((1, *s, 4, 4)), id="more axes"),
        pytest.param(lambda s: np.zeros((1, *s[:-1], 0)), id="no voxels"),
        pytest.param(lambda s: np.zeros((1, *s), dtype=complex), id="complex"),
    ],
)
def test_odd_images_give_labels_or_a_clear_error(card: Card, dims: int, pixels: object) -> None:
    array = pixels((12,) * dims)  # type: ignore[operator]
    method = build(card.name, dims=dims, in_channels=array.shape[0], classes=2)
    try:
        labels = method.segment(array, (1.0,) * dims, Prompt())
    except UserError as err:
        if f"system {card.name}" not in str(err):
            raise
    else:
        assert labels.shape == array.shape[1:]
        assert labels.dtype == np.uint8
        assert set(np.unique(labels)) <= {0, *method.classes}
