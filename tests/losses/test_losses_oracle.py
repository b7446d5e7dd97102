"""nnU-Net's own losses on small inputs: values to 1e-6, gradients to 1e-7.

tests/oracles/losses.npz and .json hold outputs of nnunetv2 2.8.1 with torch 2.13 on the CPU. nnU-Net's Dice is
- Dice, medseg's 1 - Dice: its values lie 1 lower, its gradients are the same.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medseg.losses.supervision import deep_supervision, halving_weights, nearest_labels
from medseg.losses.table import build_loss

ORACLES = Path(__file__).parents[1] / "oracles"
TABLE = np.load(ORACLES / "losses.npz")
ROWS = json.loads((ORACLES / "losses.json").read_text())
CLASS_ROWS = [row for row in ROWS if "ce" in row]
REGION_ROWS = [row for row in ROWS if row.get("regions")]


def tensors(case):
    logits = torch.from_numpy(TABLE[f"{case}_logits"].copy()).requires_grad_(True)
    return logits, torch.from_numpy(TABLE[f"{case}_target"].astype(np.int64))


def loss_of(row, name, classes, **arguments):
    return build_loss(
        name,
        classes=classes,
        ignore=row.get("ignore_label"),
        include_background=row["do_bg"],
        batch_dice=row["batch_dice"],
        **arguments,
    )


@pytest.mark.parametrize("row", CLASS_ROWS, ids=lambda row: f"case{row['case']}")
@pytest.mark.parametrize(
    ("name", "key", "offset"), [("dice", "dice", 1), ("dice_ce", "dice_plus_ce", 1), ("ce", "ce", 0)]
)
def test_exclusive_classes_equal_nnunet(row, name, key, offset):
    logits, target = tensors(row["case"])
    value = loss_of(row, name, logits.shape[1])(logits, target)
    assert value.item() - offset == pytest.approx(row[key], abs=1e-6)
    if name != "ce":
        value.backward()
        np.testing.assert_allclose(logits.grad.numpy(), TABLE[f"{row['case']}_grad_{key}"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("row", REGION_ROWS, ids=lambda row: f"case{row['case']}")
def test_regions_equal_nnunet(row):
    logits, target = tensors(row["case"])
    ignored = row["use_ignore_channel"]
    loss = build_loss(
        "dice_ce",
        classes=3,
        regions=True,
        ignore=4 if ignored else None,
        batch_dice=row["batch_dice"],
        sum_regions=ignored,
    )
    value = loss(logits, target)
    value.backward()
    assert value.item() - 1 == pytest.approx(row["dice_plus_bce"], abs=1e-6)
    np.testing.assert_allclose(
        logits.grad.numpy(), TABLE[f"{row['case']}_grad_dice_plus_bce"], rtol=0, atol=1e-7
    )


def test_deep_supervision_equals_nnunet():
    row = next(row for row in ROWS if row["case"] == "ds")
    loss = build_loss("dice_ce", classes=3, batch_dice=False)
    heads = [torch.from_numpy(TABLE[f"ds_logits{k}"]) for k in range(3)]
    targets = [torch.from_numpy(TABLE[f"ds_target{k}"].astype(np.int64)) for k in range(3)]
    assert halving_weights(3) == pytest.approx(row["weights"], rel=1e-12)
    by_hand = sum(
        w * (loss(x, y).item() - 1) for w, x, y in zip(halving_weights(3), heads, targets, strict=True)
    )
    assert by_hand == pytest.approx(row["loss"], abs=1e-6)

    outputs = SimpleNamespace(main=heads[0], auxiliary=tuple(heads[1:]))
    coarser = [nearest_labels(targets[0], head.shape[2:]) for head in heads]
    expected = sum(w * loss(x, y).item() for w, x, y in zip(halving_weights(3), heads, coarser, strict=True))
    assert deep_supervision(loss)(outputs, targets[0]).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(5, 3), (4, 7), (9, 2), (8, 6)])
def test_labels_are_brought_down_as_torch_does_by_nearest_exact(size):
    labels = torch.randint(0, 5, (2, 9, 7), generator=torch.Generator().manual_seed(3))
    reference = torch.nn.functional.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[
        :, 0
    ]
    assert torch.equal(nearest_labels(labels, size), reference.long())
