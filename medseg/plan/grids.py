"""The network's grid: spacing, crop, interpolation, and along which axes an image may be mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.config import Pipeline
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.nnunet import target_spacing

VOXELS_CPU = 6_000_000
"""Voxels of a median case that a CPU can still train on and predict in minutes."""

VOXELS_GPU = 120_000_000

SHRINKS = 1.5
"""From this ratio on, averaging voxels is worth more than a sharp spline."""


def decide_spacing(
    setting: list[float] | str, fingerprint: Fingerprint, limit: float, ram_bytes: float = float("inf")
) -> tuple[list[float] | None, str]:
    """The grid in mm for RAS axes (None for pixels) and the reason. limit: voxels of a prepared case, at most.

    ram_bytes: what a prepared case may take; a grid set so fine that the largest takes more is refused.
    """
    if all(case.unit == "px" for case in fingerprint.cases):
        if not isinstance(setting, str):
            raise UserError(
                f"spacing {setting} mm for images without a size in mm",
                "ingest.spacing_mm",
                "leave it out; ingest.spacing_px: 2 halves rows and columns",
            )
        return None, "photographs have no size in mm: pixels as they are"
    if not isinstance(setting, str):
        if len(setting) != fingerprint.dims:
            raise UserError(
                f"{setting} for {fingerprint.dims}D images",
                "ingest.spacing_mm",
                f"give {fingerprint.dims} positive numbers in mm, left-right first, e.g. "
                f"{[round(float(s), 2) for s in fingerprint.median_spacing]}",
            )
        _require_room(setting, fingerprint, ram_bytes)
        return [float(s) for s in setting], "set in the pipeline file (ingest.spacing_mm)"
    spacing, reason = median_spacing(fingerprint)
    field = fingerprint.median_shape * fingerprint.median_spacing
    voxels = float(np.prod(field / spacing))
    if voxels > limit:
        coarser = coarsen(spacing, field, limit)
        reason += (
            f"; {_short(spacing)} would give {voxels / 1e6:.0f} million voxels a case, "
            f"coarsened to {limit / 1e6:.0f} million for this machine"
        )
        spacing = coarser
    return [round(float(s), 4) for s in spacing], reason


def _require_room(spacing: Sequence[float], fingerprint: Fingerprint, ram_bytes: float) -> None:
    voxels = max(
        float(np.prod(np.asarray(case.shape) * np.asarray(case.spacing) / spacing))
        for case in fingerprint.cases
    )
    needed = 4 * fingerprint.channels * voxels
    if needed > ram_bytes:
        raise UserError(
            f"{list(spacing)} mm would make {needed / 1e9:.3g} GB of the largest case, {ram_bytes / 1e9:.3g} GB may be used",
            "ingest.spacing_mm",
            "give coarser numbers; the median of the cases is "
            f"{[round(float(s), 2) for s in fingerprint.median_spacing]}",
        )


def median_spacing(fingerprint: Fingerprint) -> tuple[np.ndarray, str]:
    """nnU-Net's rule: the median, and the 10th percentile on a coarse axis with few slices."""
    # Turned round, because ties between axes go as in nnU-Net, whose axes are (z, y, x).
    spacings = np.array([case.spacing[::-1] for case in fingerprint.cases])
    shapes = np.array([case.shape[::-1] for case in fingerprint.cases], dtype=np.float64)
    target = target_spacing(spacings, shapes)[::-1]
    changed = np.flatnonzero(target != fingerprint.median_spacing)
    reason = f"median of {len(spacings)} cases"
    if len(changed):
        reason += f"; axis {changed[0]} is coarse, its 10th percentile is taken"
    return target, reason


def coarsen(spacing: np.ndarray, field_mm: np.ndarray, limit: float) -> np.ndarray:
    """Widens the finest axes first until the field of view has at most `limit` voxels."""
    wider = np.array(spacing, dtype=np.float64)
    while np.prod(field_mm / wider) > limit:
        wider[wider < wider.min() * 1.02] *= 1.02
    return wider


def decide_crop(setting: str, modality: str, fingerprint: Fingerprint) -> tuple[str, str]:
    """none, nonzero or body, and the reason."""
    if setting != "auto":
        return setting, "set in the pipeline file (ingest.crop)"
    if fingerprint.dims == 3 and modality == "ct":
        return "body", "CT: the body and a margin are kept, the air around it is cut away"
    if fingerprint.dims == 3 and fingerprint.kept_share < 0.9:
        return "nonzero", f"the part that is not zero is {fingerprint.kept_share:.0%} of the median image"
    return "none", "there is little empty margin to cut away"


