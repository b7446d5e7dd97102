"""Half precision only where the machine gains by it and the labels stay the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict import precision
from medseg.predict.case import Predictor


def test_what_is_asked_for_is_taken() -> None:
    assert precision.number_type("fp32", "cpu")[0] is None
    assert precision.number_type("bf16", "cpu")[0] is torch.bfloat16
    assert precision.number_type("auto", "cuda:0")[0] is torch.float16
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        precision.number_type("fp16", "cpu")


@pytest.mark.parametrize(("fast", "kind"), [(True, torch.bfloat16), (False, None)])
def test_a_cpu_gets_bfloat16_when_it_multiplies_it(
    fast: bool, kind: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: fast)
    assert precision.number_type("auto", "cpu")[0] is kind


class Sharp(torch.nn.Module):
    """Differences that bfloat16 cannot tell: the classes swap in half precision."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 1)
        self.conv.weight.data = torch.tensor([100.0, 100.0 + gap]).reshape(2, 1, 1, 1)
        self.conv.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def run(gap: float) -> str:
    organ = ClassInfo("organ", 1, (0, 0, 0))
    plan = Plan(dims=2, in_channels=1, classes=[organ.as_json()], out_channels=2, patch_size=[16, 16], batch_size=1,
                intensity=[IntensityPlan(scheme="none")])  # fmt: skip
    predictor = Predictor(
        Model(Sharp(gap).eval(), None, plan, (organ,), System(name="u-net"), "0", {}), Predict()
    )
    image = np.random.default_rng(0).normal(size=(1, 20, 20)).astype(np.float32)
    predictor.segment(Image(image, Geometry.pixels((20, 20))))
    return predictor.engine


def test_half_precision_has_to_give_the_labels_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    assert "bf16" in run(50.0)
    assert "Dice 1.00000 against fp32" in run(50.0)
    assert run(0.01).startswith("torch fp32: half precision has a Dice of only 0.0")
