"""What the pipeline's types and the plan are made of: a strict section, what a run may use, what plan.yaml holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class Section(BaseModel):
    """A part of the pipeline file: unknown keys are errors, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


SpacingMm = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
"""Distance of voxels in mm."""

PatientWords = Annotated[
    int | None,
    Field(
        ge=1,
        le=9,
        description="how many words of a case name tell the patient, where no table does: 1 for P01_scan2, words end at _ - . or space",
    ),
]


# --- the system ---------------------------------------------------------------------------------------------------

ConfigurationSetting = Annotated[
    Literal["full", "lowres", "cascade", "2d"],
    Field(
        description="what the network sees, as nnU-Net names it: full: patches of the grid; lowres: a grid so coarse that a patch sees a quarter of the case; cascade: full, with the masks of lowres as channels; 2d: slices across the coarsest axis"
    ),
]


class System(Section):
    """Which system of the zoo, in which size."""

    name: str = Field(description="a name of `medseg list`")
    size: str = Field("paper", description="a size of its row: tiny, small, paper ...")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="arguments that override those of the size"
    )
    configuration: ConfigurationSetting = "full"

    @property
    def slug(self) -> str:
        """The name of its folder: name, size and configuration as far as they are not the usual ones."""
        unusual = [self.size] if self.size != "paper" else []
        return "-".join(
            [self.name, *unusual, *([self.configuration] if self.configuration != "full" else [])]
        )

    # A configuration that says nothing new is left out of what runs are recognised by: those of earlier versions go on.

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        return {key: value for key, value in found.items() if (key, value) != ("configuration", "full")}

    def __repr_args__(self) -> Any:
        return [pair for pair in super().__repr_args__() if pair != ("configuration", "full")]


# --- what a run may use -------------------------------------------------------------------------------------------

Plain = str | int | float | bool | None


class Cluster(Section):
    """Which workers do cases: this process, processes of this computer, or machines."""

    kind: Literal["none", "processes", "dask", "slurm", "pbs", "sge", "lsf", "kubernetes"] = Field(
        "none",
        description="none: this process; processes: of this computer; dask: a Dask cluster; slurm, pbs, sge, lsf: batch jobs; kubernetes: pods (extra `cluster`)",
    )
    workers: int | None = Field(
        None, ge=1, description="how many workers; default: 2 for processes and dask, 4 for jobs and pods"
    )
    address: str | None = Field(
        None,
        description="a running Dask scheduler, e.g. tcp://head:8786; dask without it starts workers on this computer",
        pattern=r"^[a-z]+://",
    )
    options: dict[str, Plain | list[Plain] | dict[str, Plain]] = Field(
        default_factory=dict,
        description="handed to dask-jobqueue or dask-kubernetes as they are: queue, cores, memory, walltime, image ...",
    )


def _by_kind(value: Any) -> Any:
    """`cluster: slurm` is `cluster: {kind: slurm}`."""
    return {"kind": value} if isinstance(value, str) else value


def _is_memory(value: str | int | None) -> str | int | None:
    """An amount of memory that can be read, before any work is done."""
    from medseg.core.errors import UserError
    from medseg.core.machine import parse_bytes

    try:
        amount = None if value is None else parse_bytes(value)
    except UserError as err:
        raise ValueError(f"{err.what}; {err.hint}") from err
    if amount is not None and amount <= 0:
        raise ValueError("is no amount of memory; write it like 6 GB or 800 MB")
    return value


class Compute(Section):
    """What the run may use."""

    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$"
    )
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        1,
        description="GPUs (or CPU processes) that share a training; each gets its part of the batch; auto: all GPUs",
    )
    cores: int | None = Field(None, ge=1, description="CPU cores; default: all this process may use")
    ram: Annotated[str | int | None, AfterValidator(_is_memory)] = Field(
        None, description="memory that may be used, e.g. 6 GB; default: what is free"
    )
    seed: int = Field(17, ge=0, description="seed of everything random")
    workers: int | None = Field(
        None, ge=0, description="cases worked on at once; default by memory and cores"
    )
    cluster: Annotated[Cluster, BeforeValidator(_by_kind)] = Field(
        default_factory=Cluster,
        description="who predicts the cases; a name (processes, dask, slurm ...) or a section",
    )


# --- prompts -------------------------------------------------------------------------------------------------------


class Prompts(Section):
    """Where the hints come from that interactive methods need."""

    files: str | None = Field(
        None,
        description="a folder with CASE.json or a mask of scribbles CASE.png, CASE.nii.gz; or one JSON file of all cases",
    )
    background: int = Field(
        255, ge=1, le=65535, description="value in masks of scribbles that marks background; 0 is unmarked"
    )
    box: str | None = Field(
        None,
        description="which of several boxes a JSON of all cases has for a case, e.g. drawn; default: the first there is",
    )
    simulate: Literal["none", "points", "box", "scribbles"] = Field(
        "none",
        description="made from the label instead: the scores then know part of the answer, which the report says",
    )
    points: int = Field(1, ge=1, le=100, description="simulated points a class, and as many on background")
    margin_percent: float = Field(
        3.0,
        ge=0,
        le=50,
        description="by how much of the image's size a simulated box is wider than the object",
    )
    seed: int = Field(0, ge=0, description="the same seed simulates the same points")

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        if self.files is not None and self.simulate != "none":
            raise ValueError("prompts come from files or are simulated: leave out one of files and simulate")
        return self


def _by_source(value: Any) -> Any:
    """`prompt: simulate` and `prompt: FOLDER` for the commonest two."""
    if value == "simulate":
        return {"simulate": "points"}
    return {"files": value} if isinstance(value, str) else value


