"""What holds for every loss of the table, in 2D and 3D, for exclusive classes and for regions."""

from dataclasses import replace

import pytest
import torch

from medseg.losses.table import LOSSES, build_loss

SHAPES = {2: (7, 9), 3: (5, 6, 4)}
names = pytest.mark.parametrize("name", LOSSES)
dims = pytest.mark.parametrize("dims", [2, 3])


def labels(dims, classes=3, seed=0):
    return torch.randint(0, classes, (2, *SHAPES[dims]), generator=torch.Generator().manual_seed(seed))


def one_hot(target, classes=3):
    return torch.nn.functional.one_hot(target, classes).movedim(-1, 1)


def logits_for(target, classes=3, certainty=6.0):
    return one_hot(target, classes) * certainty - certainty / 2


def noise(dims, channels=3, seed=1):
    return torch.randn((2, channels, *SHAPES[dims]), generator=torch.Generator().manual_seed(seed))


@names
@dims
@pytest.mark.parametrize("batch_dice", [False, True])
def test_right_beats_unsure_beats_wrong(name, dims, batch_dice):
    target = labels(dims)
    loss = build_loss(name, classes=3, batch_dice=batch_dice)
    right = loss(logits_for(target), target)
    unsure = loss(torch.zeros(2, 3, *SHAPES[dims]), target)
    wrong = loss(logits_for((target + 1) % 3), target)
    assert 0 <= right < unsure < wrong
    assert right < 0.15


@names
@dims
def test_right_beats_wrong_for_regions(name, dims):
    target = torch.rand((2, 2, *SHAPES[dims]), generator=torch.Generator().manual_seed(2)) < 0.4
    loss = build_loss(name, classes=2, regions=True)
    right, wrong = (loss(sign * (target * 8.0 - 4.0), target) for sign in (1, -1))
    assert 0 <= right < 0.15 < wrong


@names
@dims
@pytest.mark.parametrize("regions", [False, True])
def test_gradients_are_finite_and_point_downhill(name, dims, regions):
    target = one_hot(labels(dims)) if regions else labels(dims)
    logits = (noise(dims) * 30).requires_grad_(True)
    loss = build_loss(name, classes=3, regions=regions)
    loss(logits, target).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    start = noise(dims).requires_grad_(True)
    before = loss(start, target)
    before.backward()
    assert loss(start - 1e-2 * start.grad / start.grad.norm(), target) < before


@names
def test_focal_and_all_others_stay_finite_where_the_network_is_certain(name):
    target = labels(2)
    logits = logits_for(target, certainty=400.0).requires_grad_(True)
    build_loss(name, classes=3, **({"gamma": 0.5} if name == "focal" else {}))(logits, target).backward()
    assert logits.grad.isfinite().all()


@names
@dims
@pytest.mark.parametrize("regions", [False, True])
def test_what_is_ignored_changes_nothing(name, dims, regions):
    ignored = torch.rand((2, *SHAPES[dims]), generator=torch.Generator().manual_seed(4)) < 0.3
    target = labels(dims)
    if regions:
        marked = torch.cat([one_hot(target), ignored[:, None].long()], dim=1)
    else:
        marked = target.masked_fill(ignored, 7)
    loss = build_loss(name, classes=3, regions=regions, ignore=7)
    logits = noise(dims).requires_grad_(True)
    value = loss(logits, marked)
    value.backward()
    assert (logits.grad * ignored[:, None]).abs().max() == 0
    elsewhere = torch.where(ignored[:, None], noise(dims, seed=9) * 20, logits)
    assert loss(elsewhere, marked).item() == pytest.approx(value.item(), abs=1e-6)


@names
@pytest.mark.parametrize("regions", [False, True])
def test_a_batch_without_a_single_label_costs_nothing(name, regions):
    target = torch.ones(2, 4, *SHAPES[2]) if regions else torch.full((2, *SHAPES[2]), 255)
    logits = noise(2).requires_grad_(True)
    value = build_loss(name, classes=3, regions=regions, ignore=255)(logits, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() == pytest.approx(0, abs=1e-6)


@names
def test_an_empty_class_is_pushed_down(name):
    target = labels(2, classes=2)
    logits = torch.zeros(2, 3, *SHAPES[2], requires_grad=True)
    build_loss(name, classes=3)(logits, target).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 2].sum() > 0


