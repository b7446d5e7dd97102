"""Memory is worked out before work starts, and the estimate holds."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from medseg.config import Compute, IntensityPlan, Plan
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.predict.memory import (
    CONVERTED,
    LIBRARIES,
    budget_bytes,
    engine_bytes,
    estimate,
    on_gpu,
    require_fit,
    window_bytes,
)
from medseg.predict.windows import Cut

ROOT = Path(__file__).parents[2]

SLACK = 250 * 2**20

NEEDS_OPENVINO = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed (extra infer)"
)

MEASURE = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict.case import Predictor
from medseg.model.members import Members
from medseg.predict import many
from medseg.predict.job import Job
from medseg.predict.memory import held_bytes
from medseg.zoo.build import build

kind, engine, precision = sys.argv[1:4]
k, patch, side, slices = map(int, sys.argv[4:])
conv = torch.nn.Conv3d
mean, many_of = ("probabilities" if "chances" in kind else "logits"), 2 if kind.startswith("ensemble") else 1
form = "u-net" if kind.startswith(("ensemble", "mirrors")) else kind
make = {
    "u-net": lambda: build("3d-u-net", dims=3, in_channels=1, classes=k, size="tiny"),
    "few channels": lambda: torch.nn.Sequential(conv(1, 4, 3, padding=1), torch.nn.ReLU(), conv(4, k, 3, padding=1)),
    "put off": lambda: torch.nn.Sequential(conv(1, 8, 3, padding=1), torch.nn.ReLU(), conv(8, k, 1)),
    "dropout": lambda: torch.nn.Sequential(conv(1, 12, 3, padding=1), torch.nn.Dropout(0.3), conv(12, k, 3, padding=1)),
}[form]
net = (Members([make() for _ in range(many_of)]) if many_of > 1 else make()).eval()
classes = tuple(ClassInfo(f"c{n}", n, (0, 0, 0)) for n in range(1, k))
plan = Plan(dims=3, in_channels=1, classes=[c.as_json() for c in classes], out_channels=k, spacing_mm=[2.0] * 3,
            intensity=[IntensityPlan(scheme="ct", low=-900, high=900, shift=0, scale=100)], image_order=3,
            patch_size=[patch] * 3, batch_size=1, mirror_axes=[0, 2] if "mirror" in kind else [])
settings = Predict(engine=engine, precision=precision, overlap=0.25, ensemble=mean, flips="mirror" in kind,
                   disagreement="mirrors" if kind == "mirrors compared" else "dropout" if kind == "dropout" else "auto")
array = np.random.default_rng(0).integers(-1000, 1000, (1, side, side, slices), dtype=np.int16)
image = Image(array, Geometry.from_spacing(array.shape[1:], (1.0, 1.0, 1.0)))
predictor = Predictor(Model(net, None, plan, classes, System(name="3d-u-net"), "0", {}), settings)
job = Job(predictor, None, settings, "", 10**12)
many._prepare_budget(job)
need = many._need(job, image)
held = held_bytes()
predictor.segment(image)
# Not ru_maxrss: a new process starts with that of the one that started it.
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"announced": held + need.total - need.image, "measured": peak, "grown": peak - held}))
"""


