"""What plan.yaml and a model folder hold of the plan, with the ranges outside which nothing can be computed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from medseg.config_types import GuidedFilter, PartMedian, Section, SmallestPart, SpacingMm, SpacingPx
from medseg.core.geometry import Geometry


class IntensityPlan(Section):
    """How one channel's numbers are changed: clip to [low, high], subtract `shift`, divide by `scale`.

    scheme: window (fixed HU), percentile (clip to percentiles of the case, then z-score), zscore (over foreground
    of the case), ct (clip to data set percentiles, subtract mean, divide by sd), rgb (divide by 255), none.
    """

    scheme: Literal["window", "percentile", "zscore", "zscore_mask", "ct", "rgb", "none"]
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    shift: float = Field(0.0, allow_inf_nan=False)
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)


class Previous(Section):
    """The earlier stage of a cascade: its masks are further channels of this network, one a class."""

    model: str = Field(description="hash of the earlier stage's model")
    classes: list[dict[str, Any]] = Field(description="ClassInfo.as_json of its classes, without background")
    background: bool = Field(True, description="whether its label value 0 is background")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="settings of predict that its masks were made with"
    )


class Plan(Section):
    """What the plan decided; `reasons` says why, key by key, and is written beside each line of plan.yaml."""

    dims: Literal[2, 3]
    in_channels: int = Field(
        ge=1, description="channels of the network: those of the image, then those of `previous`"
    )
    channels: list[str] = Field(
        default_factory=list,
        description="names of the image's channels in their order; none: nothing named them",
    )
    previous: Previous | None = Field(None, description="the earlier stage of a cascade")
    classes: list[dict[str, Any]] = Field(description="ClassInfo.as_json of every class, without background")
    overlapping: bool = Field(False, description="sigmoid regions instead of one softmax")
    out_channels: int = Field(ge=1, description="channels of the logits: classes + background, or regions")
    background: bool = Field(True, description="whether channel 0 of the logits is background")
    ignore: int | None = Field(
        None, description="label value left out of loss and scores; 255 in prepared targets"
    )
    spacing_mm: list[SpacingMm] | None = Field(
        None, description="the network's grid for RAS axes; null: pixels as they are"
    )
    spacing_px: list[SpacingPx] | None = Field(
        None, description="the network's grid in pixels of a picture; null: pixels as they are"
    )
    intensity: list[IntensityPlan]
    crop: Literal["none", "nonzero", "body"] = "none"
    image_order: int = Field(3, ge=0, le=5, description="spline order that resamples images; 1 is linear")
    patch_size: list[Annotated[int, Field(ge=1)]]
    window: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, description="voxels of a window when predicting; null: those of a patch"
    )
    margin: int = Field(0, ge=0, description="voxels by which patches and windows may reach beyond the image")
    batch_size: int = Field(ge=1)
    topology: dict[str, Any] = Field(
        default_factory=dict, description="features, strides, kernels for planned systems"
    )
    foreground_fraction: dict[str, float] = Field(
        default_factory=dict, description="share of voxels of each class in training data"
    )
    volume_ml: dict[str, list[float]] = Field(
        default_factory=dict, description="smallest and largest volume of each class in training data"
    )
    on_border: dict[str, float] = Field(
        default_factory=dict,
        description="share of training cases in which a class runs into the border of the field of view",
    )
    mirror_axes: list[int] = Field(
        default_factory=list, description="axes along which mirroring keeps the meaning"
    )
    swap_sides: bool = Field(
        False, description="mirroring left-right keeps the meaning where the sides' classes are exchanged"
    )
    flips: bool = Field(False, description="prediction averages over mirrored copies")
    guided_filter: GuidedFilter | None = Field(None, description="borders are moved to the image's own edges")
    smallest_part_ml: SmallestPart = Field(
        default_factory=dict, description="class -> ml below which its parts are removed"
    )
    part_median: PartMedian = Field(
        default_factory=dict, description="class -> limits beyond which parts of such a median are removed"
    )
    estimate: dict[str, Any] = Field(
        default_factory=dict, description="minutes and bytes each step will take on this machine"
    )
    reasons: dict[str, str] = Field(default_factory=dict, description="key -> why")

    @field_validator("spacing_mm", "spacing_px", "patch_size", "window")
    @classmethod
    def _one_an_axis(cls, values: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        dims = info.data.get("dims")
        if values is not None and dims is not None and len(values) != dims:
            raise ValueError(f"{len(values)} numbers for {dims}D images")
        return values

    @property
    def spacing(self) -> list[float] | None:
        """Of the network's grid, in mm or in pixels; None: the images' own."""
        return self.spacing_mm or self.spacing_px

    def grid_of(self, turned: Geometry) -> Geometry:
        """The network's grid over the field of view of an image whose axes are in RAS+ order (see `reoriented`)."""
        if self.spacing_px is not None:
            return turned.with_spacing(
                [n * own for n, own in zip(self.spacing_px, turned.spacing, strict=True)]
            )
        if self.spacing_mm is None or turned.unit == "px":
            return turned
        return turned.with_spacing(self.spacing_mm)

    @property
    def image_channels(self) -> int:
        """Channels of the image itself."""
        return self.in_channels - (len(self.previous.classes) if self.previous else 0)
