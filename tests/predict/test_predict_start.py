"""What `medseg predict` loads and does before its first window."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import torch

from medseg.config import IntensityPlan, Plan, System
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system, save_model
from medseg.predict.head import one_thread, without_last_layer
from medseg.predict.memory import window_bytes

NOT_NEEDED = ("pydicom", "scipy.ndimage", "scipy.stats", "monai", "mlflow", "pandas", "skimage", "SimpleITK",
              "torch._dynamo")  # fmt: skip

FIRST_WINDOW = f"""
import json, os, sys
from medseg.predict.engines.eager import Eager

def stop(self, windows):
    print(json.dumps([name for name in {NOT_NEEDED!r} if name in sys.modules]), flush=True)
    os._exit(0)

Eager.__call__ = stop
from medseg.cli import main
sys.argv = ["medseg", "predict", *sys.argv[1:]]
main()
"""


def test_nothing_is_loaded_that_the_first_window_does_not_need(tmp_path: Path) -> None:
    system = System(name="3d-u-net", size="tiny")
    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("lung", 1, (9, 9, 9)).as_json()], out_channels=2,
                spacing_mm=[2.0] * 3, intensity=[IntensityPlan(scheme="window", low=-1000, high=400)], image_order=3,
                patch_size=[16] * 3, batch_size=1)  # fmt: skip
    save_model(tmp_path / "model", build_system(system, plan), system=system, plan=plan)
    image = nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.diag([1.5, 1.5, 1.5, 1]))
    nibabel.save(image, tmp_path / "case.nii.gz")
    command = [
        sys.executable,
        "-c",
        FIRST_WINDOW,
        str(tmp_path / "model"),
        "--data",
        str(tmp_path / "case.nii.gz"),
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_looking_at_a_network_leaves_the_number_of_threads_as_it_was() -> None:
    seen = []

    class Watched(torch.nn.Conv3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        net = torch.nn.Sequential(Watched(1, 2, 3, padding=1), torch.nn.Conv3d(2, 4, 1))
        without_last_layer(net, 1, (16, 16, 16))
        window_bytes(net, 1, (16, 16, 16), 4)
        assert set(seen) == {1}
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