def decide_order(spacing: Sequence[float] | None, fingerprint: Fingerprint, planned: bool) -> tuple[int, str]:
    """Spline order of image resampling and the reason."""
    if planned:
        return 3, "cubic, as nnU-Net resamples"
    if spacing is None:
        return 1, "images are not resampled"
    ratio = float(np.max(np.asarray(spacing) / fingerprint.median_spacing))
    if ratio >= SHRINKS:
        return (
            1,
            f"images shrink by up to {ratio:.1f}: voxels are averaged (linear, widened), so that noise goes down",
        )
    return 3, "cubic: images keep about their resolution"


def decide_mirror(
    pipeline: Pipeline, classes: Sequence[ClassInfo], fingerprint: Fingerprint
) -> tuple[list[int], str]:
    """Axes along which a mirrored image with its mirrored label is still a true one, and the reason."""
    setting, dims = pipeline.train.flips, fingerprint.dims
    if not isinstance(setting, str):
        wrong = [axis for axis in setting if not 0 <= axis < dims]
        if wrong:
            raise UserError(f"axis {wrong[0]} of a {dims}D image", "train.flips", f"axes are 0 to {dims - 1}")
        why = mirrored_sides(pipeline, classes, dims)
        return sorted(set(setting)), "set in the pipeline file (train.flips)" + (f"; {why}" if why else "")
    sided = [info.name for info in classes if info.laterality is not None]
    across = _across(dims)
    if dims == 2 and pipeline.data.modality in ("photo", "xray", "ct", "mr"):
        axes, why = [1], "pictures have an up and a down"
    else:
        axes, why = list(range(dims)), "no direction is special"
    if sided:
        return [a for a in axes if a != across], f"not left-right: {', '.join(sided[:4])} have sides"
    return axes, why


def mirrored_sides(pipeline: Pipeline, classes: Sequence[ClassInfo], dims: int) -> str:
    """What to say where `train.flips` mirrors left-right although classes have sides; "" where it does not."""
    setting = pipeline.train.flips
    sided = [info.name for info in classes if info.laterality is not None]
    if isinstance(setting, str) or _across(dims) not in setting or not sided:
        return ""
    return (
        f"train.flips mirrors left-right although classes have sides ({', '.join(sided[:4])}): the network cannot learn "
        "to tell them apart; train.augment.swap_sides exchanges their names as well"
    )


def _across(dims: int) -> int:
    """The left-right axis."""
    return 1 if dims == 2 else 0


def decide_swap_sides(pipeline: Pipeline, classes: Sequence[ClassInfo]) -> bool:
    """Whether training mirrors left-right and exchanges the classes of the sides (`train.augment.swap_sides`).

    Raises UserError where that was asked for and a class has a side but no partner on the other.
    """
    from medseg.core.segmentation import side_pairs

    sided = [info for info in classes if info.laterality is not None]
    if not sided or "swap_sides" not in _augmented_by(pipeline):
        return False
    pairs = side_pairs(classes)
    alone = [info.name for info in sided if not any(info in pair for pair in pairs)]
    if alone:
        raise UserError(
            f"swap_sides exchanges left and right, but {alone[0]} has no partner on the other side",
            "train.augment.swap_sides",
            "name its partner under data.classes, or leave swap_sides out",
        )
    return True


def require_learnt_mirrors(pipeline: Pipeline, mirror_axes: Sequence[int]) -> None:
    """Raises UserError where prediction is to average mirrored copies, which the network has never seen the like of."""
    if pipeline.predict.flips is True and mirror_axes and "flip" not in _augmented_by(pipeline):
        raise UserError(
            "prediction averages over mirrored copies, but training mirrors nothing: the network would not know them",
            "predict.flips: true",
            "add `flip` to train.augment, or take predict.flips: false",
        )


def _augmented_by(pipeline: Pipeline) -> set[str]:
    """Names of the changes of `train.augment` that ever happen."""
    from medseg.ingest.augment.build import entries_of

    entries = entries_of(pipeline.train.augment)
    return {entry.name for entry in entries if entry.probability > 0 and entry.ranges.get("each") != 0}


def _short(spacing: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{s:.3g}" for s in spacing) + " mm"
