"""A 2D network that is given volumes slice by slice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medseg.config import IntensityPlan, Plan, System
from medseg.core import ClassInfo, UserError
from medseg.model.folder import build_system, load_model, save_model
from medseg.model.sliced import Sliced, sliced
from medseg.zoo.outputs import Outputs

CLASSES = [ClassInfo("organ", 1, (255, 0, 0)).as_json()]


def a_plan(axis: int, patch: list[int]) -> Plan:
    return Plan(
        dims=3,
        in_channels=2,
        classes=CLASSES,
        out_channels=2,
        spacing_mm=[1.0, 1.0, 3.0],
        intensity=[IntensityPlan(scheme="zscore")] * 2,
        patch_size=patch,
        batch_size=1,
        topology={"slices": axis},
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_gets_the_answer_that_it_gets_as_an_image(axis: int) -> None:
    patch = [32, 32, 32]
    patch[axis] = 3
    system = System(name="u-net", size="tiny", configuration="2d")
    net = build_system(system, a_plan(axis, patch)).eval()
    assert isinstance(net, Sliced)
    windows = torch.randn((2, 2, *patch), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = net(windows)
        assert found.shape == (2, 2, *patch)
        for number in range(3):
            alone = net.net(windows.select(axis + 2, number))
            assert torch.allclose(found.select(axis + 2, number), alone, atol=1e-5)


def test_any_number_of_slices_fits_and_the_other_axes_keep_their_step() -> None:
    inner = nn.Conv2d(1, 2, 1)
    inner.divisor = 16  # type: ignore[assignment]
    assert [Sliced(inner, axis).divisor for axis in range(3)] == [[1, 16, 16], [16, 1, 16], [16, 16, 1]]
    inner.divisor = [8, 4]  # type: ignore[assignment]
    assert Sliced(inner, 1).divisor == [8, 1, 4]
    del inner.divisor
    assert Sliced(inner, 2).divisor == [1, 1, 1]


def test_auxiliary_logits_keep_their_slices_and_weights() -> None:
    class Two(nn.Module):
        def forward(self, images: torch.Tensor) -> Outputs:
            return Outputs(images, (images[..., ::2, ::2],), (0.4,))

    found = Sliced(Two(), 0)(torch.arange(48.0).reshape(1, 1, 3, 4, 4))
    assert found.main.shape == (1, 1, 3, 4, 4)
    assert found.auxiliary[0].shape == (1, 1, 3, 2, 2)
    assert found.auxiliary_weights == (0.4,)
    assert found.main[0, 0, 2, 3, 3] == 47


def test_a_model_folder_of_slices_is_built_again_as_it_was(tmp_path: Path) -> None:
    plan = a_plan(2, [32, 32, 1])
    system = System(name="u-net", size="tiny", configuration="2d")
    net = build_system(system, plan).eval()
    save_model(tmp_path / "model", net, system=system, plan=plan, data_hash="d")
    model = load_model(tmp_path / "model")
    assert model.system.slug == "u-net-tiny-2d"
    windows = torch.randn(1, 2, 32, 32, 1)
    with torch.no_grad():
        assert torch.equal(model.net(windows), net(windows))


@pytest.mark.parametrize("word", ["loss", "training_step", "margin"])
def test_networks_with_ways_of_their_own_for_images_are_refused(word: str) -> None:
    net = nn.Conv2d(1, 2, 1)
    setattr(net, word, 4)
    with pytest.raises(UserError, match="which is for images") as caught:
        sliced(net, 2, "some-net")
    assert caught.value.where == "system.configuration"
