"""What a network has to beat: the most frequent class, and each voxel judged by its intensity alone.

Both are predicted, written and scored like any network. Neither sees a neighbour of a voxel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg.config import Plan
from medseg.core.errors import UserError

MAJORITY, INTENSITY = "baseline-majority", "baseline-intensity"
BASELINES = {
    MAJORITY: "the most frequent class everywhere",
    INTENSITY: "class by the intensity of the voxel alone",
}

CELLS = 4096
"""At most so many combinations of channel intensities are told apart."""

VOXELS_A_CASE = 40_000
IGNORED = 255
PRIORS = (0.0, 0.5, 1.0)
"""How much the frequency of a class counts; what gives the best Dice on the training voxels is taken."""


class VoxelTable(nn.Module):
    """(B, C, *S) -> logits (B, K, *S), looked up by the intensities of each voxel.

    edges: (C, bins - 1) ascending limits of the intensity bins. table: (bins^C, K) logits.
    """

    edges: Tensor
    table: Tensor

    def __init__(self, dims: int, edges: npt.NDArray[Any], table: npt.NDArray[Any]) -> None:
        super().__init__()
        self.divisor = (1,) * dims
        self.register_buffer("edges", torch.as_tensor(edges, dtype=torch.float32))
        self.register_buffer("table", torch.as_tensor(table, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        cell = torch.zeros_like(x[:, 0], dtype=torch.long)
        for channel, limits in enumerate(self.edges):
            cell = cell * (len(limits) + 1) + torch.bucketize(x[:, channel].contiguous(), limits)
        return self.table[cell].movedim(-1, 1)


def fit_baseline(name: str, cases: Mapping[str, Any], plan: Plan, seed: int) -> VoxelTable:
    """A baseline from prepared training cases; `name` is one of BASELINES."""
    if plan.overlapping:
        raise UserError("the baselines know one class a voxel, and these classes overlap", "data.classes")
    values, classes = sample_voxels(cases.values(), seed)
    counts = np.bincount(classes, minlength=plan.out_channels).astype(float)
    if name == MAJORITY:
        edges = np.zeros((plan.in_channels, 0))
        return VoxelTable(plan.dims, edges, np.log(counts + 1.0)[None])
    bins = max(2, round(CELLS ** (1 / plan.in_channels))) if plan.in_channels > 1 else 256
    edges = np.stack([np.quantile(v, np.linspace(0, 1, bins + 1)[1:-1]) for v in values.T])
    cell = cells_of(values, edges)
    joint = np.full((bins**plan.in_channels, plan.out_channels), 0.5)
    np.add.at(joint, (cell, classes), 1.0)
    likelihood, prior = np.log(joint / joint.sum(0)), np.log((counts + 1.0) / (counts + 1.0).sum())
    tables = [likelihood + weight * prior for weight in PRIORS]
    found = [mean_dice(table.argmax(1)[cell], classes, plan) for table in tables]
    return VoxelTable(plan.dims, edges, tables[int(np.argmax(found))])


def sample_voxels(cases: Iterable[Any], seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Intensities (N, C) and classes (N,) of voxels drawn evenly from all cases; ignored ones are left out."""
    rng = np.random.default_rng(seed)
    values, classes = [], []
    for case in cases:
        zeros = [0] * len(case.shape)
        target = np.asarray(case.read_target(zeros, case.shape)).reshape(-1)
        image = np.asarray(case.read_image(zeros, case.shape)).reshape(case.channels, -1)
        taken = np.flatnonzero(target != IGNORED)
        if len(taken) > VOXELS_A_CASE:
            taken = rng.choice(taken, VOXELS_A_CASE, replace=False)
        values.append(image[:, taken].T.astype(np.float32))
        classes.append(target[taken].astype(np.int64))
    return np.concatenate(values), np.concatenate(classes)


def cells_of(values: npt.NDArray[Any], edges: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The table row of each voxel (N, C)."""
    cell = np.zeros(len(values), np.int64)
    for channel, limits in enumerate(edges):
        cell = cell * (len(limits) + 1) + np.searchsorted(limits, values[:, channel], side="left")
    return cell


def mean_dice(found: npt.NDArray[Any], true: npt.NDArray[Any], plan: Plan) -> float:
    """Mean Dice over the classes, without background, on a sample of voxels."""
    scores = []
    for k in range(int(plan.background), plan.out_channels):
        size = int((found == k).sum() + (true == k).sum())
        scores.append(2.0 * float(((found == k) & (true == k)).sum()) / size if size else 1.0)
    return float(np.mean(scores))
