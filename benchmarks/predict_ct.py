"""Whole prediction of one large CT: CPU and wall seconds part by part, and peak memory beside the announced one.

    python benchmarks/predict_ct.py [--classes 25] [--slices 400] [--engine torch] [--precision auto] [--threads 1]
    python benchmarks/predict_ct.py --peer PYTHON [--peer-resampling default torch] [--runs torch:auto torch:fp32]
    python benchmarks/predict_ct.py --peer PYTHON --all-rows [--keep FOLDER]

A synthetic 512 x 512 x 400 CT of int16 at 0.8 x 0.8 x 1.0 mm (smaller with --slices and --side); network grid 1.5 mm,
windows of 128, a plain U-Net of 16..128 features with random weights, no mirroring, no files.
`--network cheap` takes two small convolutions instead, so that everything around the network can be measured in a
minute. Prints one JSON line.

`--peer` names a Python that has nnunetv2 (2.8): its whole prediction of the same CT runs first, in a process of its own
(`predict_ct_nnunet.py`), once for each of its ways to resample logits; medseg then takes its weights and runs once for
each ENGINE:PRECISION of --runs. Windows of 128 overlap by at least one half, as the peer's do; ENGINE:PRECISION@OVERLAP
takes fewer of them, ENGINE:PRECISION/SIZE larger ones, which overlap by one half as well (`predict.window`). Half precision moves the labels of random weights, which lie close together, by more than a prediction
allows, so it is only timed with `--gate 0`. Each is a JSON line; a table with the ratios ends the output.
`--keep FOLDER` holds the peer's half, which is not run again when it lies there already. `--all-rows` takes both of the
peer's ways, ours in float32, bf16 and OpenVINO's bf16 (with fewer windows, too) without the gate, and ours with 104
classes; a row that fails, e.g. for want of memory, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

FEATURES = [16, 32, 64, 128, 128]
SPACING_ZYX = (1.0, 0.8, 0.8)
PATCH = [128, 128, 128]
ALL_RUNS = ("torch:fp32", "torch:bf16", "openvino:bf16", "openvino:bf16@0.4")
MANY_CLASSES = 104
HU = {"low": -900.0, "high": 900.0, "mean": 100.0, "sd": 120.0}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_gb() -> float:
    """Most resident memory of this process; not ru_maxrss, which begins with that of the process before it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def synthetic_ct(slices: int, side: int = 512) -> Any:
    """(z, y, x) int16: an elliptic body of 40 HU in air, noise of 20 HU."""
    import numpy as np

    rng = np.random.default_rng(0)
    y, x = np.ogrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    body = np.where((y / 0.7) ** 2 + (x / 0.9) ** 2 < 1, 40, -1000)
    out = np.empty((slices, side, side), np.int16)
    for plane in out:
        plane[...] = body + rng.standard_normal((side, side), dtype=np.float32) * 20
    return out