def measure(*arguments: object) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        cwd=ROOT, check=True, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure the peak")
@pytest.mark.parametrize(
    ("kind", "engine", "precision", "classes", "patch", "side", "slices"),
    [
        ("u-net", "torch", "fp32", 25, 32, 160, 100),
        ("u-net", "torch", "bf16", 25, 48, 128, 128),
        ("few channels", "torch", "fp32", 5, 96, 192, 100),
        ("put off", "torch", "fp32", 104, 64, 160, 128),
        ("mirrors compared", "torch", "bf16", 25, 64, 128, 128),
        ("dropout", "torch", "fp32", 25, 64, 128, 128),
        ("ensemble, mirrored", "torch", "fp32", 25, 64, 128, 128),
        ("ensemble of chances, mirrored", "torch", "fp32", 25, 64, 128, 128),
        pytest.param("u-net", "openvino", "fp32", 25, 64, 160, 128, marks=NEEDS_OPENVINO),
        pytest.param("put off", "openvino", "fp32", 104, 64, 160, 128, marks=NEEDS_OPENVINO),
    ],
)
def test_the_announced_memory_is_kept(
    kind: str, engine: str, precision: str, classes: int, patch: int, side: int, slices: int
) -> None:
    """From a process that has imported PyTorch and nothing else: what is loaded on the way counts as well."""
    found = measure(kind, engine, precision, classes, patch, side, slices)
    assert found["measured"] <= found["announced"] * 1.02
    # Nor is it far too much; what libraries may take is counted whole, however small the case.
    assert (
        found["announced"] <= found["measured"] + LIBRARIES + (0 if engine == "torch" else CONVERTED) + SLACK
    )


def a_plan(channels: int) -> Plan:
    return Plan(dims=3, in_channels=1, classes=[], out_channels=channels, spacing_mm=[1.5] * 3,
                intensity=[IntensityPlan(scheme="none")], patch_size=[128] * 3, batch_size=1)  # fmt: skip


def test_an_engine_that_converts_networks_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.predict.memory.find_spec", lambda name: None)
    assert (engine_bytes("torch"), engine_bytes("auto"), engine_bytes("openvino")) == (0, 0, CONVERTED)
    monkeypatch.setattr("medseg.predict.memory.find_spec", lambda name: name)
    assert engine_bytes("auto") == CONVERTED


def test_more_slices_do_not_cost_logits() -> None:
    """What grows with the number of slices is image and labels: classes only count for the depth of a window."""
    short, long = (
        estimate(Geometry.from_spacing((512, 512, n), (0.8, 0.8, 1.0)), 2, a_plan(117), Cut((128,) * 3), 0)
        for n in (700, 1400)
    )
    assert (short.sums, short.planes) == (long.sums, long.planes)
    assert long.total < 117 * 512 * 512 * 1400


def test_a_network_on_a_quarter_of_a_window_tells_the_memory_of_a_whole_one() -> None:
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(8, 4, 1))
    found = window_bytes(net, 1, (32, 32, 32))
    # While the first two layers run their input and output exist.
    assert found >= 2 * 8 * 32**3 * 4
    assert found <= 2 * (1 + 8 + 8 + 4) * 32**3 * 4
    assert not any(m._forward_hooks for m in net.modules())


def test_what_does_not_fit_is_refused_with_both_numbers_and_a_way_out() -> None:
    with pytest.raises(UserError, match=r"needs 5.00 GB of memory, 4.00 GB may be used") as caught:
        require_fit(5 * 10**9, 4 * 10**9, "case a")
    assert "compute.ram" in caught.value.hint
    require_fit(3 * 10**9, 4 * 10**9, "case a")


def test_the_budget_is_what_was_asked_for() -> None:
    assert budget_bytes(Compute(ram="6 GB")) == 6 * 10**9
    assert budget_bytes(Compute()) > 10**8


def test_on_a_gpu_logits_stay_there_when_they_fit_and_in_main_memory_when_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need = estimate(
        Geometry.from_spacing((256, 256, 200), (1.0, 1.0, 1.0)), 2, a_plan(25), Cut((128,) * 3), 10**9
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 10**9, 80 * 10**9))
    left, in_ram = on_gpu(need, "cuda:0")
    assert (left.sums, left.windows, in_ram) == (0, 0, False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 10**8, 8 * 10**9))
    left, in_ram = on_gpu(need, "cuda:0")
    assert (left.sums, left.windows, in_ram) == (need.sums, 0, True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 80 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**8)
    assert not on_gpu(need, "cuda:0")[1], "what PyTorch kept from the case before is free for the next"
    assert on_gpu(need, "cuda:0", only_in_ram=True) == (left, True), "unless it ran out once"
    assert on_gpu(need, "cpu") == (need, False)
