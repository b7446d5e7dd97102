"""Seconds and memory to write many labels as DICOM, each file read back and compared: python benchmarks/dicom_write.py.

Blobs of 117 classes on a phantom series of 512x512x400 pictures; smaller with --slices and --classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg.core.geometry import Geometry
from medseg.core.machine import watch_memory
from medseg.core.segmentation import ClassInfo, Segmentation, default_colour
from medseg.io.dicom.read import read_series
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import write_ct_series


def blobs(shape: tuple[int, int, int], classes: int) -> np.ndarray:
    """Ellipsoids of the size of organs, as many as there are classes, in every part of the volume."""
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    for number in range(1, classes + 1):
        radius = rng.integers(12, 45, 3) * np.minimum(1.0, np.array(shape) / 120)
        middle = rng.uniform(radius, np.array(shape) - radius)
        low = np.maximum(np.floor(middle - radius), 0).astype(int)
        high = np.minimum(np.ceil(middle + radius) + 1, shape).astype(int)
        axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high))]
        inside = sum(((axis - m) / r) ** 2 for axis, m, r in zip(axes, middle, radius)) < 1
        box = tuple(slice(a, b) for a, b in zip(low, high))
        labels[box][inside] = number
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=117)
    parser.add_argument("--slices", type=int, default=400)
    options = parser.parse_args()
    shape = (512, 512, options.slices)
    classes = tuple(ClassInfo(f"class {n}", n, default_colour(n)) for n in range(1, options.classes + 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = blobs(shape, options.classes)
        geometry = Geometry(shape, np.diag([-0.8, -0.8, 1.0, 1.0]))
        files = write_ct_series(labels.astype(np.int16), geometry, folder / "series")
        seg = Segmentation(labels, read_series(files).geometry, classes)
        print("| what | wall s | CPU s | peak MB | file MB |\n|---|---|---|---|---|")
        for kind in ("BINARY", "LABELMAP", "RTSTRUCT"):
            start, cpu = time.perf_counter(), time.process_time()
            with watch_memory() as trace:
                if kind == "RTSTRUCT":
                    path = write_rtstruct(seg, files, folder / "out.dcm")
                else:
                    path = write_seg(seg, files, folder / "out.dcm", kind=kind)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            size = path.stat().st_size / 1e6
            print(
                f"| {kind} | {wall:.1f} | {cpu:.1f} | {trace.peak_bytes / 1e6:.0f} | {size:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
