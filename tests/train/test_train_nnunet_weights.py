"""Checkpoints of nnU-Net: their weights compute the same here, and nothing in such a file is executed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import IntensityPlan, Plan, System
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system
from medseg.train.nnunet_weights import read_nnunet, renamed
from medseg.train.start_from import take_weights

FEATURES, STRIDES = (4, 8), (1, 2)


class Brick(nn.Module):
    """A convolution with norm and activation under nnU-Net's names, each tensor under two of them."""

    def __init__(
        self, i: int, o: int, kernel: int = 3, stride: int = 1, bias: bool = True, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(i, o, kernel, stride, kernel // 2, bias=bias)
        self.norm = nn.InstanceNorm3d(o, eps=1e-5, affine=True)
        parts = [self.conv, self.norm, *([nn.LeakyReLU(0.01)] if act else [])]
        self.all_modules = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.all_modules(x)


def stacked(i: int, o: int, count: int, stride: int = 1) -> nn.Module:
    block = nn.Module()
    block.convs = nn.Sequential(Brick(i, o, stride=stride), *(Brick(o, o) for _ in range(count - 1)))
    block.forward = block.convs.forward
    return block


class Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Brick(i, o, stride=stride), Brick(o, o, act=False)
        pool = [nn.AvgPool3d(stride, stride)] if stride > 1 else []
        self.skip = nn.Sequential(*pool, *([Brick(i, o, 1, bias=False, act=False)] if i != o else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), 0.01)


class Reference(nn.Module):
    """A U-Net of two stages with the structure, and so the names, of nnU-Net's networks."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        stages = []
        inputs = 1
        if residual:
            self.encoder.stem = stacked(1, FEATURES[0], 1)
            inputs = FEATURES[0]
        for features, stride in zip(FEATURES, STRIDES):
            if residual:
                stage = nn.Module()
                stage.blocks = nn.Sequential(
                    Residual(inputs, features, stride), Residual(features, features, 1)
                )
                stage.forward = stage.blocks.forward
            else:
                stage = nn.Sequential(stacked(inputs, features, 2, stride))
            stages.append(stage)
            inputs = features
        self.encoder.stages = nn.Sequential(*stages)
        self.decoder.encoder = self.encoder
        self.decoder.transpconvs = nn.ModuleList([nn.ConvTranspose3d(FEATURES[1], FEATURES[0], 2, 2)])
        self.decoder.stages = nn.ModuleList([stacked(2 * FEATURES[0], FEATURES[0], 1 if residual else 2)])
        self.decoder.seg_layers = nn.ModuleList([nn.Conv3d(FEATURES[0], 2, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self.encoder, "stem"):
            x = self.encoder.stem.forward(x)
        fine = self.encoder.stages[0].forward(x)
        up = self.decoder.transpconvs[0](self.encoder.stages[1].forward(fine))
        return self.decoder.seg_layers[0](self.decoder.stages[0].forward(torch.cat([up, fine], dim=1)))


PLAN = Plan(
    dims=3, in_channels=1, classes=[ClassInfo("ball", 1, (1, 2, 3)).as_json()], out_channels=2,
    intensity=[IntensityPlan(scheme="none")], patch_size=[8, 8, 8], batch_size=1,
)  # fmt: skip


def system_of(name: str) -> System:
    blocks = 2
    arguments = {"features_per_stage": list(FEATURES), "strides": list(STRIDES), "kernel_sizes": [3, 3],
                 "blocks_per_stage": blocks, "deep_supervision": False}  # fmt: skip
    return System(name=name, size="paper", arguments=arguments)


def save(path: Path, net: nn.Module) -> Path:
    """A checkpoint with what nnU-Net keeps beside the weights: numbers of numpy, lists, None."""
    stored = {
        "network_weights": net.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.6)], "epoch_start": [1.0]},
        "_best_ema": np.float64(0.9),
        "current_epoch": 3,
        "init_args": {"fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(stored, path)
    return path


@pytest.mark.parametrize(("name", "residual"), [("nnunet-plain", False), ("nnunet-resenc", True)])
def test_a_network_with_imported_weights_computes_what_nnunets_own_computes(
    tmp_path: Path, name: str, residual: bool
) -> None:
    torch.manual_seed(0)
    reference = Reference(residual).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = save(tmp_path / "checkpoint_final.pth", reference)
    net = build_system(system_of(name), PLAN).eval()
    taken = take_weights(net, path, system_of(name), PLAN)
    assert taken.left == {}
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        theirs = reference(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        assert torch.allclose(net(image), theirs, atol=1e-5)


def test_a_checkpoint_of_the_other_network_is_named(tmp_path: Path) -> None:
    weights = Reference(True).state_dict()
    with pytest.raises(UserError, match="not those of nnunet-plain") as caught:
        renamed(weights, "nnunet-plain", "file")
    assert "this is a checkpoint of nnunet-resenc" in caught.value.hint
    with pytest.raises(UserError, match="1 of its 1 tensors are not those") as caught:
        renamed({"backbone.weight": torch.zeros(1)}, "nnunet-plain", "file")
    assert "only nnU-Net's own two networks" in caught.value.hint


def test_other_systems_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fit nnunet-plain and nnunet-resenc, not v-net"):
        read_nnunet(tmp_path / "x.pth", "v-net")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_nnunet(tmp_path / "x.pth", "nnunet-plain")


class Bomb:
    """What unpickles into a call."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"
    path = tmp_path / "bad.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "init_args": Bomb(mark)}, path)
    with pytest.raises(UserError, match=r"bad\.pth"):
        read_nnunet(path, "nnunet-plain")
    assert not mark.exists()
    with open(path, "wb") as stream:
        pickle.dump({"network_weights": Bomb(mark)}, stream)
    with pytest.raises(UserError, match=r"bad\.pth"):
        read_nnunet(path, "nnunet-plain")
    assert not mark.exists()
