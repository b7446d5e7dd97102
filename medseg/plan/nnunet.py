"""nnU-Net's whole plan of a data set: 2d, 3d_fullres, and the low-resolution cascade where images are large.

The rules are those of nnU-Net v2 (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) as its package applies them;
the test compares 1,226 configurations of 56 data sets. Axis order here is nnU-Net's: (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean
from medseg.plan.nnunet_size import PLANNERS, Planner, size_patch

Vector = npt.NDArray[np.float64]

LOWRES_BELOW = 0.25
"""A cascade is planned where a full-resolution patch covers less than this share of the median image."""

COARSER = 1.03
MASK_BELOW = 0.75

SCHEMES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
"""Channel name (lower case) -> normalisation; every other name is a z-score."""


def plan_nnunet(
    fingerprint: Mapping[str, Any], planner: str = "nnunet", memory_gb: float = 8
) -> dict[str, Any]:
    """The plan nnU-Net makes.

    fingerprint: shapes_after_crop, spacings (one row a case), channel_names, labels, numTraining,
    median_relative_size_after_cropping. planner: a name of PLANNERS. memory_gb: target memory of the GPU.
    Returns original_median_spacing_after_transp, original_median_shape_after_transp, transpose_forward,
    transpose_backward and configurations (2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres).
    """
    if planner not in PLANNERS:
        raise UserError(
            f"no planner {planner!r}{did_you_mean(planner, PLANNERS)}",
            hint=f"there are {', '.join(PLANNERS)}",
        )
    spacings = np.asarray(fingerprint["spacings"], dtype=np.float64)
    shapes = np.asarray(fingerprint["shapes_after_crop"], dtype=np.float64)
    target = target_spacing(spacings, shapes)
    first = int(np.argmax(target))
    forward = [first, *(axis for axis in range(3) if axis != first)]
    median = np.median(resampled_shape(shapes, spacings, target), axis=0)[forward]
    task = _Task(fingerprint, PLANNERS[planner], memory_gb)
    return {
        "original_median_spacing_after_transp": np.median(spacings, axis=0)[forward].tolist(),
        "original_median_shape_after_transp": [round(float(n)) for n in np.median(shapes, axis=0)[forward]],
        "transpose_forward": forward,
        "transpose_backward": [int(n) for n in np.argsort(forward)],
        "configurations": _configurations(task, target[forward], median),
    }


def target_spacing(spacings: Vector, shapes: Vector) -> Vector:
    """Median per axis; on a coarse axis with few slices its 10th percentile, but never finer than the other axes."""
    target, shape = np.median(spacings, axis=0), np.median(shapes, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != worst]
    if target[worst] > 3 * target[others].max() and shape[worst] * 3 < shape[others].min():
        tenth = float(np.percentile(spacings[:, worst], 10))
        largest = float(target[others].max())
        target[worst] = tenth if tenth >= largest else largest + 1e-5
    return target


def resampled_shape(shapes: Vector, spacings: Vector, target: Vector) -> Vector:
    """Voxels after resampling, one row a case, halves rounded to even."""
    return np.rint(spacings / target * shapes)


class _Task:
    """What stays the same for all configurations of a data set."""

    def __init__(self, fingerprint: Mapping[str, Any], planner: Planner, memory_gb: float) -> None:
        self.planner, self.memory_gb = planner, memory_gb
        self.cases = int(fingerprint["numTraining"])
        self.classes = len(fingerprint["labels"])
        names = [str(name).lower() for name in fingerprint["channel_names"].values()]
        self.schemes = [SCHEMES.get(name, "ZScoreNormalization") for name in names]
        cropped = fingerprint["median_relative_size_after_cropping"] < MASK_BELOW
        self.masks = [cropped and scheme == "ZScoreNormalization" for scheme in self.schemes]

    def configuration(
        self, spacing: Vector, median: Sequence[float], voxels: float, name: str, batch_dice: bool
    ) -> dict[str, Any]:
        """One configuration. median: image shape it is planned for. voxels: of the median image, for the batch."""
        sized = size_patch(spacing, median, voxels * self.cases, self.classes, self.planner, self.memory_gb)
        # Residual plans share the prepared data of the standard ones wherever the grid is the same.
        plans = self.planner.name if name == "3d_lowres" else "nnUNetPlans"
        return {
            "batch_size": sized.batch,
            "patch_size": list(sized.topology.patch),
            "spacing": [float(s) for s in spacing],
            "median_image_size_in_voxels": list(median),
            "normalization_schemes": self.schemes,
            "use_mask_for_norm": self.masks,
            "batch_dice": batch_dice,
            "network": self.planner.network,
            "n_stages": sized.topology.stages,
            "features_per_stage": list(sized.features),
            "kernel_sizes": [list(k) for k in sized.topology.kernels],
            "strides": [list(s) for s in sized.topology.strides],
            "blocks_encoder": list(sized.blocks),
            "convs_decoder": list(sized.convs),
            "data_identifier": f"{plans}_{name}",
            "feature_map_estimate": sized.elements,
        }


def _configurations(task: _Task, spacing: Vector, median: Vector) -> dict[str, Any]:
    voxels = float(np.prod(median))
    out = {"2d": task.configuration(spacing[1:], median[1:].tolist(), voxels, "2d", True)}
    if median[0] == 1:
        return out  # flat images
    full = task.configuration(spacing, median.tolist(), voxels, "3d_fullres", False)
    low = _low_resolution(task, full, spacing, median)
    if low is not None:
        full["batch_dice"] = True
        out["3d_lowres"] = {**low, "next_stage": "3d_cascade_fullres"}
    out["3d_fullres"] = full
    if low is not None:
        out["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return out


def _low_resolution(
    task: _Task, full: Mapping[str, Any], spacing: Vector, median: Vector
) -> dict[str, Any] | None:
    """The coarser configuration whose patch sees a quarter of the image; None where it would not be much coarser."""
    whole = voxels = float(np.prod(median))
    patch, coarse, low = full["patch_size"], spacing.copy(), None
    while float(np.prod(patch)) / voxels < LOWRES_BELOW:
        lagging = coarse.max() / coarse > 2
        coarse[lagging if lagging.any() else slice(None)] *= COARSER
        shape = spacing / coarse * median
        voxels = float(np.prod(shape))
        low = task.configuration(coarse, [round(float(n)) for n in shape], voxels, "3d_lowres", False)
        patch = low["patch_size"]
    return None if low is None or whole / voxels < 2 else low
