"""A network gets its channels in the order in which it learnt them, in whatever order a table or folder has them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.config import Data, IntensityPlan, Pipeline, Plan, System
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system, save_model
from medseg.predict.channels import require_channels, with_channels
from medseg.predict.folder import predict_folder

SHAPE = (12, 11, 10)


def a_plan(*channels: str) -> Plan:
    return Plan(
        dims=3, in_channels=2, channels=list(channels), classes=[ClassInfo("a", 1, (9, 9, 9)).as_json()],
        out_channels=2, spacing_mm=None, intensity=[IntensityPlan(scheme="zscore")] * 2, image_order=1,
        patch_size=[16, 16, 16], batch_size=1,
    )  # fmt: skip


def settings(**sections: object) -> Pipeline:
    quick = {"predict": {"precision": "fp32", "engine": "torch"}, "compute": {"cores": 1}}
    return Pipeline.model_validate({"name": "p", "system": "from-model", **quick, **sections})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(3)
    plan, system = a_plan("t2", "flair"), System(name="3d-u-net", size="tiny")
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, build_system(system, plan), system=system, plan=plan)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """images_flair/a and images_t2/a: the names sort in another order than the model's."""
    rng = np.random.default_rng(0)
    for name, scale in (("flair", 10), ("t2", 900)):
        (tmp_path / "data" / f"images_{name}").mkdir(parents=True)
        array = (rng.normal(0, scale, SHAPE) + scale * np.indices(SHAPE)[0 if scale == 10 else 2]).astype(
            np.int16
        )
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "data" / f"images_{name}" / "a.nii.gz")
    return tmp_path / "data"


def mask(model: Path, data: Path, out: Path, said: Pipeline | None = None) -> np.ndarray:
    assert predict_folder(model, data, out, said or settings()).failed == {}
    return np.asarray(nibabel.load(out / "a.nii.gz").dataobj)


def table(folder: Path, *names: str) -> Path:
    cells = ",".join(f"images_{name}/a.nii.gz" for name in names)
    path = folder / f"{'-'.join(names)}.csv"
    path.write_text(f"case,{','.join(f'image_{name}' for name in names)}\na,{cells}\n")
    return path


def test_tables_and_folders_hand_over_channels_by_name(model: Path, images: Path, tmp_path: Path) -> None:
    right = mask(model, table(images, "t2", "flair"), tmp_path / "right")
    np.testing.assert_array_equal(mask(model, table(images, "flair", "t2"), tmp_path / "turned"), right)
    np.testing.assert_array_equal(mask(model, images, tmp_path / "folders"), right)
    with pytest.raises(UserError, match="in another order"):
        predict_folder(model, images, tmp_path / "wrong", settings(data={"channels": ["flair", "t2"]}))
    (images / "images_flair").rename(images / "images_a")
    (images / "images_t2").rename(images / "images_b")
    said = settings(data={"channels": ["a", "b"]})
    assert (mask(model, images, tmp_path / "wrong", said) != right).any(), "the order matters to this network"


def test_an_nnunet_folder_hands_over_channels_by_name(model: Path, images: Path, tmp_path: Path) -> None:
    right = mask(model, images, tmp_path / "right")
    folder = tmp_path / "nnunet"
    (folder / "imagesTr").mkdir(parents=True)
    for number, name in enumerate(("flair", "t2")):
        (images / f"images_{name}" / "a.nii.gz").rename(folder / "imagesTr" / f"a_{number:04d}.nii.gz")
    facts = {"channel_names": {"0": "FLAIR", "1": "T2"}, "labels": {"background": 0, "a": 1}}
    (folder / "dataset.json").write_text(json.dumps(facts))
    np.testing.assert_array_equal(mask(model, folder, tmp_path / "out"), right)


def test_a_channel_that_is_not_there_is_named(model: Path, images: Path, tmp_path: Path) -> None:
    (images / "images_t2").rename(images / "images_t1")
    with pytest.raises(UserError, match="no folder holds the channel t2; there are images_flair, images_t1"):
        predict_folder(model, images, tmp_path / "out", settings())
    with pytest.raises(UserError, match="no column 'image_t2'"):
        predict_folder(model, table(images, "flair", "t1"), tmp_path / "out", settings())
    assert (
        predict_folder(model, images, tmp_path / "out", settings(data={"channels": ["t1", "flair"]})).done
        == 1
    )


def test_channels_in_another_order_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"learnt the channels T2, FLAIR; the images have flair, t2, in another order"
    ):
        require_channels(a_plan("T2", "FLAIR"), ("flair", "t2"), said=True)


def test_other_names_are_refused_unless_the_settings_give_them() -> None:
    with pytest.raises(UserError, match="learnt the channels a, b; the images have c, d") as caught:
        require_channels(a_plan("a", "b"), ("c", "d"), said=False)
    assert "data.channels=[c, d], in the order of the model's" in caught.value.hint
    require_channels(a_plan("a", "b"), ("c", "d"), said=True)


def test_names_that_nobody_gave_are_not_asked_for() -> None:
    require_channels(a_plan(), ("c", "d"), said=False)
    require_channels(a_plan("a", "b"), (), said=False)
    require_channels(a_plan("A", "b"), ("a", "B"), said=False)
    assert with_channels(Data(), [a_plan()]) == Data()
    assert with_channels(Data(channels=["c", "d"]), [a_plan("a", "b")]).channels == ["c", "d"]


def test_models_that_learnt_channels_in_other_orders_do_not_share_one_reading() -> None:
    with pytest.raises(UserError, match="in another order"):
        with_channels(Data(), [a_plan("a", "b"), a_plan("b", "a")])
