"""What the pipeline's types and the plan are made of: a strict section, and what plan.yaml holds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the pipeline file: unknown keys are errors, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


# --- what plan.yaml holds -----------------------------------------------------------------------------------------


class IntensityPlan(Section):
    """How one channel's numbers are changed: clip to [low, high], subtract `shift`, divide by `scale`.

    scheme: window (fixed HU), percentile (clip to percentiles of the case, then z-score), zscore (over foreground
    of the case), ct (clip to data set percentiles, subtract mean, divide by sd), rgb (divide by 255), none.
    """

    scheme: Literal["window", "percentile", "zscore", "zscore_mask", "ct", "rgb", "none"]
    low: float | None = None
    high: float | None = None
    shift: float = 0.0
    scale: float = 1.0


class Plan(Section):
    """What the plan decided; `reasons` says why, key by key, and is written beside each line of plan.yaml."""

    dims: Literal[2, 3]
    in_channels: int
    classes: list[dict[str, Any]] = Field(description="ClassInfo.as_json of every class, without background")
    overlapping: bool = Field(False, description="sigmoid regions instead of one softmax")
    out_channels: int = Field(description="channels of the logits: classes + background, or regions")
    background: bool = Field(True, description="whether channel 0 of the logits is background")
    ignore: int | None = Field(
        None, description="label value left out of loss and scores; 255 in prepared targets"
    )
    spacing_mm: list[float] | None = Field(
        None, description="the network's grid for RAS axes; null: pixels as they are"
    )
    intensity: list[IntensityPlan]
    crop: Literal["none", "nonzero", "body"] = "none"
    image_order: int = Field(3, description="spline order that resamples images; 1 is linear")
    patch_size: list[int]
    batch_size: int
    topology: dict[str, Any] = Field(
        default_factory=dict, description="features, strides, kernels for planned systems"
    )
    foreground_fraction: dict[str, float] = Field(
        default_factory=dict, description="share of voxels of each class in training data"
    )
    volume_ml: dict[str, list[float]] = Field(
        default_factory=dict, description="smallest and largest volume of each class in training data"
    )
    mirror_axes: list[int] = Field(
        default_factory=list, description="axes along which mirroring keeps the meaning"
    )
    estimate: dict[str, Any] = Field(
        default_factory=dict, description="minutes and bytes each step will take on this machine"
    )
    reasons: dict[str, str] = Field(default_factory=dict, description="key -> why")
