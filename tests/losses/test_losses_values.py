"""Hand-worked values, the relations between losses, deep supervision, and every wrong input on its message."""

from types import SimpleNamespace

import pytest
import torch

from medseg.core.errors import UserError
from medseg.losses.supervision import deep_supervision, halving_weights, nearest_labels
from medseg.losses.table import LOSSES, build_from_settings, build_loss, find_loss

LOGITS = torch.randn((2, 3, 6, 5), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(0, 3, (2, 6, 5), generator=torch.Generator().manual_seed(1))


def one_row(foreground_probability, target):
    """A 1 x 4 image with one region: logits of the given probabilities, and its mask."""
    p = torch.tensor(foreground_probability)
    return torch.logit(p)[None, None, None], torch.tensor(target)[None, None, None]


def test_overlap_losses_equal_values_worked_by_hand():
    """p = .8 .6 .2 .4, g = 1 1 0 0: I = 1.4, P = 2, G = 2, sum p**2 = 1.2."""
    logits, target = one_row([0.8, 0.6, 0.2, 0.4], [1, 1, 0, 0])
    expected = {
        ("dice", ()): 1 - 2.8 / 4,
        ("dice", (("squared", True),)): 1 - 2.8 / 3.2,
        ("jaccard", ()): 1 - 1.4 / 2.6,
        ("tversky", ()): 1 - 1.4 / (1.4 + 0.3 * 0.6 + 0.7 * 0.6),
        ("generalised_dice", ()): 1 - 2.8 / 4,
    }
    for (name, arguments), value in expected.items():
        loss = build_loss(name, classes=1, regions=True, **dict(arguments))
        assert loss(logits, target).item() == pytest.approx(value, abs=1e-5), name


def test_entropy_losses_equal_values_worked_by_hand():
    logits, target = one_row([0.5, 0.25], [1, 0])
    log = torch.log
    ce = -(log(torch.tensor(0.5)) + log(torch.tensor(0.75))) / 2
    focal = -(0.5**2 * log(torch.tensor(0.5)) + 0.25**2 * log(torch.tensor(0.75))) / 2
    assert build_loss("ce", classes=1, regions=True)(logits, target).item() == pytest.approx(
        ce.item(), abs=1e-6
    )
    assert build_loss("focal", classes=1, regions=True)(logits, target).item() == pytest.approx(
        focal.item(), abs=1e-6
    )


def test_generalised_dice_weighs_a_class_by_its_squared_volume():
    """Two regions of 3 and 1 voxels: weights 1/9 and 1. Region 0 is right, region 1 missed."""
    target = torch.tensor([[[1, 1, 1, 0], [0, 0, 0, 1]]])[:, :, None]
    logits = torch.tensor([[[40.0, 40, 40, -40], [-40, -40, -40, -40]]])[:, :, None]
    expected = 1 - 2 * (3 / 9) / (6 / 9 + 1)
    value = build_loss("generalised_dice", classes=2, regions=True)(logits, target)
    assert value.item() == pytest.approx(expected, abs=1e-5)


def test_known_relations_between_losses_hold():
    def value(name, **arguments):
        return build_loss(name, classes=3, **arguments)(LOGITS, TARGET).item()

    assert value("tversky", alpha=0.5, beta=0.5, smooth=0.0) == pytest.approx(
        value("dice", smooth=0.0), abs=1e-6
    )
    assert value("tversky", alpha=1.0, beta=1.0) == pytest.approx(value("jaccard"), abs=1e-6)
    assert value("focal", gamma=0.0) == pytest.approx(value("ce"), abs=1e-6)
    assert value("dice_ce") == pytest.approx(value("dice") + value("ce"), abs=1e-6)
    assert value("dice_ce", dice_weight=0.0, ce_weight=2.0) == pytest.approx(2 * value("ce"), abs=1e-6)


def test_a_missed_voxel_is_dearer_than_an_invented_one_for_tversky():
    target = torch.tensor([[[[1, 1, 1, 0, 0, 0]]]])
    missed = torch.tensor([[[[9.0, 9, -9, -9, -9, -9]]]])
    invented = torch.tensor([[[[9.0, 9, 9, 9, -9, -9]]]])
    loss = build_loss("tversky", classes=1, regions=True)
    assert loss(missed, target) > loss(invented, target)


def test_class_weights_are_torchs_own_for_cross_entropy():
    weights = [0.2, 1.0, 3.0]
    reference = torch.nn.functional.cross_entropy(LOGITS, TARGET, weight=torch.tensor(weights))
    value = build_loss("ce", classes=3, class_weights=weights)(LOGITS, TARGET)
    assert value.item() == pytest.approx(reference.item(), abs=1e-6)


def test_batch_dice_sums_over_samples_first():
    """One sample with the class and one without: alone the empty one scores 1, together it only adds to P."""
    logits = torch.full((2, 1, 1, 4), -2.0)
    target = torch.tensor([[[[1, 1, 0, 0]]], [[[0, 0, 0, 0]]]])
    p = torch.sigmoid(torch.tensor(-2.0)).item()
    together = build_loss("dice", classes=1, regions=True, batch_dice=True)(logits, target)
    alone = build_loss("dice", classes=1, regions=True, batch_dice=False)(logits, target)
    assert together.item() == pytest.approx(1 - 4 * p / (8 * p + 2), abs=1e-4)
    assert alone.item() == pytest.approx(1 - (4 * p / (4 * p + 2) + 0) / 2, abs=1e-4)


def test_a_label_axis_of_length_one_is_accepted():
    loss = build_loss("dice_ce", classes=3)
    assert loss(LOGITS, TARGET[:, None]).item() == loss(LOGITS, TARGET).item()


# --- deep supervision ---------------------------------------------------------------------------------------------


def test_deep_supervision_passes_a_plain_tensor_through():
    loss = build_loss("dice_ce", classes=3)
    assert deep_supervision(loss)(LOGITS, TARGET).item() == loss(LOGITS, TARGET).item()


def test_deep_supervision_weighs_its_outputs_as_told():
    loss = build_loss("ce", classes=3)
    coarse = LOGITS[:, :, ::2, ::2]
    outputs = SimpleNamespace(main=LOGITS, auxiliary=(coarse,))
    parts = loss(LOGITS, TARGET).item(), loss(coarse, nearest_labels(TARGET, coarse.shape[2:])).item()
    assert deep_supervision(loss)(outputs, TARGET).item() == pytest.approx(parts[0], abs=1e-6)
    halved = deep_supervision(loss, drop_lowest=False)(outputs, TARGET).item()
    assert halved == pytest.approx((2 * parts[0] + parts[1]) / 3, abs=1e-6)
    assert deep_supervision(loss, [1, 3])(outputs, TARGET).item() == pytest.approx(
        (parts[0] + 3 * parts[1]) / 4, abs=1e-6
    )


def test_one_output_has_weight_one_although_the_lowest_is_dropped():
    assert halving_weights(1) == (1.0,)
    assert halving_weights(2) == (1.0, 0.0)
    outputs = SimpleNamespace(main=LOGITS, auxiliary=())
    loss = build_loss("ce", classes=3)
    assert deep_supervision(loss)(outputs, TARGET).item() == pytest.approx(
        loss(LOGITS, TARGET).item(), abs=1e-6
    )


def test_deep_supervision_brings_region_masks_and_ignored_voxels_down_too():
    target = torch.rand((2, 4, 6, 5), generator=torch.Generator().manual_seed(5)) < 0.4
    loss = build_loss("dice_ce", classes=3, regions=True, ignore=9)
    outputs = SimpleNamespace(main=LOGITS, auxiliary=(LOGITS[:, :, ::2, ::2],))
    assert deep_supervision(loss, [1, 1])(outputs, target).isfinite()


def test_deep_supervision_with_the_wrong_number_of_weights_says_so():
    outputs = SimpleNamespace(main=LOGITS, auxiliary=(LOGITS,))
    with pytest.raises(UserError, match=r"weights \[1.0\] for 2 outputs"):
        deep_supervision(build_loss("ce", classes=3), [1])(outputs, TARGET)


# --- wrong input --------------------------------------------------------------------------------------------------


def test_a_misspelt_loss_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="no loss named 'dise_ce', did you mean dice_ce") as caught:
        build_loss("dise_ce", classes=3)
    assert "tversky" in caught.value.hint


