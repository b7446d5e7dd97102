"""What it takes before work begins: `medseg --help`, `medseg list`, and `medseg predict` until its first window.

    python benchmarks/startup.py

The prediction's network is a plain U-Net of 16..128 features with random weights, its one case a small NIfTI volume without
air (a search for air around the body loads scipy.ndimage, 0.15 CPU seconds more). To be reached are 0.3 s for help and lists,
and 2.5 CPU seconds and 0.6 GB for the prediction. Fails above 0.6 GB, above 0.3 s or thirty times an empty Python, whichever is
more, and above 3.8 CPU seconds or two and a half times `import torch`, whichever is more: half of the prediction's start is that
import, and a slow processor is no fault of the commands.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 0.3
LIMIT_CPU_SECONDS = 3.8
LIMIT_GB = 0.6
EMPTY_PYTHONS = 30
TORCH_IMPORTS = 2.5

FIRST_WINDOW = """
import json, os, resource, sys
from medseg.predict.engines.eager import Eager

def stop(self, windows):
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "peak_gb": peak}), flush=True)
    os._exit(0)

Eager.__call__ = stop
from medseg.cli import main
sys.argv = ["medseg", "predict", *sys.argv[1:]]
main()
"""


def best_of(command: list[str], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def a_model_and_a_case(folder: Path) -> tuple[Path, Path]:
    import nibabel
    import numpy as np

    from medseg.config import IntensityPlan, Plan, System
    from medseg.core.segmentation import ClassInfo, default_colour
    from medseg.model.folder import build_system, save_model

    classes = [ClassInfo(f"class {n}", n, default_colour(n)) for n in range(1, 25)]
    system = System(name="nnunet-plain", arguments={
        "features_per_stage": [16, 32, 64, 128, 128], "strides": [1, 2, 2, 2, 2], "kernel_sizes": [3] * 5,
        "blocks_per_stage": [2] * 5, "decoder_convs": [2] * 4, "deep_supervision": False})  # fmt: skip
    scheme = IntensityPlan(scheme="ct", low=-900, high=900, shift=100, scale=120)
    plan = Plan(dims=3, in_channels=1, classes=[c.as_json() for c in classes], out_channels=25, spacing_mm=[1.5] * 3,
                intensity=[scheme], image_order=3, patch_size=[128] * 3, batch_size=1)  # fmt: skip
    save_model(folder / "model", build_system(system, plan), system=system, plan=plan)
    image = nibabel.Nifti1Image(np.zeros((64, 64, 40), np.int16), np.diag([1.5, 1.5, 2.0, 1.0]))
    nibabel.save(image, folder / "case.nii.gz")
    return folder / "model", folder / "case.nii.gz"


def first_window(folder: Path, runs: int = 5) -> dict[str, float]:
    """CPU seconds and peak memory of the command until its first window enters the network; the best of some runs."""
    model, case = a_model_and_a_case(folder)
    found = []
    for number in range(runs):
        command = [sys.executable, "-c", FIRST_WINDOW, str(model), "--data", str(case)]
        done = subprocess.run([*command, "--out", str(folder / str(number))], check=True, capture_output=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(found, key=lambda one: one["cpu_s"])


def main() -> int:
    empty = best_of([sys.executable, "-c", "pass"])
    print(f"{'command':<16} {'best of 7':>10}   empty Python {empty:.3f} s")
    worst = 0.0
    for verb in ("--help", "list"):
        seconds = best_of([sys.executable, "-m", "medseg.cli", verb])
        worst = max(worst, seconds)
        print(f"medseg {verb:<9} {seconds:>8.3f} s   {seconds / empty:.1f} x")
    with tempfile.TemporaryDirectory() as folder:
        first = first_window(Path(folder))
    print(
        f"medseg predict until its first window: {first['cpu_s']:.2f} CPU s, {first['peak_gb']:.2f} GB (wanted: 2.5, 0.6)"
    )
    torch_import = min(cpu_seconds([sys.executable, "-c", "import torch"]) for _ in range(5))
    print(f"import torch: {torch_import:.2f} CPU s")
    quick = worst < max(LIMIT_SECONDS, EMPTY_PYTHONS * empty)
    quick &= first["cpu_s"] < max(LIMIT_CPU_SECONDS, TORCH_IMPORTS * torch_import)
    return 0 if quick and first["peak_gb"] < LIMIT_GB else 1


if __name__ == "__main__":
    sys.exit(main())
