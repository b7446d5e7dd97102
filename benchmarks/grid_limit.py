"""How well a perfect network could score on a grid: labels put on it and back, as Dice on the held-out cases.

On the way back borders follow the image's edges where the run's plan says so (predict.guided_filter).

python benchmarks/grid_limit.py RUN 4,4,4 3,3,5 ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from medseg.config import Pipeline, Plan
from medseg.config_file import load_pipeline
from medseg.config_plan import load_plan
from medseg.core.geometry import reorient_array
from medseg.core.run import RunFolder
from medseg.data.cohort import cases_of, load_cohort, open_case
from medseg.ingest.prepare import prepare_image, prepare_target
from medseg.predict.guided_filter import follow_edges


def limits(run: RunFolder, plan: Plan, pipeline: Pipeline) -> list[float]:
    """Dice of the union of all classes, case by case."""
    cohort = load_cohort(run)
    found = []
    for row in cases_of(cohort, "holdout"):
        case = open_case(row, pipeline.data, cohort.classes)
        image, label = case.image(), case.label()
        target = prepare_target(label, prepare_image(image, plan), plan)
        _, order, flips = image.geometry.reoriented()
        truth = reorient_array(label.labels, order, flips) > 0
        shares = np.stack([target == k for k in range(plan.out_channels)]).astype(np.float32)
        wide = interpolate(torch.from_numpy(shares)[None], size=truth.shape, mode="trilinear")[0]
        back = wide.argmax(0).numpy().astype(np.uint8)
        if plan.guided_filter is not None:
            channels = np.stack([reorient_array(channel, order, flips) for channel in image.array])
            spacing = [image.geometry.spacing[axis] for axis in order]
            follow_edges(back, None, channels, spacing, plan.guided_filter, plan.intensity)
        mask = back > 0
        found.append(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())))
    return found


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    run = RunFolder(Path(sys.argv[1]))
    pipeline, plan = load_pipeline(run.pipeline_file), load_plan(run.plan)
    print("grid mm        mean Dice   case by case")
    for text in sys.argv[2:]:
        spacing = [float(s) for s in text.split(",")]
        values = limits(run, plan.model_copy(update={"spacing_mm": spacing, "crop": "none"}), pipeline)
        print(f"{text:<14} {np.mean(values):.4f}      {' '.join(f'{v:.4f}' for v in values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
