"""Engines change what computes the network and nothing else; none is taken that gives other labels."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import replace
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
from medseg.model.folder import Model
from medseg.predict.case import Predictor
from medseg.predict.engines import choose, kept, table

HERE = "tests.predict.test_predict_engines"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("medseg.predict.precision.has_bfloat16", lambda: False)
    return tmp_path / "cache"


def a_model(channels: int = 1) -> Model:
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv3d(channels, 6, 3, padding=1),
        torch.nn.InstanceNorm3d(6, affine=True),
        torch.nn.LeakyReLU(0.01),
        torch.nn.Conv3d(6, 3, 3, padding=1),
    ).eval()
    classes = (ClassInfo("a", 1, (1, 0, 0)), ClassInfo("b", 2, (0, 1, 0)))
    plan = Plan(dims=3, in_channels=channels, classes=[c.as_json() for c in classes], out_channels=3,
                spacing_mm=[1.0, 1.0, 1.0], intensity=[IntensityPlan(scheme="none")], image_order=1,
                patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    return Model(net, None, plan, classes, System(name="u-net"), "f" * 64, {})


def an_image(size: int = 20) -> Image:
    array = np.random.default_rng(0).normal(size=(1, size, size, size)).astype(np.float32)
    return Image(array, Geometry.from_spacing(array.shape[1:], (1.0, 1.0, 1.0)))


def labels(**settings: Any) -> tuple[np.ndarray, Predictor]:
    predictor = Predictor(a_model(), Predict(**settings))
    return predictor.segment(an_image()).labels, predictor


def a_fake(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Puts an engine into the table that is the network itself, or something else."""
    engine = table.Engine("openvino", "Fake", "unused:unused", ("numpy",), ("cpu",), ("fp32",), 0.0)
    make = changes.pop("make", lambda net, setting: lambda windows: net(windows).detach())
    monkeypatch.setattr(table, "_PROBES", {})
    engine = replace(engine, **changes)
    monkeypatch.setattr(table.Engine, "make", lambda self, net, setting: make(net, setting))
    monkeypatch.setattr(choose, "ENGINES", {"openvino": engine})


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_converted_network_gives_the_labels_of_pytorch(engine: str) -> None:
    for module in table.ENGINES[engine].modules:
        pytest.importorskip(module)
    ours, _ = labels(engine="torch", precision="fp32")
    theirs, predictor = labels(engine=engine, precision="fp32")
    assert np.mean(ours == theirs) >= 0.999
    assert predictor.choice is not None
    assert predictor.choice.engine == engine
    assert predictor.choice.dice is not None
    assert predictor.choice.dice >= 0.999
    assert "Dice" in predictor.engine


def test_openvino_keeps_what_it_converted_and_reads_it_again(own_cache: Path) -> None:
    pytest.importorskip("openvino")
    labels(engine="openvino", precision="fp32")
    (first,) = own_cache.rglob("*.xml")
    before = first.stat().st_mtime_ns
    labels(engine="openvino", precision="fp32")
    assert [p.stat().st_mtime_ns for p in own_cache.rglob("*.xml")] == [before]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_that_is_not_installed_is_named_with_its_remedy(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="is not installed: pip install 'medseg\\[infer\\]'") as caught:
        labels(engine=engine)
    assert "predict.engine: auto or torch" in str(caught.value)


def test_without_the_extras_pytorch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    ours, predictor = labels()
    assert predictor.engine.startswith("torch fp32")
    assert np.array_equal(ours, labels(engine="torch", precision="fp32")[0])


def test_tensorrt_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="TensorRT does not run on cpu"):
        labels(engine="tensorrt")


def test_an_engine_that_gives_other_labels_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_fake(monkeypatch, make=lambda net, setting: lambda windows: -net(windows).detach())
    found, predictor = labels(engine="openvino", precision="fp32")
    assert predictor.engine.startswith("torch fp32: Fake has a Dice of only fp32 0.")
    assert np.array_equal(found, labels(engine="torch", precision="fp32")[0])
    assert predictor.choice is not None
    assert predictor.choice.tried[0]["dice_against_fp32"] < 0.999


def slower(net: torch.nn.Module, seconds: float) -> Any:
    def forward(windows: torch.Tensor) -> torch.Tensor:
        time.sleep(seconds)
        return net(windows).detach()

    return forward


@pytest.mark.parametrize(("seconds", "taken"), [(0.0, "openvino"), (0.2, "torch")])
def test_auto_takes_the_fastest_that_passes(
    seconds: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_fake(monkeypatch, make=lambda net, setting: slower(net, seconds))
    times = iter([0.1, seconds])
    monkeypatch.setattr(choose, "_seconds", lambda run, samples: next(times))
    _, predictor = labels()
    assert predictor.choice is not None
    assert predictor.choice.engine == taken
    assert {row["engine"] for row in predictor.choice.tried} == {"torch", "openvino"}


def test_auto_sets_nothing_up_for_work_that_is_soon_done(monkeypatch: pytest.MonkeyPatch) -> None:
    a_fake(monkeypatch, set_up_seconds=30.0, make=lambda net, setting: pytest.fail("was set up"))
    _, predictor = labels()
    assert predictor.engine.startswith("torch")


def test_speed_is_measured_once_for_a_model_and_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    a_fake(monkeypatch, make=lambda net, setting: made.append("x") or slower(net, 0.0))
    monkeypatch.setattr(choose, "_seconds", lambda run, samples: 0.5)
    labels()
    machine = kept.machine_key(torch.get_num_threads())
    assert kept.read_speeds("f" * 64, machine) == {"torch fp32": 0.5, "openvino fp32": 0.5}
    labels()
    assert len(made) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "cache_folder", lambda: None)
    a_fake(monkeypatch)
    assert labels()[1].choice is not None
    assert kept.read_speeds("f" * 64, "m") == {}


def test_int8_needs_its_engine_and_its_gate() -> None:
    with pytest.raises(UserError, match="PyTorch has no int8"):
        labels(precision="int8")
    with pytest.raises(UserError, match="ONNX Runtime computes in fp32"):
        table.ENGINES["onnxruntime"].make(torch.nn.Identity(), table.Setting("int8", torch.zeros(1)))


def test_results_of_a_folder_are_gone_on_with_in_the_same_manner(tmp_path: Path) -> None:
    _, predictor = labels()
    assert predictor.choice is not None
    facts = {"model": "m", "settings": "s", "device": "cpu"}
    kept.write_choice(tmp_path, facts, predictor.choice.as_json())
    found = kept.read_choice(tmp_path, facts)
    assert found is not None
    assert choose.Choice.from_json(json.loads(json.dumps(found))) == predictor.choice
    assert kept.read_choice(tmp_path, {**facts, "model": "another"}) is None
    (tmp_path / ".engine").write_text("{")
    assert kept.read_choice(tmp_path, facts) is None


def test_every_engine_of_the_settings_stands_in_the_table() -> None:
    from typing import get_args

    known = set(get_args(Predict.model_fields["engine"].annotation))
    assert known == {"auto", "torch", *table.ENGINES}
    assert all(importlib.util.find_spec(e.at.partition(":")[0]) for e in table.ENGINES.values())