PromptSetting = Annotated[
    Prompts | None,
    BeforeValidator(_by_source),
    Field(
        description="hints for interactive methods: simulate, a folder, or the keys below; null: those of the cases"
    ),
]

SearchSetting = Annotated[
    int,
    Field(
        ge=0,
        le=10_000,
        description="settings of a classical method tried on the training cases, at most; 0: none, as published",
    ),
]


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SpacingSetting = Annotated[
    Annotated[list[SpacingMm], Field(min_length=2, max_length=3)] | Literal["auto"],
    Field(description="the network's grid in mm for RAS axes; auto lets the plan decide"),
]

SpacingPx = Annotated[float, Field(gt=0, le=64, allow_inf_nan=False)]
"""Pixels of a picture that one of the network's grid stands for, along an axis."""

SpacingPxSetting = Annotated[
    Annotated[list[SpacingPx], Field(min_length=2, max_length=3)] | SpacingPx | None,
    Field(
        description="the network's grid in pixels of pictures without a size in mm: 2 halves rows and columns; "
        "one number, or one an axis; default: pixels as they are"
    ),
]

BatchSetting = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto", "measured"],
    Field(
        description="patches a step; auto: by the estimate of time and memory; measured: the most that fit, by dry steps"
    ),
]


MergeSetting = Annotated[
    dict[str, list[str]],
    Field(description="further rows for unions of classes, e.g. lung: [left lung, right lung]"),
]

PairsSetting = Annotated[
    bool,
    Field(description="several systems over folds: the mean of each two is scored and chosen from, too"),
]


# --- borders that follow the image ---------------------------------------------------------------------------------


class GuidedFilter(Section):
    """Moves borders of classes from the network's grid to the edges of the image (He, Sun, Tang 2010)."""

    radius_mm: float = Field(
        8.0, gt=0, le=100, description="half width of the boxes it looks at; px for photographs"
    )
    epsilon: float = Field(
        1e-3, gt=0, description="contrast below its root, as a share of the intensity window, is no edge"
    )
    iterations: int = Field(
        1, ge=1, le=20, description="how often it is applied; each time a border may come nearer to its edge"
    )
    background: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="how likely background has to be beside a class, p / (p + q), to be kept before borders are moved: 0.75 hands the filter masks with their doubtful rims, which it cuts at edges but would not complete",
    )


EmaSetting = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="decay of the averaged weights that are validated and kept, e.g. 0.995; null: none",
    ),
]

MarginSetting = Annotated[
    int,
    Field(
        ge=0,
        le=64,
        description="voxels by which patches and windows may reach beyond the image, so that organs cut by its end do not lie at the end of a window too",
    ),
]

FlipsSetting = Annotated[
    bool | Literal["auto"],
    Field(
        description="average over mirrored copies, 2^axes times slower; auto: where the model was made with it, else not"
    ),
]

BeyondImage = Annotated[
    Literal["background", "ignored"],
    Field(
        description="what a patch holds beyond the image's end: background, or no part of the loss (scans that cut through organs)"
    ),
]

KeepLargestSetting = Annotated[
    list[str],
    Field(description="classes of which only the largest connected part is kept"),
]

SmallestPart = dict[str, Annotated[float, Field(gt=0)]]

SmallestPartSetting = Annotated[
    SmallestPart | Literal["auto"],
    Field(
        description="class -> ml: connected parts of it that are smaller are removed, {liver: 5}; auto: what the model was made with",
    ),
]


def _ordered(limits: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = limits
    if low is not None and high is not None and low >= high:
        raise ValueError(f"the lower limit {low:g} is not below the upper one {high:g}")
    return limits


PartMedian = dict[str, Annotated[tuple[float | None, float | None], AfterValidator(_ordered)]]

PartMedianSetting = Annotated[
    PartMedian | Literal["auto"],
    Field(
        description="class -> [lowest, highest], null for no limit: connected parts of it whose median in the image lies beyond are removed, in the file's units (CT: HU; of several channels the first), {lung: [-970, null]}; auto: what the model was made with",
    ),
]

OF_PARTS = ("smallest_part_ml", "part_median")
"""Settings of predict about parts of classes: digests of runs count them where they are not auto."""

WriteSetting = Annotated[
    list[
        Literal["nifti", "nrrd", "mha", "png", "dicom_seg", "dicom_labelmap", "dicom_fractional", "rtstruct"]
    ]
    | Literal["auto"],
    Field(
        description="formats of the masks; auto: nifti for volumes (plus dicom_seg for DICOM input), png for photographs; for DICOM input also dicom_labelmap, dicom_fractional (probabilities), rtstruct (contours)",
    ),
]

DisagreementSetting = Annotated[
    Literal["auto", "mirrors", "dropout"],
    Field(
        description="what is compared for the disagreement beside a mask: auto: an ensemble's members; mirrors: the copies of predict.flips; dropout: passes of the network with its dropout on (slower, engine torch)"
    ),
]

WindowSetting = Annotated[
    list[Annotated[int, Field(ge=1)]] | Literal["auto"],
    Field(
        description="voxels of a window, [96, 72, 96]: larger ones than the patches of training overlap less and take more memory; auto: what the model was made with, else those of a patch"
    ),
]

GuidedFilterSetting = Annotated[
    GuidedFilter | Literal["auto", "none"],
    Field(
        description="borders follow the image's edges: {radius_mm: 8, epsilon: 0.001}; auto: what the model was made with; none: as the network drew them"
    ),
]


PreviousSetting = Annotated[
    str | None,
    Field(
        description="cascade: a run folder whose masks become further channels, one a class; best one with train.folds: all"
    ),
]
