"""Windows larger than the patches of training: kept with the model, asked for anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system, load_model, save_model
from medseg.predict.case import Predictor

ORGAN = ClassInfo("organ", 1, (255, 0, 0))


def a_model(folder: Path, **changes: Any) -> Path:
    plan = Plan(**{
        "dims": 3, "in_channels": 1, "classes": [ORGAN.as_json()], "out_channels": 2,
        "spacing_mm": [2.0, 2.0, 2.0], "intensity": [IntensityPlan(scheme="zscore")], "image_order": 1,
        "patch_size": [32, 32, 32], "batch_size": 1, **changes,
    })  # fmt: skip
    torch.manual_seed(0)
    system = System(name="3d-u-net", size="tiny")
    save_model(folder, build_system(system, plan), system=system, plan=plan, data_hash="d")
    return folder


@pytest.fixture
def image() -> Image:
    voxels = np.random.default_rng(4).normal(0, 1, (1, 70, 40, 36)).astype(np.float32)
    return Image(voxels, Geometry.from_spacing((70, 40, 36), (2, 2, 2)))


def segment(folder: Path, image: Image, **settings: Any) -> tuple[np.ndarray, Predictor]:
    predictor = Predictor(load_model(folder), Predict(engine="torch", precision="fp32", **settings))
    return predictor.segment(image).labels, predictor


def test_a_model_is_predicted_with_the_window_it_was_made_with(tmp_path, image):
    patch = a_model(tmp_path / "patch")
    window = a_model(tmp_path / "window", window=[80, 48, 48])
    asked, predictor = segment(patch, image, window=[80, 48, 48])
    kept, keeping = segment(window, image)
    assert predictor.cut.patch == keeping.cut.patch == (80, 48, 48)
    assert predictor.cut.count((70, 40, 36)) == 1 < segment(patch, image)[1].cut.count((70, 40, 36))
    np.testing.assert_array_equal(asked, kept)


def test_the_window_of_a_call_comes_before_that_of_the_model(tmp_path, image):
    window = a_model(tmp_path / "window", window=[80, 48, 48])
    _, predictor = segment(window, image, window=[32, 32, 32])
    assert predictor.cut.patch == (32, 32, 32)


def test_one_window_over_all_is_the_network_on_the_whole_image(tmp_path, image):
    folder = a_model(tmp_path / "patch")
    labels, predictor = segment(folder, image, window=[80, 48, 48])
    voxels = torch.from_numpy((image.array - image.array.mean()) / image.array.std())
    below = [(w - n) // 2 for w, n in zip((80, 48, 48), voxels.shape[1:])]
    room = [p for w, n, b in zip((48, 48, 80), (36, 40, 70), reversed(below)) for p in (b, w - n - b)]
    net = predictor.model.net
    assert net is not None
    with torch.inference_mode():
        logits = net.eval()(torch.nn.functional.pad(voxels[None], room))
    whole = logits if isinstance(logits, torch.Tensor) else logits[0]
    place = tuple(slice(b, b + n) for b, n in zip(below, voxels.shape[1:]))
    expected = whole[0].argmax(0)[place].numpy()
    assert np.mean(expected == labels) > 0.999


def test_a_window_of_other_axes_is_refused(tmp_path, image):
    folder = a_model(tmp_path / "patch")
    with pytest.raises(UserError, match=r"\[64, 64\] for a model of 3D images") as caught:
        segment(folder, image, window=[64, 64])
    assert caught.value.where == "predict.window"
    assert "give 3 numbers, as in [32, 32, 32]" in str(caught.value.hint)