class Clock:
    """CPU and wall seconds of named parts."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}

    def add(self, name: str, cpu: float, wall: float) -> None:
        part = self.parts.setdefault(name, {"cpu_s": 0.0, "wall_s": 0.0})
        part["cpu_s"] = round(part["cpu_s"] + cpu, 2)
        part["wall_s"] = round(part["wall_s"] + wall, 2)

    def timed(self, name: str, call: Any, *args: Any) -> Any:
        cpu, wall = cpu_seconds(), time.time()
        got = call(*args)
        self.add(name, cpu_seconds() - cpu, time.time() - wall)
        return got


def cheap(classes: int) -> Any:
    """A network that costs next to nothing."""
    import torch

    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, classes, 1)
    ).eval()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The parts are prepare, windows (the network alone) and way back (blending, resampling, labels)."""
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    from medseg.config import IntensityPlan, Plan, Predict, System
    from medseg.core.case import Image
    from medseg.core.geometry import Geometry
    from medseg.core.segmentation import ClassInfo, default_colour
    from medseg.ingest.prepare import prepare_image
    from medseg.model.folder import Model
    from medseg.predict.case import Predictor
    from medseg.predict.engines import choose
    from medseg.predict.engines.eager import Eager
    from medseg.predict.memory import engine_bytes, estimate, held_bytes, window_bytes
    from medseg.zoo.build import build

    choose.PARITY = args.gate
    torch.manual_seed(0)
    net = cheap(args.classes) if args.network == "cheap" else build("nnunet-plain", dims=3, in_channels=1, classes=args.classes, features_per_stage=FEATURES, strides=[1, 2, 2, 2, 2],
                kernel_sizes=[3] * 5, blocks_per_stage=[2] * 5, decoder_convs=[2] * 4, deep_supervision=False).eval()  # fmt: skip
    classes = tuple(ClassInfo(f"class {n}", n, default_colour(n)) for n in range(1, args.classes))
    scheme = IntensityPlan(scheme="ct", low=HU["low"], high=HU["high"], shift=HU["mean"], scale=HU["sd"])
    plan = Plan(dims=3, in_channels=1, classes=[c.as_json() for c in classes], out_channels=args.classes,
                spacing_mm=[1.5] * 3, intensity=[scheme], image_order=3, patch_size=PATCH, batch_size=1)  # fmt: skip
    if args.weights is not None:
        take_peer_weights(net, args.weights)
    name = f"{args.network}-{args.classes}-{args.weights is not None}".encode().hex().ljust(64, "0")
    model = Model(net, None, plan, classes, System(name="nnunet-plain"), name, {})
    ct = synthetic_ct(args.slices, args.side).transpose(2, 1, 0)[None]
    image = Image(ct, Geometry.from_spacing(ct.shape[1:], SPACING_ZYX[::-1]))
    size = [args.window] * 3
    settings = Predict(precision=args.precision, engine=args.engine, overlap=args.overlap, window=size)
    predictor, clock = Predictor(model, settings), Clock()
    window = window_bytes(predictor.net, 1, size, args.classes) + engine_bytes(args.engine)
    need = estimate(image.geometry, 2, plan, predictor.cut, window, 1, predictor.summed)
    announced = (held_bytes() + need.total - need.image) / 1e9
    if args.ram and announced > args.ram:
        predictor.half_sums = True
        need = estimate(image.geometry, 2, plan, predictor.cut, window, 1, predictor.summed)
        announced = (held_bytes() + need.total - need.image) / 1e9
    plain = Eager.__call__
    Eager.__call__ = lambda self, windows: clock.timed("windows", plain, self, windows)  # type: ignore[method-assign]
    cpu, wall = cpu_seconds(), time.time()
    prepared = clock.timed("prepare", prepare_image, image, plan)
    labels, _ = predictor.segment_prepared(prepared)
    total = {"cpu_s": round(cpu_seconds() - cpu, 1), "wall_s": round(time.time() - wall, 1)}
    peak = peak_gb()
    windows = predictor.cut.count(prepared.geometry.shape)
    rest = {k: round(total[k] - sum(p[k] for p in clock.parts.values()), 1) for k in total}
    if args.peer_labels is not None:
        clock.parts["agreement"] = compare_labels(labels, args.peer_labels)
    return {"what": "medseg", **clock.parts, "way back": rest, "total": total, "peak_gb": round(peak, 2),
            "announced_gb": round(announced, 2), "engine": predictor.engine, "overlap": args.overlap, "count": windows, "window": args.window, "network_grid": prepared.geometry.shape,
            "labelled_voxels": int(np.count_nonzero(labels))}  # fmt: skip


def take_peer_weights(net: Any, path: Path) -> None:
    """nnU-Net's weights, its kernels turned from (z, y, x) to (x, y, z)."""
    from safetensors.torch import load_file

    from medseg.model.import_nnunet import Axes, translated

    net.load_state_dict(translated(load_file(str(path)), net, Axes((2, 1, 0), ()), str(path)))


def compare_labels(labels: Any, path: Path) -> dict[str, float]:
    """Share of voxels with nnU-Net's label; its array is (z, y, x)."""
    import numpy as np

    theirs = np.load(path).transpose(2, 1, 0)
    return {"equal_to_nnunet": float(np.mean(labels == theirs))}