@pytest.mark.parametrize(
    ("alias", "name"), [("IoU", "jaccard"), ("generalized-dice", "generalised_dice"), ("cross entropy", "ce")]
)
def test_other_spellings_of_a_loss_are_understood(alias, name):
    assert find_loss(alias).name == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gama": 1.0}, "loss focal takes no 'gama', did you mean gamma"),
        ({"gamma": "high"}, "loss focal: gamma is 'high'"),
        ({"gamma": -1.0}, "loss focal: gamma is -1.0"),
        ({"class_weights": [1, 2]}, "2 class weights for 3 classes"),
        ({"class_weights": [0, 0, 0]}, "class weights"),
        ({"class_weights": [1, 1, float("nan")]}, "class weights"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        build_loss("focal", classes=3, **arguments)


def test_one_exclusive_class_is_refused():
    with pytest.raises(UserError, match="1 class for exclusive classes"):
        build_loss("dice", classes=1)


@pytest.mark.parametrize("value", [3, -1])
def test_a_label_value_without_a_class_is_named(value):
    target = TARGET.clone()
    target[0, 0, 0] = value
    with pytest.raises(UserError, match=f"label value {value} is none of the 3 classes 0 to 2"):
        build_loss("dice", classes=3)(LOGITS, target)


def test_a_value_that_no_region_mask_has_is_named():
    target = torch.zeros(2, 3, 6, 5, dtype=torch.uint8)
    target[0, 1, 2, 2] = 255
    with pytest.raises(UserError, match=r"region masks hold the value 255 \(ignore label: None\)"):
        build_loss("dice", classes=3, regions=True)(LOGITS, target)


def test_shapes_that_do_not_fit_are_shown():
    loss = build_loss("dice", classes=3)
    with pytest.raises(
        UserError, match=r"labels of shape \(2, 5, 5\) do not fit logits of shape \(2, 3, 6, 5\)"
    ):
        loss(LOGITS, TARGET[:, 1:])
    with pytest.raises(UserError, match=r"logits of shape \(2, 2, 6, 5\) for 3 classes"):
        loss(LOGITS[:, :2], TARGET)
    with pytest.raises(UserError, match=r"the table of labelled classes has shape \(1, 3\)"):
        loss(LOGITS, TARGET, torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(UserError, match=r"region masks of shape \(2, 6, 5\) do not fit"):
        build_loss("dice", classes=3, regions=True)(LOGITS, TARGET)


def test_a_loss_is_built_from_what_a_pipeline_file_holds():
    assert build_from_settings("dice_ce", classes=3).name == "dice_ce"
    loss = build_from_settings({"name": "tversky", "alpha": 0.5, "beta": 0.5}, classes=3)
    assert loss(LOGITS, TARGET).item() == pytest.approx(
        build_loss("dice", classes=3)(LOGITS, TARGET).item(), abs=1e-4
    )
    with pytest.raises(UserError, match="a loss without a name"):
        build_from_settings({"alpha": 0.5}, classes=3)


def test_the_pipeline_file_says_whether_background_and_the_whole_batch_count():
    shared = {"classes": 3, "include_background": False, "ignore": None}
    for choice in ({"include_background": True}, {"batch_dice": False}):
        loss = build_from_settings({"name": "dice", **choice}, **shared)
        wanted = build_loss("dice", classes=3, **choice)(LOGITS, TARGET).item()
        assert loss(LOGITS, TARGET).item() == wanted
        assert wanted != build_loss("dice", classes=3)(LOGITS, TARGET).item()


def test_a_class_in_the_first_channel_counts_whatever_the_pipeline_file_says_of_background():
    loss = build_from_settings(
        {"name": "dice", "include_background": False}, classes=3, include_background=True
    )
    wanted = build_loss("dice", classes=3, include_background=True)(LOGITS, TARGET)
    assert loss(LOGITS, TARGET).item() == wanted.item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "dice", "classes": 5}, "loss dice takes no 'classes'"),
        ({"name": "dice", "ignore": 5}, "loss dice takes no 'ignore'"),
        ({"name": "dice", "batch_dice": "yes"}, "loss dice: batch_dice is 'yes'"),
        ({"name": "dice_ce", "include_background": 1}, "loss dice_ce: include_background is 1"),
        ({"name": "ce", "batch_dice": False}, "loss ce takes no 'batch_dice'"),
    ],
)
def test_what_a_pipeline_file_cannot_say_of_a_loss_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build_from_settings(settings, classes=3, include_background=False, ignore=None)


def test_every_row_names_its_formula_its_reference_and_its_arguments():
    for row in LOSSES.values():
        assert row.formula
        assert any(mark in row.reference for mark in ("arXiv:", "doi:", "section"))
        assert all(meaning for _, meaning in row.arguments.values())
        build_loss(row.name, classes=3, **{name: default for name, (default, _) in row.arguments.items()})


def test_listing_losses_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, medseg.losses.table; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
