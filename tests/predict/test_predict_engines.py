"""Engines change what computes the network and nothing else; none is taken that gives other labels."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.progress import be_quiet
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict.case import Predictor
from medseg.predict.engines import choose, gate, kept, table
from medseg.predict.engines.gate import Gate

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


def labels(cases: int = 1000, **settings: Any) -> tuple[np.ndarray, Predictor]:
    predictor = Predictor(a_model(), Predict(**settings), cases=cases)
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


def pretend_times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """PyTorch's first window takes the first of these seconds, the engines one after the other the rest."""
    times = iter(seconds[1:])
    monkeypatch.setattr(choose, "_first_seconds", lambda gate, plain: seconds[0])
    monkeypatch.setattr(choose, "seconds_of", lambda run, samples, fastest=0.0: next(times))


@pytest.mark.parametrize(("seconds", "taken"), [(0.01, "openvino"), (0.2, "torch")])
def test_auto_takes_the_fastest_that_passes_and_says_what_it_tries(
    seconds: float, taken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_fake(monkeypatch)
    pretend_times(monkeypatch, 0.2, 0.1, seconds)
    be_quiet(False)
    _, predictor = labels()
    assert predictor.choice is not None
    assert predictor.choice.engine == taken
    assert {row["engine"] for row in predictor.choice.tried} == {"torch", "openvino"}
    said = capsys.readouterr().err
    assert "trying Fake fp32; torch fp32 takes 0.10 s a window" in said
    assert f"{min(0.1, seconds):.2f} s a window, after 0 s" in said


def test_an_engine_for_which_a_gpus_memory_is_too_small_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(net: Any, setting: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    a_fake(monkeypatch, make=full)
    pretend_times(monkeypatch, 0.1, 0.1)
    be_quiet(False)
    assert labels()[1].engine.startswith("torch")
    assert "Fake fp32: the memory of the GPU ran out" in capsys.readouterr().err


def test_half_precision_is_named_before_it_is_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("medseg.predict.precision.has_bfloat16", lambda: True)
    be_quiet(False)
    labels(engine="torch")
    assert "choosing the engine on a window of this case: torch bf16 against fp32" in capsys.readouterr().err


def test_auto_sets_nothing_up_for_work_that_is_soon_done(monkeypatch: pytest.MonkeyPatch) -> None:
    a_fake(monkeypatch, set_up_seconds=30.0, make=lambda net, setting: pytest.fail("was set up"))
    pretend_times(monkeypatch, 0.1)
    _, predictor = labels(cases=1)
    assert predictor.engine.startswith("torch"), "and nothing was timed either: no second time was asked for"


@pytest.mark.parametrize(
    ("windows", "spent", "pays"), [(172, 0.0, True), (171, 0.0, False), (172, 0.1, False)]
)
def test_all_the_trying_may_take_a_quarter_of_the_work(windows: int, spent: float, pays: bool) -> None:
    wish = choose.Wish("auto", "auto", "cpu", windows, True, False)
    assert choose._pays("compile", 1.0, wish, 1, spent) is pays, "40 s of setting up and 3 windows"
    assert not choose._pays("compile", 1.0, wish, 2, spent), "two members are set up"


def test_where_half_precision_fails_the_other_engines_are_still_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medseg.predict.precision.has_bfloat16", lambda: True)
    monkeypatch.setattr(choose, "PARITY", 1.1)
    a_fake(monkeypatch)
    tried: list[str] = []
    monkeypatch.setattr(choose, "_tried", lambda gate, wish, kind, fastest: tried.append(kind))
    monkeypatch.setattr(choose, "seconds_of", lambda run, samples, fastest=0.0: 1.0)
    assert labels()[1].engine.startswith("torch fp32: half precision has a Dice of only")
    assert tried == ["fp32"], "the first window of float32 was timed although its labels were known"


def test_no_window_of_float32_is_computed_twice_for_the_gate() -> None:
    model, windows = a_model(), torch.randn(2, 1, 16, 16, 16)
    assert model.net is not None
    calls: list[int] = []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    judge = Gate(model.net, windows, background=True, overlapping=False)
    other = a_model().net
    for _ in range(3):
        assert judge.verdict(lambda window: other(window).detach()).dice == 1.0
    assert judge.verdict(lambda window: -other(window).detach()).dice < 0.999
    assert len(calls) == 2, "one a sample"


def test_the_gate_looks_at_regions_one_by_one() -> None:
    net = a_model().net
    windows = torch.randn(1, 1, 16, 16, 16)
    wanted = net(windows)[0] > 0
    judge = Gate(net, windows, background=False, overlapping=True)
    moved = net(windows)[0] > 0.01
    dice = 2 * int((wanted & moved).sum()) / int(wanted.sum() + moved.sum())
    assert judge.verdict(lambda window: net(window).detach() - 0.01).dice == pytest.approx(dice, abs=1e-9)


@pytest.mark.parametrize(
    ("fastest", "windows", "seconds"), [(9.0, 2, 2.0), (2.1, 2, 2.0), (2.0, 1, 3.0), (1.0, 1, 3.0)]
)
def test_an_engine_that_is_clearly_slower_is_timed_once(
    fastest: float, windows: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr(gate, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls: list[int] = []
    found = gate.seconds_of(
        lambda window: calls.append(len(window)) or window, torch.zeros(3, 1, 2, 2, 2), fastest
    )
    assert found == seconds
    assert calls == [1] * windows


def test_speed_is_measured_once_for_a_model_and_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    a_fake(monkeypatch, make=lambda net, setting: made.append("x") or (lambda windows: net(windows).detach()))
    pretend_times(monkeypatch, 0.5, 0.5, 0.5)
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