def with_peer(args: argparse.Namespace) -> list[dict[str, Any]]:
    """nnU-Net's half, then ours on its weights, each in a process of its own, so that each has its own peak."""
    import sys

    here, folder = Path(__file__).resolve(), args.keep
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [part for name in ("classes", "slices", "side", "threads")
             for part in (f"--{name}", str(getattr(args, name)))]  # fmt: skip
    theirs, ours = [], []
    for way in args.peer_resampling:
        kept = folder / f"nnunet-{way}.json"
        if not kept.exists():
            command = [
                args.peer,
                str(here.with_name("predict_ct_nnunet.py")),
                str(folder),
                "--resampling",
                way,
            ]
            found = line_of([*command, *sizes], args.all_rows)
            if found is None:
                continue
            kept.write_text(json.dumps(found))
        theirs.append({**json.loads(kept.read_text()), "classes": args.classes})
    for run in args.runs:
        engine, _, rest = run.partition(":")
        rest, _, window = rest.partition("/")
        precision, _, overlap = rest.partition("@")
        command = [sys.executable, str(here), "--engine", engine, "--precision", precision, "--weights",
                   f"{folder}/weights.safetensors", "--peer-labels", f"{folder}/labels.npy",
                   "--gate", str(args.gate), "--overlap", overlap or "0.5", "--window", window or str(PATCH[0])]  # fmt: skip
        ours.append(line_of([*command, *sizes], args.all_rows))
    if args.all_rows:
        command = [sys.executable, str(here), "--precision", "bf16", "--gate", "0", *sizes]
        ours.append(line_of([*command, "--classes", str(MANY_CLASSES)], True))
    return [row for row in (*theirs, *ours) if row is not None]


def line_of(command: list[str], may_fail: bool = False) -> dict[str, Any] | None:
    """The JSON line that a process ends with; None where it failed and may."""
    import subprocess

    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=not may_fail)
    if done.returncode:
        print(f"left out, ended with {done.returncode}: {' '.join(command[1:])}", flush=True)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: CPU seconds of each part, and how many times faster than each of the peer's runs."""
    peers = [row for row in rows if "resampling" in row]
    heads = ["what", "prepare", "windows", "way back", "CPU s in all", "wall s", "peak GB", "announced"]
    heads += [f"x nnU-Net {row['resampling']}" for row in peers]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        name = (
            f"nnU-Net, {row['resampling']}"
            if "resampling" in row
            else f"medseg, {row['engine'].split(':')[0]}, {row['count']} windows of {row['window']}"
        )
        alike = row["classes"] == rows[0]["classes"]
        name += "" if alike else f", {row['classes']} classes"
        parts = [f"{row[part]['cpu_s']:.1f}" for part in ("prepare", "windows", "way back")]
        total = row["total"]
        ratios = [f"{peer['total']['cpu_s'] / total['cpu_s']:.2f}" if alike else "" for peer in peers]
        cells = [name, *parts, f"{total['cpu_s']:.1f}", f"{total['wall_s']:.1f}", f"{row['peak_gb']:.2f}",
                 f"{row['announced_gb']:.2f}" if "announced_gb" in row else "", *ratios]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    for name in ("torch", "numpy", "nnunetv2"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = cpu.read_text().splitlines()
        found["cpu"] = next((row.split(":")[1].strip() for row in lines if row.startswith("model name")), "")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=25)
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "int8"])
    parser.add_argument(
        "--engine", default="torch", choices=["auto", "torch", "compile", "onnxruntime", "openvino"]
    )
    parser.add_argument(
        "--overlap", type=float, default=0.5, help="share of a window that its neighbour sees"
    )
    parser.add_argument("--window", type=int, default=PATCH[0], help="edge of a window in voxels")
    parser.add_argument("--peer", help="a Python that has nnunetv2")
    parser.add_argument("--peer-resampling", nargs="+", default=["default"], choices=["default", "torch"])
    parser.add_argument(
        "--runs",
        nargs="*",
        default=["torch:auto", "torch:fp32"],
        metavar="ENGINE:PRECISION[@OVERLAP][/WINDOW]",
    )
    parser.add_argument("--all-rows", action="store_true", help="every row of docs/benchmarks.md in one go")
    parser.add_argument("--keep", type=Path, help="folder of the peer's half; else a temporary one")
    parser.add_argument(
        "--gate", type=float, default=0.999, metavar="DICE", help="what half precision has to reach"
    )
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer-labels", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--network", default="paper", choices=["paper", "cheap"])
    parser.add_argument(
        "--ram", type=float, help="GB that may be used; below the need, sums are kept in float16"
    )
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.all_rows:
        args.peer_resampling, args.runs, args.gate = ["default", "torch"], list(ALL_RUNS), 0.0
    if args.peer:
        with tempfile.TemporaryDirectory() as folder:
            args.keep = args.keep or Path(folder)
            print(table(with_peer(args)))
        return
    print(
        json.dumps({**measure(args), "classes": args.classes, "threads": args.threads, "machine": describe()})
    )


if __name__ == "__main__":
    main()
