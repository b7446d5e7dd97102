"""Training on a GPU: steps a second, waiting for data, how busy the card is, share of its matrix peak, peak memory.

    python benchmarks/train_gpu.py [--nnunet-python PYTHON] [--page docs/benchmarks.md]
    python benchmarks/train_gpu.py --small          the same road on a CPU with tiny sizes, to see that it works

nnU-Net's plan for patches of 128^3 (32 to 320 features, deep supervision), batch 2, 250 steps over 8 synthetic cases.
Three loops in one run on one card, each in a process of its own: medseg's with nnU-Net's recipe; MONAI's plain loop
(its DynUNet, cache, crops, augmentation by worker processes, automatic mixed precision); and, with a Python that has
nnunetv2 (2.8), nnU-Net's trainer, its step alone on a batch that is there (no loading, no augmentation). The peak is
that of a bf16 matrix product of 8192 x 8192, measured before. Prints one JSON line; --page writes the table, or that
no GPU was at hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HEAD = "## Training on a GPU"
NONE = "No GPU was at hand: nothing is measured here."
WARM_UP = 0.1
"""Share of the steps that are not counted: kernels are chosen, memory is reserved."""


@dataclass(frozen=True)
class Sizes:
    """What is trained: patch edge, features, batch, steps, and edge and number of the synthetic cases."""

    patch: int = 128
    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    batch: int = 2
    steps: int = 250
    case: int = 192
    cases: int = 8
    workers: int = 8
    matrix: int = 8192


SMALL = Sizes(16, (4, 8, 8), 2, 10, 24, 3, 0, 256)


def synthetic(sizes: Sizes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(1, n, n, n) float16 and (n, n, n) uint8: two balls in noise."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[-1 : 1 : sizes.case * 1j, -1 : 1 : sizes.case * 1j, -1 : 1 : sizes.case * 1j]
    target = np.zeros((sizes.case,) * 3, np.uint8)
    for value in (1, 2):
        centre = rng.uniform(-0.5, 0.5, 3)
        target[sum((a - c) ** 2 for a, c in zip(axes, centre)) < 0.16] = value
    noise = rng.standard_normal(target.shape, dtype=np.float32)
    return (target + 0.5 * noise).astype(np.float16)[None], target


@dataclass
class Case:
    """A prepared case in memory."""

    image: np.ndarray
    target: np.ndarray
    known: None = None
    foreground: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        for position, value in enumerate((1, 2)):
            found = np.argwhere(self.target == value)
            self.foreground[position] = found[rng.integers(len(found), size=min(1000, len(found)))]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    def read_image(self, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        return self.image[(slice(None), *(slice(a, b) for a, b in zip(low, high)))]

    def read_target(self, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        return self.target[tuple(slice(a, b) for a, b in zip(low, high))]


class Steps:
    """Times at which steps began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds_per_step(self) -> float:
        """Mean without the warm-up."""
        kept = self.times[int(len(self.times) * WARM_UP) :]
        return (kept[-1] - kept[0]) / max(1, len(kept) - 1)


