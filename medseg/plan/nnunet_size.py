"""nnU-Net's patch and batch size for one grid: the largest patch whose network fits a memory target.

Isensee et al. 2021, doi:10.1038/s41592-020-01008-z; residual planners: Isensee et al. 2024, arXiv:2404.09556. The size of
a network is counted in output elements of all its convolutions for one sample, in closed form, so nothing is built.
Axes are in the order of the caller; ties go as in nnU-Net, whose axes are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.plan.topology import Topology, plan_topology

FIRST_PATCH = {2: 2048.0**2, 3: 256.0**3}
"""Voxels of the patch that is tried first, before it is cut to the median image."""

MOST_FEATURES = {2: 512, 3: 320}
LEAST_BATCH = 2


@dataclass(frozen=True)
class Planner:
    """One of nnU-Net's planners.

    reference: dims -> elements that fit `reference_gb`; batch: dims -> patches at that reference.
    blocks: encoder convolutions or blocks a stage (the last one is repeated); convs: of a decoder stage.
    whole_batch: the size must fit at the reference batch (residual planners), not at two samples.
    covered: largest share of the data set in a batch.
    """

    name: str
    network: str
    reference: dict[int, float]
    reference_gb: float
    blocks: tuple[int, ...]
    convs: int
    whole_batch: bool
    covered: float

    @property
    def residual(self) -> bool:
        """Whether the encoder is made of residual blocks."""
        return self.network == "ResidualEncoderUNet"


REFERENCE_BATCH = {2: 12, 3: 2}
_RESIDUAL = ("ResidualEncoderUNet", (1, 3, 4, 6), 1)


def _residual(name: str, flat: float, volume: float, gigabytes: float, covered: float) -> Planner:
    network, blocks, convs = _RESIDUAL
    return Planner(name, network, {2: flat, 3: volume}, gigabytes, blocks, convs, True, covered)


PLANNERS = {
    "nnunet": Planner("nnUNetPlans", "PlainConvUNet", {2: 85e6, 3: 560e6}, 8, (2,), 2, False, 0.05),
    "nnunet-resenc-old": _residual("nnUNetResEncUNetPlans", 135e6, 680e6, 8, 0.05),
    "nnunet-resenc-m": _residual("nnUNetResEncUNetMPlans", 135e6, 680e6, 8, 1.0),
    "nnunet-resenc-l": _residual("nnUNetResEncUNetLPlans", 380e6, 2100e6, 24, 1.0),
    "nnunet-resenc-xl": _residual("nnUNetResEncUNetXLPlans", 560e6, 3600e6, 40, 1.0),
}
"""Name -> planner. The old residual planner is the one before the presets M, L and XL."""


@dataclass(frozen=True)
class Sized:
    """A patch with its network: topology (its `patch` is the padded patch), size in elements, batch size."""

    topology: Topology
    features: tuple[int, ...]
    blocks: tuple[int, ...]
    convs: tuple[int, ...]
    elements: int
    batch: int


def size_patch(
    spacing: Sequence[float],
    median_shape: Sequence[float],
    dataset_voxels: float,
    classes: int,
    planner: Planner,
    memory_gb: float,
) -> Sized:
    """Patch, topology and batch for a grid.

    spacing: per axis. median_shape: of the resampled images in voxels (halves occur). dataset_voxels: median voxels
    times number of cases. classes: entries of the label table, background, ignore and regions included.
    """
    dims = len(spacing)
    reference = planner.reference[dims] * memory_gb / planner.reference_gb
    batch0 = REFERENCE_BATCH[dims]
    topology = plan_topology(spacing, first_patch(spacing, median_shape))
    elements = count_elements(topology, classes, planner)
    while (elements if planner.whole_batch else elements / batch0 * LEAST_BATCH) > reference:
        patch = _smaller(topology, spacing, median_shape)
        topology = plan_topology(spacing, patch)
        elements = count_elements(topology, classes, planner)
    most = round(dataset_voxels * planner.covered / float(np.prod(topology.patch, dtype=np.float64)))
    batch = max(min(round(reference / elements * batch0), most), LEAST_BATCH)
    stages = topology.stages
    return Sized(
        topology,
        _features(stages, dims),
        _blocks(stages, planner),
        (planner.convs,) * (stages - 1),
        elements,
        batch,
    )


def first_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> list[float]:
    """Equal edges in mm, cut to the median image."""
    density = 1 / np.asarray(spacing, dtype=np.float64)
    dims = len(density)
    edges = density * (FIRST_PATCH[dims] / np.prod(density)) ** (1 / dims)
    return [min(round(float(edge)), float(n)) for edge, n in zip(edges, median_shape)]


def _smaller(topology: Topology, spacing: Sequence[float], median_shape: Sequence[float]) -> list[int]:
    """The patch with one step less along the axis that covers most of the image."""
    patch = list(topology.patch)
    axis = max(range(len(patch)), key=lambda a: (patch[a] / median_shape[a], a))
    trial = list(patch)
    trial[axis] -= topology.divisor[axis]
    # The trial only tells the step: the patch is reduced from its untrimmed size.
    patch[axis] -= plan_topology(spacing, trial).divisor[axis]
    return patch


def count_elements(topology: Topology, classes: int, planner: Planner) -> int:
    """Output elements of all convolutions of the planned network for one sample, deep supervision off."""
    dims, stages = len(topology.patch), topology.stages
    features, blocks = _features(stages, dims), _blocks(stages, planner)
    size = [int(n) for n in topology.patch]
    voxels = []
    for stride in topology.strides:
        size = [n // s for n, s in zip(size, stride)]
        voxels.append(int(np.prod(size, dtype=np.int64)))
    total = _encoder_elements(topology, features, blocks, voxels, planner)
    for level in range(stages - 1):
        total += (planner.convs + 1) * features[level] * voxels[level]
    # A head belongs to a decoder level; a network of one stage has none.
    return total + (classes * voxels[0] if stages > 1 else 0)


def _encoder_elements(
    topology: Topology,
    features: Sequence[int],
    blocks: Sequence[int],
    voxels: Sequence[int],
    planner: Planner,
) -> int:
    if not planner.residual:
        return sum(b * f * v for b, f, v in zip(blocks, features, voxels))
    total = features[0] * voxels[0]
    before = features[0]
    for stride, wide, count, n in zip(topology.strides, features, blocks, voxels):
        projected = wide != before or any(s != 1 for s in stride)
        total += (2 * count + projected) * wide * n
        before = wide
    return total


def _features(stages: int, dims: int) -> tuple[int, ...]:
    return tuple(min(MOST_FEATURES[dims], 32 * 2**s) for s in range(stages))


def _blocks(stages: int, planner: Planner) -> tuple[int, ...]:
    return (planner.blocks + (planner.blocks[-1],) * stages)[:stages]
