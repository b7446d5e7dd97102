"""How numbers are prepared, decided by modality or said by the pipeline file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.config import IntensityPlan
from medseg.core.errors import UserError, did_you_mean
from medseg.plan.fingerprint import Fingerprint

MASK_BELOW = 0.75
"""nnU-Net's rule: where cropping to nonzero voxels keeps less than this, statistics leave the outside out."""

KEY = "ingest.intensity"


def decide_intensity(
    setting: Mapping[str, Any] | str, modality: str, channels: tuple[str, ...], fingerprint: Fingerprint
) -> tuple[list[IntensityPlan], str]:
    """One plan a channel and the reason."""
    count = fingerprint.channels
    if isinstance(setting, Mapping):
        return [_said(setting)] * count, f"set in the pipeline file ({KEY})"
    if setting == "zscore":
        return [_zscore(fingerprint)] * count, f"set in the pipeline file; {_mask_reason(fingerprint)}"
    if setting == "rgb":
        return [_rgb(fingerprint, k) for k in range(count)], "set in the pipeline file"
    if setting == "none":
        return [IntensityPlan(scheme="none")] * count, "set in the pipeline file"
    plans, reasons = [], []
    for k in range(count):
        name = channels[k].lower() if k < len(channels) else ""
        plan, reason = _by_modality("ct" if name == "ct" else modality, fingerprint, k)
        plans.append(plan)
        reasons.append(reason)
    return plans, "; ".join(dict.fromkeys(reasons))


def _by_modality(modality: str, fingerprint: Fingerprint, channel: int) -> tuple[IntensityPlan, str]:
    if modality == "ct":
        facts = fingerprint.intensities(channel)
        plan = IntensityPlan(
            scheme="ct",
            low=round(facts["p005"], 4),
            high=round(facts["p995"], 4),
            shift=round(facts["mean"], 4),
            scale=round(max(facts["sd"], 1e-8), 4),
        )
        which = "labelled" if fingerprint.labelled else "(none of the read cases has a labelled one) all"
        return plan, f"CT: percentiles 0.5 and 99.5, mean and sd of the {which} voxels of all cases"
    if modality == "photo":
        return _rgb(fingerprint, channel), "photographs: brought to -1..1 by their number range"
    return _zscore(fingerprint), f"{modality}: z-score of each case; {_mask_reason(fingerprint)}"


def _zscore(fingerprint: Fingerprint) -> IntensityPlan:
    masked = fingerprint.kept_share < MASK_BELOW
    return IntensityPlan(scheme="zscore_mask" if masked else "zscore")


def _mask_reason(fingerprint: Fingerprint) -> str:
    share = fingerprint.kept_share
    what = "zeros are left out" if share < MASK_BELOW else "over the whole image"
    return f"{what} (nonzero part is {share:.0%} of the median image)"


def _rgb(fingerprint: Fingerprint, channel: int) -> IntensityPlan:
    largest, whole = fingerprint.largest(channel), any(case.whole_numbers for case in fingerprint.cases)
    top = 1.0 if largest <= 1 and not whole else 255.0 if largest <= 255 else 65535.0
    return IntensityPlan(scheme="rgb", low=0.0, high=top, shift=top / 2, scale=top / 2)


def _said(setting: Mapping[str, Any]) -> IntensityPlan:
    known = ("window_hu", "percentile")
    names = [str(name) for name in setting]
    if len(names) != 1 or names[0] not in known:
        wrong = next((n for n in names if n not in known), ", ".join(names) or "nothing")
        raise UserError(
            f"unknown scheme {wrong!r}{did_you_mean(wrong, known)}",
            KEY,
            "write {window_hu: [-1000, 400]}, {percentile: [0.5, 99.5]}, zscore, rgb, none or auto",
        )
    low, high = _pair(names[0], setting[names[0]])
    if names[0] == "window_hu":
        return IntensityPlan(
            scheme="window", low=low, high=high, shift=(low + high) / 2, scale=(high - low) / 2
        )
    if not 0 <= low < high <= 100:
        raise UserError(f"percentile {[low, high]} lies outside 0..100", KEY, "write percentile: [0.5, 99.5]")
    return IntensityPlan(scheme="percentile", low=low, high=high)


def _pair(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError) as err:
        raise UserError(f"{name}: expected two numbers, got {value!r}", KEY) from err
    if not low < high:
        raise UserError(f"{name}: the first number must be below the second, got {value!r}", KEY)
    return low, high