@names
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_scored_in_float32(name, dtype):
    target = labels(3)
    logits = noise(3).to(dtype).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = build_loss(name, classes=3)(logits, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(build_loss(name, classes=3)(logits.float(), target).item(), abs=1e-6)
    value.backward()
    assert logits.grad.dtype == dtype


@names
@pytest.mark.parametrize("regions", [False, True])
def test_a_class_that_was_not_drawn_is_not_learnt_as_background(name, regions):
    """Sample 1 has no labels of class 2: saying class 2 there must be free of charge."""
    target = labels(2)
    target[1] = target[1].masked_fill(target[1] == 2, 0)
    known = torch.tensor([[True, True, True], [True, True, False]])
    logits = noise(2)
    says_two = logits.clone()
    if regions:
        target = one_hot(target)
        says_two[1, 2] += 5
    else:  # background's share moves to class 2 and the sum of both stays
        both = logits[1, [0, 2]].logsumexp(0)
        says_two[1, 0], says_two[1, 2] = both - 4.0, both + (1 - torch.tensor(-4.0).exp()).log()
    loss = build_loss(name, classes=3, regions=regions)
    assert loss(says_two, target, known).item() == pytest.approx(loss(logits, target, known).item(), abs=1e-6)
    assert abs(loss(says_two, target).item() - loss(logits, target).item()) > 1e-3


@names
def test_a_class_that_was_not_drawn_is_never_pushed_down_where_it_may_lie(name):
    """Background says "background or class 2": more of class 2 there may be free or welcome, never dear."""
    target = labels(3)
    target[1] = target[1].masked_fill(target[1] == 2, 0)
    known = torch.tensor([[True, True, True], [True, True, False]])
    for mask, pushed in ((known, False), (None, True)):
        logits = noise(3).requires_grad_(True)
        build_loss(name, classes=3)(logits, target, mask).backward()
        assert bool((logits.grad[1, 2][target[1] == 0] > 1e-7).any()) is pushed


@names
@dims
def test_a_region_that_was_not_drawn_has_no_gradient(name, dims):
    known = torch.tensor([[True, True, True], [True, False, True]])
    logits = noise(dims).requires_grad_(True)
    build_loss(name, classes=3, regions=True)(logits, one_hot(labels(dims)), known).backward()
    assert (logits.grad[1, 1] == 0).all()
    assert (logits.grad[0, 1] != 0).any()
    assert (logits.grad[1, 0] != 0).any()


@names
def test_without_a_background_channel_zero_is_a_class_like_the_others(name):
    """Class 1 of sample 1 was not drawn. What nobody labelled teaches nothing there; class 0 is not merged with it."""
    target = labels(2)
    target[1] = target[1].masked_fill(target[1] == 1, 255)
    known = torch.tensor([[True, True, True], [True, False, True]])
    loss = replace(build_loss(name, classes=3, ignore=255, include_background=True), background=False)
    logits = noise(2).requires_grad_(True)
    loss(logits, target, known).backward()
    assert (logits.grad[1][:, target[1] == 255] == 0).all()
    assert (logits.grad[1, 0][target[1] == 0] < 0).all(), "a voxel of class 0 asks for class 0 alone"
    swapped = logits.detach().clone()
    swapped[1, [0, 1]] = swapped[1, [1, 0]]
    assert loss(swapped, target, known).item() != pytest.approx(loss(logits, target, known).item(), abs=1e-4)
    assert replace(loss, background=True)(logits, target, known).item() != pytest.approx(
        loss(logits, target, known).item(), abs=1e-4
    )


@names
def test_full_knowledge_is_the_same_as_no_mask(name):
    target, logits = labels(3), noise(3)
    loss = build_loss(name, classes=3)
    known = torch.ones(2, 3, dtype=torch.bool)
    assert loss(logits, target, known).item() == pytest.approx(loss(logits, target).item(), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "dice_ce"])
def test_a_class_weight_of_zero_takes_a_region_out(name):
    target = one_hot(labels(2))
    logits = noise(2)
    other = logits.clone()
    other[:, 2] *= -3
    loss = build_loss(name, classes=3, regions=True, class_weights=[1, 1, 0])
    assert loss(other, target).item() == pytest.approx(loss(logits, target).item(), abs=1e-6)


@names
def test_class_weights_change_the_loss_of_exclusive_classes(name):
    target, logits = labels(2), noise(2)
    plain, heavy = (
        build_loss(name, classes=3, class_weights=w)(logits, target) for w in ([1, 1, 1], [1, 1, 5])
    )
    assert plain.item() != pytest.approx(heavy.item(), abs=1e-4)


def test_class_weights_of_dice_ce_act_on_its_cross_entropy_alone():
    target, logits = labels(2), noise(2)
    weights = [0.2, 1.0, 4.0]
    parts = build_loss("dice", classes=3), build_loss("ce", classes=3, class_weights=weights)
    both = build_loss("dice_ce", classes=3, class_weights=weights)
    assert both(logits, target).item() == pytest.approx(
        sum(p(logits, target).item() for p in parts), abs=1e-6
    )


@names
def test_background_counts_only_when_asked(name):
    target, logits = labels(2), noise(2)
    with_it, without = (
        build_loss(name, classes=3, include_background=b)(logits, target) for b in (True, False)
    )
    if LOSSES[name].overlap:
        assert with_it.item() != pytest.approx(without.item(), abs=1e-5)
    else:
        assert with_it.item() == without.item()


@names
def test_ignored_voxels_of_regions_may_stand_in_the_channels_themselves(name):
    """255 in every channel means the same as an extra channel; 255 in one channel leaves the others in force."""
    ignored = torch.rand((2, *SHAPES[2]), generator=torch.Generator().manual_seed(4)) < 0.3
    target = one_hot(labels(2))
    loss = build_loss(name, classes=3, regions=True, ignore=255)
    extra = torch.cat([target, ignored[:, None].long()], dim=1)
    inside = target.masked_fill(ignored[:, None], 255).to(torch.uint8)
    assert loss(noise(2), inside).item() == pytest.approx(loss(noise(2), extra).item(), abs=1e-6)
    only_first = target.clone()
    only_first[:, 0][ignored] = 255
    logits = noise(2).requires_grad_(True)
    loss(logits, only_first).backward()
    assert (logits.grad[:, 0] * ignored).abs().max() == 0
    assert (logits.grad[:, 1] * ignored).abs().max() > 0
