"""How weights lie in memory: decided by the network alone, so that a resumed training computes the same bits."""

from __future__ import annotations

import pytest
import torch

from medseg.train.devices import Precision, lay_out
from medseg.zoo.build import build


@pytest.mark.parametrize(
    ("first", "device", "number", "expected"),
    [
        (8, "cpu", "bf16", True),
        (32, "cpu", "bf16", False),
        (8, "cpu", "fp32", True),
        (32, "cpu", "fp32", False),
        (8, "cuda", "bf16", False),
    ],
)
def test_only_narrow_networks_on_a_cpu_get_channels_last(
    first: int, device: str, number: str, expected: bool
) -> None:
    net = build("3d-u-net", dims=3, in_channels=2, classes=2, size="tiny", features=[first, 2 * first])
    lay_out(net, device, Precision(number, "as the test says"))
    wide = next(p for p in net.parameters() if p.ndim == 5 and p.shape[1] > 1 and p.shape[2] > 1)
    assert wide.is_contiguous(memory_format=torch.channels_last_3d) is expected


def test_the_layout_changes_no_value() -> None:
    net = build("3d-u-net", dims=3, in_channels=2, classes=2, size="tiny")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    lay_out(net, "cpu", Precision("bf16", "as the test says"))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
