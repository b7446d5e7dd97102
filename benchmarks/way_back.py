"""CPU seconds of the way back alone: logits on the network's grid -> labels on the case's, beside resampling labels.

    python benchmarks/way_back.py [--classes 25] [--side 512] [--slices 400] [--blobs 12]

Logits of smooth blobs (`--blobs` of them along each axis, each of a random class) on a grid of 1.5 mm go back to a CT
of 0.8 x 0.8 x 1.0 mm. Beside it the label map of the same logits is resampled: by nearest voxel, by medseg's own linear
resampling of labels, and, with a Python that has nnunetv2 (2.8), by nnU-Net's. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

PLANES = 16


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = cpu_seconds()
    found = call()
    return cpu_seconds() - start, found


class Blobs:
    """Logits (K, planes, *rest) of a smooth random field, a few planes at a time."""

    def __init__(self, classes: int, shape: tuple[int, ...], blobs: int) -> None:
        import torch

        torch.manual_seed(0)
        self.coarse, self.shape = torch.randn(1, classes, blobs, blobs, blobs), shape

    def planes(self, start: int, stop: int) -> Any:
        """Linear along every axis, by hand along the first so that the whole field never exists."""
        import torch
        from torch.nn.functional import interpolate

        count = self.coarse.shape[2]
        place = (torch.arange(start, stop) + 0.5) * count / self.shape[0] - 0.5
        low = place.floor().clamp(0, count - 2).long()
        weight = (place - low).clamp(0, 1)[None, :, None, None]
        along = torch.lerp(self.coarse[0][:, low], self.coarse[0][:, low + 1], weight)
        flat = along.reshape(1, -1, *along.shape[2:])
        wide = interpolate(flat, self.shape[1:], mode="bilinear")
        return wide.reshape(along.shape[0], stop - start, *self.shape[1:])


def measure(classes: int, side: int, slices: int, blobs: int) -> dict[str, Any]:
    from medseg.config import IntensityPlan, Plan
    from medseg.core.geometry import Geometry
    from medseg.ingest import resample
    from medseg.ingest.prepare import PreparedImage
    from medseg.predict.planes import winners
    from medseg.predict.stream import Painter
    from medseg.predict.windows import Slab

    source = Geometry.from_spacing((side, side, slices), (0.8, 0.8, 1.0))
    grid = source.with_spacing((1.5, 1.5, 1.5))
    plan = Plan(dims=3, in_channels=1, classes=[], out_channels=classes, spacing_mm=[1.5] * 3, image_order=3,
                intensity=[IntensityPlan(scheme="none")], patch_size=[128] * 3, batch_size=1)  # fmt: skip
    empty = np.zeros((1, 1, 1, 1), np.float32)
    prepared = PreparedImage(empty, grid, source, (0, 1, 2), (), (0, 0, 0), source.shape)
    painter, field = Painter(prepared, plan, 0), Blobs(classes, grid.shape, blobs)
    coarse = np.empty(grid.shape, np.uint8)
    seconds = {"logits": 0.0}
    for start in range(0, grid.shape[0], PLANES):
        stop = min(start + PLANES, grid.shape[0])
        slab = Slab(0, start, stop, field.planes(start, stop))
        coarse[start:stop] = winners(slab.logits).numpy()
        seconds["logits"] += timed(lambda slab=slab: painter.take(slab))[0]
    labels, _ = painter.finish()
    sampling = resample.label_sampling(grid.spacing, source.spacing, 3)
    seconds["nearest"], _ = timed(lambda: resample._nearest(coarse, source.shape))
    seconds["labels"], ours = timed(lambda: resample.resample_labels(coarse, source.shape, sampling))
    if find_spec("nnunetv2"):
        seconds["labels_by_nnunet"] = by_nnunet(coarse, source.shape)
    return {"cpu_s": {name: round(value, 2) for name, value in seconds.items()},
            "labels_differ": round(float(np.mean(ours != labels)), 5), "network_grid": grid.shape}  # fmt: skip


def by_nnunet(coarse: np.ndarray, shape: tuple[int, ...]) -> float:
    """nnU-Net's linear resampling of a label map."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as bring

    spacings = (1.5, 1.5, 1.5), (0.8, 0.8, 1.0)
    return timed(lambda: bring(coarse[None], shape, *spacings, is_seg=True, order=1, order_z=0))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, usual in (("classes", 25), ("side", 512), ("slices", 400), ("blobs", 12), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    found = measure(args.classes, args.side, args.slices, args.blobs)
    print(json.dumps({**found, "classes": args.classes, "threads": args.threads, "torch": torch.__version__,
                      "numpy": np.__version__, "python": platform.python_version()}))  # fmt: skip


if __name__ == "__main__":
    main()