@contextmanager
def watched(device: str) -> Iterator[dict[str, Any]]:
    """Fills in gpu_busy_percent and peak_memory_gb of what happens inside."""
    import resource

    import torch

    facts: dict[str, Any] = {"gpu_busy_percent": None}
    busy: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            said = subprocess.run(
                ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"],
                capture_output=True, text=True, check=False,
            ).stdout.strip()  # fmt: skip
            if said.isdigit():
                busy.append(float(said))

    thread = threading.Thread(target=look, daemon=True)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        thread.start()
    yield facts
    over.set()
    if device == "cuda":
        thread.join()
        facts["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        kept = busy[int(len(busy) * WARM_UP) :]
        facts["gpu_busy_percent"] = round(float(np.mean(kept)), 1) if kept else None
    else:
        facts["peak_memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def topology(sizes: Sizes) -> dict[str, Any]:
    stages = len(sizes.features)
    return {
        "features_per_stage": list(sizes.features),
        "strides": [[1] * 3] + [[2] * 3] * (stages - 1),
        "kernel_sizes": [[3] * 3] * stages,
    }


def train_ours(sizes: Sizes, device: str, work: Path) -> dict[str, Any]:
    """medseg's loop with nnU-Net's recipe."""
    from medseg.config import IntensityPlan, Plan, System, Train
    from medseg.config_file import load_pipeline
    from medseg.core.run import RunFolder
    from medseg.core.segmentation import ClassInfo
    from medseg.ingest.augment.build import build_augmenter
    from medseg.train.job import Job
    from medseg.train.loop import train
    from medseg.zoo.build import build

    recipe = load_pipeline(Path(__file__).parents[1] / "configs" / "bench" / "hippocampus_nnunet.yaml").train
    changes = {
        "steps": sizes.steps,
        "minutes": None,
        "batch_size": sizes.batch,
        "patch_size": [sizes.patch] * 3,
    }
    settings = Train.model_validate({**recipe.model_dump(), **changes, "rate_every": 250})
    named = [ClassInfo(n, k, (200, 30 * k, 30)).as_json() for k, n in ((1, "one"), (2, "two"))]
    plan = Plan(
        dims=3, in_channels=1, classes=named, out_channels=3, intensity=[IntensityPlan(scheme="none")],
        patch_size=[sizes.patch] * 3, batch_size=sizes.batch, mirror_axes=[0, 1, 2],
    )  # fmt: skip
    cases = {f"case_{k}": Case(*synthetic(sizes, k)) for k in range(sizes.cases)}
    job = Job(System(name="nnunet-plain"), settings, plan, cases, {}, RunFolder(work / "ours"), device=device)
    net = build("nnunet-plain", dims=3, in_channels=1, classes=3, deep_supervision=True, **topology(sizes))
    augment, steps = build_augmenter(settings.augment, plan), Steps()

    def timed(images: Any, targets: Any, rng: Any) -> Any:
        steps.note()
        return augment(images, targets, rng)

    shutil.rmtree(job.folder.path, ignore_errors=True)  # a checkpoint of an earlier run would be gone on with
    with watched(device) as facts:
        trained = train(net, job, timed)
    return {
        "seconds_per_step": steps.seconds_per_step,
        "data_wait_percent": trained.data_wait_percent,
        "precision": trained.precision.name,
        **facts,
    }


def train_monai(sizes: Sizes, device: str, work: Path) -> dict[str, Any]:
    """The loop of MONAI's tutorials: cached cases, dictionary transforms in worker processes, mixed precision."""
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet

    rows = []
    for k in range(sizes.cases):
        image, target = synthetic(sizes, k)
        rows.append({"image": image.astype(np.float32), "label": target[None]})
    data = CacheDataset(rows, monai_transforms(sizes), progress=False)
    loader = DataLoader(
        data, batch_size=1, shuffle=True, num_workers=sizes.workers, pin_memory=device == "cuda"
    )
    count = len(sizes.features)
    net = DynUNet(
        3, 1, 3, [3] * count, [1] + [2] * (count - 1), [2] * (count - 1), filters=list(sizes.features)
    ).to(device)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.SGD(net.parameters(), 0.01, momentum=0.99, nesterov=True)
    steps, waited, done = Steps(), 0.0, 0
    with watched(device) as facts:
        while done < sizes.steps:
            before = time.perf_counter()
            for batch in loader:
                waited += time.perf_counter() - before
                steps.note()
                images, labels = batch["image"].to(device), batch["label"].to(device)
                with torch.autocast(device, torch.bfloat16):
                    loss = loss_of(net(images), labels)
                loss.backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                float(loss.detach())
                done, before = done + 1, time.perf_counter()
                if done >= sizes.steps:
                    break
    total = steps.times[-1] - steps.times[0]
    return {
        "seconds_per_step": steps.seconds_per_step,
        "data_wait_percent": round(100 * waited / max(total + waited, 1e-9), 1),
        "precision": "bf16",
        **facts,
    }


def monai_transforms(sizes: Sizes) -> Any:
    """Crops with half of them on a class, and changes like those of nnU-Net's recipe."""
    from monai import transforms as t

    both, patch = ["image", "label"], [sizes.patch] * 3
    return t.Compose([
        t.RandCropByPosNegLabeld(both, "label", patch, num_samples=sizes.batch),
        t.RandAffined(both, prob=0.36, rotate_range=[0.52] * 3, scale_range=[0.3] * 3, mode=("bilinear", "nearest")),
        t.RandGaussianNoised("image", prob=0.1, std=0.1),
        t.RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
        t.RandScaleIntensityd("image", prob=0.15, factors=0.25),
        t.RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        *(t.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
    ])  # fmt: skip


def train_nnunet(sizes: Sizes, device: str, work: Path, python: Path) -> dict[str, Any]:
    """nnU-Net's trainer in the Python that has it."""
    script = Path(__file__).with_name("train_gpu_nnunet.py")
    said = {"sizes": vars(sizes), "device": device, "topology": topology(sizes)}
    done = subprocess.run(
        [str(python), str(script), str(work / "nnunet"), json.dumps(said)], stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def matrix_peak(sizes: Sizes, device: str) -> float:
    """Operations a second of a square bf16 matrix product, the best of ten."""
    import torch

    a = torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * sizes.matrix**3 / best


def step_flops(sizes: Sizes) -> float:
    """Operations of the convolutions of one step, forward and backward."""
    import torch

    from medseg.plan.cost import EDGES, count_network
    from medseg.zoo.build import build

    with torch.device("meta"):
        net = build(
            "nnunet-plain", dims=3, in_channels=1, classes=3, deep_supervision=True, **topology(sizes)
        )
        return count_network(net, 1, 3, "meta", EDGES[3]).step_flops(sizes.patch**3 * sizes.batch)


LOOPS = {"medseg": train_ours, "MONAI's plain loop": train_monai}


def measure(name: str, sizes: Sizes, device: str, work: Path) -> dict[str, Any]:
    """One loop in a process of its own, so that peak memory and chosen kernels are its own."""
    said = json.dumps({"loop": name, "sizes": vars(sizes), "device": device})
    done = subprocess.run(
        [sys.executable, __file__, "--one", said, "--work", str(work)], stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All loops on the device at hand."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = SMALL if options.small else Sizes()
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    peak, flops = matrix_peak(sizes, device), step_flops(sizes)
    found = {name: measure(name, sizes, device, options.work) for name in LOOPS}
    if options.nnunet_python:
        found["nnU-Net's trainer, its step alone"] = train_nnunet(
            sizes, device, options.work, options.nnunet_python
        )
    for row in found.values():
        row["steps_per_second"] = round(1 / row["seconds_per_step"], 3)
        row["matrix_peak_percent"] = round(100 * flops / row["seconds_per_step"] / peak, 1)
    return {
        "card": card, "torch": torch.__version__, "peak_tflops": round(peak / 1e12, 1),
        "step_gflop": round(flops / 1e9, 1), "sizes": vars(sizes), "loops": found,
    }  # fmt: skip


def section(facts: dict[str, Any] | None) -> str:
    """The table, or that there is none."""
    command = "```\npython benchmarks/train_gpu.py --nnunet-python PYTHON\n```\n"
    if facts is None:
        return f"{command}\n{NONE}\n"
    sizes = facts["sizes"]
    rows = [
        f"{facts['card']}, torch {facts['torch']}: {facts['peak_tflops']} TFLOP/s in a bf16 matrix product. Patches of "
        f"{sizes['patch']}^3,\nbatch {sizes['batch']}, {sizes['steps']} steps, {facts['step_gflop']} GFLOP a step.\n",
        "| loop | steps/s | waiting for data | GPU busy | share of the matrix peak | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in facts["loops"].items():
        shown = [
            f"{row['steps_per_second']:.2f}",
            "none loaded" if row["data_wait_percent"] is None else f"{row['data_wait_percent']:.1f} %",
            "-" if row["gpu_busy_percent"] is None else f"{row['gpu_busy_percent']:.0f} %",
            f"{row['matrix_peak_percent']:.1f} %",
            f"{row['peak_memory_gb']:.1f} GB",
        ]
        rows.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join([command, *rows]) + "\n"


def write_section(page: Path, text: str) -> None:
    """Puts the section into the page, in place of the one that is there."""
    old = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    before, _, rest = old.partition(f"{HEAD}\n")
    after = rest.partition("\n## ")[2] if rest else ""
    tail = f"\n## {after}" if after else ""
    page.write_text(f"{before.rstrip()}\n\n{HEAD}\n\n{text}{tail}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes, also without a GPU")
    parser.add_argument("--nnunet-python", type=Path, help="a Python with nnunetv2")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    parser.add_argument("--work", type=Path, default=Path("runs/train-gpu"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        said = json.loads(options.one)
        sizes = Sizes(**{**said["sizes"], "features": tuple(said["sizes"]["features"])})
        print(json.dumps(LOOPS[said["loop"]](sizes, said["device"], options.work)))
        return
    import torch

    if not torch.cuda.is_available() and not options.small:
        print(NONE)
        if options.page:
            write_section(options.page, section(None))
        return
    facts = compare(options)
    print(json.dumps(facts))
    if options.page:
        write_section(options.page, section(facts))


if __name__ == "__main__":
    main()
