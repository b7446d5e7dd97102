"""Networks that get their weights from a file are built without memory, without random numbers and without a compiler."""

from __future__ import annotations

import subprocess
import sys

import torch

from medseg.zoo.weightless import weightless


def test_tensors_have_no_memory_and_nothing_is_drawn_for_them() -> None:
    state = torch.get_rng_state()
    with weightless():
        layer = torch.nn.Conv3d(1, 4, 3)
        torch.nn.init.kaiming_normal_(layer.weight)
    assert layer.weight.is_meta
    assert torch.equal(torch.get_rng_state(), state)


def test_what_has_memory_is_drawn_as_ever() -> None:
    with weightless():
        values = torch.zeros(5, device="cpu").normal_()
    assert values.abs().sum() > 0


def test_building_a_network_does_not_load_the_compiler() -> None:
    code = """
import sys
from medseg.zoo.weightless import weightless
from medseg.zoo.build import build
with weightless():
    build("nnunet-plain", dims=3, in_channels=1, classes=3)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
