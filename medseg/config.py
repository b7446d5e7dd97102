"""The whole pipeline file as frozen types. Reading files into them is `medseg/config_file.py`'s work.

Every setting carries its meaning and its range; the reference page docs/pipeline-file.md is printed from them.
This module knows no names of systems, losses or metrics: each room checks its own names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from medseg.config_planned import IntensityPlan as IntensityPlan
from medseg.config_planned import Plan as Plan
from medseg.config_types import (
    BatchSetting,
    BeyondImage,
    DisagreementSetting,
    EmaSetting,
    FlipsSetting,
    GuidedFilterSetting,
    KeepLargestSetting,
    MarginSetting,
    MergeSetting,
    PairsSetting,
    PartMedianSetting,
    PreviousSetting,
    PromptSetting,
    SearchSetting,
    SmallestPartSetting,
    SpacingPxSetting,
    SpacingSetting,
    Weight,
    WindowSetting,
    WriteSetting,
)
from medseg.config_types import Compute as Compute
from medseg.config_types import PatientWords as PatientWords
from medseg.config_types import Section as Section
from medseg.config_types import System as System

# --- data ---------------------------------------------------------------------------------------------------------


class ClassSpec(Section):
    """One class: which values of which label map it stands for."""

    values: list[int] = Field(description="label values that mean this class", min_length=1)
    column: str = Field("label", description="the manifest's label column it is drawn in")
    colour: tuple[int, int, int] | None = Field(None, description="red, green, blue, 0-255")
    code: tuple[str, str, str] | None = Field(None, description="coded term: value, scheme (SCT), meaning")
    laterality: Literal["left", "right"] | None = Field(
        None, description="the patient's side; guessed from the name when absent"
    )


class Phantom(Section):
    """A synthetic cohort, made when no data is given."""

    name: Literal["ct_chest"] = Field("ct_chest", description="which phantom")
    cases: int = Field(24, ge=3, le=10000, description="how many patients")
    seed: int = Field(7, ge=0, description="the same seed makes the same patients")


class Split(Section):
    """Which cases train, validate and test; always whole patients."""

    folds: int = Field(
        5, ge=2, le=50, description="cross-validation folds among the cases that are not test cases"
    )
    fold: int = Field(0, ge=0, description="which fold validates")
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of patients set aside for the final score, where no split is given",
    )
    seed: int = Field(12345, ge=0, description="seed of the shuffle")
    by: Literal["patient", "case"] = Field(
        "patient", description="what is kept together; `case` only where every case is another patient"
    )
    file: str | None = Field(
        None, description="CSV with the columns case and split or fold, relative to the data root"
    )
    patient_words: PatientWords = None


class Select(Section):
    """Which DICOM series is taken where a folder holds several."""

    modality: str | None = Field(None, description="keep only this DICOM modality, e.g. CT")
    description: str | None = Field(None, description="keep series whose description contains this text")
    plane: Literal["axial", "coronal", "sagittal", "oblique"] | None = Field(
        None, description="keep series whose pictures lie in this plane of the patient"
    )
    kernel: str | None = Field(
        None, description="keep series of this reconstruction kernel, e.g. B30f; * stands for any letters"
    )
    series: list[str] = Field(
        default_factory=list, description="series UIDs to take, whatever the other rules say"
    )
    min_slices: int = Field(5, ge=1, description="series with fewer slices are left out")
    tie: Literal["ask", "thinnest", "all"] = Field(
        "ask",
        description="several series fit equally: stop and ask, take the one with the thinnest slices, or take all as cases of their own",
    )
    irregular: Literal["error", "resample", "skip"] = Field(
        "error",
        description="missing slices or uneven spacing: refuse the case, resample onto an even grid, or skip it",
    )


def _class_table(value: Any) -> Any:
    """Accepts `name: 1`, `name: [1, 2]`, `name: {values: ..}` and `1: name`."""
    if not isinstance(value, dict):
        return value
    table: dict[str, Any] = {}
    for key, spec in value.items():
        if isinstance(key, int) and isinstance(spec, str):
            key, spec = spec, key
        if isinstance(spec, int) and not isinstance(spec, bool):
            spec = {"values": [spec]}
        elif isinstance(spec, list):
            spec = {"values": spec}
        elif isinstance(spec, dict) and isinstance(spec.get("values"), int):
            spec = {**spec, "values": [spec["values"]]}
        table[str(key)] = spec
    return table


class Data(Section):
    """What the cases are and where they lie."""

    root: str | None = Field(None, description="the folder the files lie in (also --data, or MEDSEG_DATA)")
    manifest: str | None = Field(
        None, description="a CSV or Parquet table of cases, or a data set description of data_manifests/"
    )
    layout: Literal["auto", "manifest", "decathlon", "nnunet", "bids", "pairs", "dicom"] = Field(
        "auto", description="how the folder is laid out; auto recognises it and says so"
    )
    phantom: Phantom | None = Field(
        None, description="make a synthetic cohort when neither root nor manifest is given"
    )
    modality: Literal["ct", "mr", "em", "xray", "photo", "other"] = Field(
        "other", description="decides the default intensity preparation and the plausibility checks"
    )
    classes: Annotated[dict[str, ClassSpec], BeforeValidator(_class_table)] = Field(
        default_factory=dict,
        description="name: value of every class, without background; left out: read from the data set or the labels",
    )
    ignore: int | None = Field(None, description="label value that is left out of loss and scores")
    background: int | None = Field(
        0,
        description="label value of what belongs to no class; null when every pixel has a class (photographs)",
    )
    channels: list[str] = Field(
        default_factory=list,
        description="names of the image channels, in the order the manifest's image_<channel> columns are stacked",
    )
    split: Split = Field(default_factory=Split, description="training, validation, test")
    select: Select = Field(default_factory=Select, description="choice among DICOM series")
    grid: Literal["error", "resample"] = Field(
        "error", description="label on another grid than its image: refuse the case, or resample the label"
    )
    unnamed: Literal["error", "background"] = Field(
        "error",
        description="label values that no class names: refuse the case, or count them as background",
    )
    unlabelled: Literal["error", "skip"] = Field(
        "skip", description="a case without a label in a run that trains: an error, or left out and counted"
    )
    not_finite: Literal["error", "replace"] = Field(
        "error",
        description="NaN or infinite voxels: refuse the case, or put the smallest finite value there and say so",
    )
    ids: Literal["auto", "names", "hashed"] = Field(
        "auto", description="case names: auto takes keyed hashes for DICOM and file names otherwise"
    )
    spacing_tolerance: float = Field(
        0.01, ge=0, le=0.2, description="allowed relative deviation of slice distances in a DICOM series"
    )

    @property
    def overlapping(self) -> bool:
        """Whether classes may cover the same voxel: they share a value or are drawn in different label maps."""
        seen: set[int] = set()
        columns = {spec.column for spec in self.classes.values()}
        for spec in self.classes.values():
            if len(columns) > 1 or seen & set(spec.values):
                return True
            seen |= set(spec.values)
        return False


# --- the steps ----------------------------------------------------------------------------------------------------


class Ingest(Section):
    """How images are prepared for the network."""

    spacing_mm: SpacingSetting = "auto"
    spacing_px: SpacingPxSetting = None
    intensity: dict[str, Any] | Literal["auto", "none", "zscore", "rgb"] = Field(
        "auto",
        description="{window_hu: [low, high]}, {percentile: [0.5, 99.5]}, zscore (foreground), rgb, none; auto by modality",
    )
    crop: Literal["auto", "none", "nonzero", "body"] = Field(
        "auto", description="cut away empty margins: nonzero voxels (MR), the body (CT)"
    )
    workers: int | None = Field(None, ge=0, description="threads that prepare cases; default: the cores")
    previous: PreviousSetting = None
    margin: MarginSetting = 0


def _one_or_more(value: Any) -> Any:
    """Accepts `2` and "0,2" for lists of folds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if isinstance(value, str) and value != "all" and value.replace(",", "").replace(" ", "").isdigit():
        return [int(part) for part in value.split(",") if part.strip()]
    return value


class Optimizer(Section):
    """The optimiser and its rates; momentum counts for sgd and muon only."""

    name: Literal["adamw", "adam", "sgd", "muon"] = Field("adamw", description="the optimiser")
    rate: float = Field(1e-3, gt=0, le=10, description="highest learning rate")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="weight decay")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="Nesterov's; left out: 0.99 for sgd, 0.95 for muon"
    )


class Train(Section):
    """How the network learns. `minutes` or `steps` ends the training, whichever comes first."""

    minutes: float | None = Field(None, gt=0, description="time budget; the schedule follows the clock")
    steps: int | None = Field(None, ge=1, description="optimiser steps")
    loss: dict[str, Any] | str = Field(
        "dice_ce", description="a name of the loss table, or {name: tversky, alpha: 0.3}"
    )
    optimizer: Optimizer = Field(default_factory=Optimizer, description="optimiser and its rates")
    schedule: Literal["poly", "cosine", "constant"] = Field(
        "poly", description="learning rate over the training; poly: (1 - t)^0.9"
    )
    rate_every: int = Field(1, ge=1, description="steps between changes of the learning rate; nnU-Net: 250")
    warmup: float = Field(
        0.02, ge=0, lt=0.5, description="share of the training in which the rate rises from zero"
    )
    batch_size: BatchSetting = "auto"
    patch_size: list[int] | Literal["auto"] = Field("auto", description="voxels of a training patch")
    foreground: float = Field(
        0.33, ge=0, le=1, description="share of patches centred on a voxel of a class, classes drawn evenly"
    )
    beyond_image: BeyondImage = "background"
    augment: dict[str, Any] | Literal["default", "light", "none"] = Field(
        "default", description="a preset, or {transform: {probability and ranges}}"
    )
    class_weights: dict[str, Weight] | Literal["balanced"] | None = Field(
        None, description="weights of the cross-entropy by class name, or balanced (inverse root frequency)"
    )
    deep_supervision: bool = Field(
        False, description="score the decoder's lower resolutions too, where the system offers them"
    )
    auxiliary: Literal["network", "halved"] = Field(
        "network",
        description="weights of the other outputs: the network's own; halved: 1, 1/2, 1/4 ... with sum 1, coarsest 0",
    )
    procedure: dict[str, Any] | str = Field(
        "supervised",
        description="supervised, or with cases without a label: mean_teacher, pseudo_labels, {name: .., weight: ..}",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: fp16/bf16 on a GPU, bf16 on a CPU where it is faster"
    )
    clip: float | None = Field(12.0, gt=0, description="largest gradient norm")
    ema: EmaSetting = None
    validate_every: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="steps between validations on held-out cases; auto: ten a training"
    )
    checkpoint_minutes: float = Field(
        2.0, gt=0, description="minutes between checkpoints that --resume continues from"
    )
    flips: Literal["auto"] | list[int] = Field(
        "auto",
        description="axes that may be mirrored in augmentation; auto: none along left-right when classes have sides",
    )
    patience: int | None = Field(None, ge=1, description="validations without a better Dice before it ends")
    collapse: Literal["stop", "warn"] = Field(
        "stop", description="what happens when validation finds nothing and the loss no longer falls"
    )
    start_from: str | None = Field(
        None,
        validation_alias=AliasChoices("start_from", "from"),
        description="a model folder, or a checkpoint of nnU-Net (.pth), whose weights are the start (also: from)",
    )
    freeze: list[str] = Field(default_factory=list, description="weights kept as they are, e.g. [encoder.*]")
    folds: Annotated[
        Literal["all"] | list[Annotated[int, Field(ge=0)]] | None, BeforeValidator(_one_or_more)
    ] = Field(
        None,
        description="cross-validation: all, or the folds to train now, e.g. [0, 2]; null: data.split.fold alone",
    )
    seeds: int = Field(
        1, ge=1, le=100, description="trainings a fold, with seeds compute.seed, +1 ...; their spread is said"
    )
    search: SearchSetting = 0

    @property
    def several(self) -> bool:
        """Whether there is more than one training of a system: folds or seeds."""
        return self.folds is not None or self.seeds > 1

    @model_validator(mode="after")
    def _ends(self) -> Train:
        if self.folds == []:
            raise ValueError("train.folds is empty: give all, or the numbers of folds")
        if self.minutes is None and self.steps is None:
            object.__setattr__(self, "minutes", 10.0)
        return self


class Predict(Section):
    """How volumes are cut into windows and put together again, and what is written."""

    model: str | None = Field(None, description="a model folder to predict with instead of training")
    window: WindowSetting = "auto"
    overlap: float = Field(0.5, ge=0, lt=0.9, description="share of a window that its neighbour sees again")
    flips: FlipsSetting = "auto"
    batch_size: int = Field(1, ge=1, description="windows computed at once")
    write: WriteSetting = "auto"
    probabilities: bool = Field(False, description="also write the class probabilities")
    keep_largest: KeepLargestSetting = Field(default_factory=list)
    fill_holes: list[str] = Field(default_factory=list, description="classes whose enclosed holes are filled")
    smallest_part_ml: SmallestPartSetting = "auto"
    part_median: PartMedianSetting = "auto"
    cases: Literal["auto", "all", "train", "val", "test"] = Field(
        "auto", description="which cases; auto: test cases, else validation cases, else all"
    )
    engine: Literal["auto", "torch", "compile", "onnxruntime", "openvino", "tensorrt"] = Field(
        "auto",
        description="what computes the network; auto: the fastest that gives fp32's labels and whose setting up pays",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="number type of the network; int8 needs engine openvino and has to give fp32's labels",
    )
    skip_air: bool = Field(
        True, description="leave out windows of CT that hold only air around the body: they become background"
    )
    ensemble: Literal["logits", "probabilities"] = Field(
        "logits", description="what is averaged over the members of an ensemble"
    )
    postprocessing: Literal["auto", "none"] = Field(
        "auto", description="auto: what cross-validation chose and the model folder holds; none: leave it out"
    )
    guided_filter: GuidedFilterSetting = "auto"
    disagreement: DisagreementSetting = "auto"
    prompt: PromptSetting = None


class Score(Section):
    """What predictions are compared with, and by which measures."""

    metrics: list[str] = Field(
        default_factory=lambda: ["dice", "iou", "hd95_mm", "nsd", "volume_error_percent"],
        description="names of the metric table",
    )
    tolerance_mm: float = Field(2.0, gt=0, description="tolerance of the surface Dice (NSD)")
    reference: str = Field(
        "label",
        description="label, or the name of a classical system whose masks are compared with: agreement, not truth",
    )
    merge: MergeSetting = Field(default_factory=dict)
    pairs: PairsSetting = False


class Report(Section):
    """What the page shows."""

    title: str | None = Field(None, description="heading; default: the pipeline's name")
    worst: int = Field(6, ge=1, le=50, description="how many cases are shown, worst first")


class Track(Section):
    """Where runs are remembered."""

    enabled: bool = Field(True, description="write to MLflow")
    uri: str | None = Field(
        None, description="tracking server or sqlite:/// file; default: mlflow.db beside the run folders"
    )
    experiment: str | None = Field(None, description="name of the experiment; default: the pipeline's name")
    log_model: bool = Field(True, description="store the model with a signature, loadable by mlflow.pyfunc")


class Places(dict[tuple[Any, ...], str]):
    """Where each key of a pipeline stood in its file, "tiny.yaml line 4"; pipelines of other files may be equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)


class Pipeline(Section):
    """A whole journey: check, plan, ingest, train, predict, score, report."""

    name: str = Field(
        description="name of the journey and of its run folders", pattern=r"^[\w.-]+$", max_length=80
    )
    data: Data = Field(default_factory=Data, description="what the cases are and where they lie")
    ingest: Ingest = Field(default_factory=Ingest, description="how images are prepared")
    system: System | list[System] = Field(description="which system, or several to compare")
    train: Train = Field(default_factory=Train, description="how the network learns")
    predict: Predict = Field(default_factory=Predict, description="windows, outputs")
    score: Score = Field(default_factory=Score, description="measures")
    report: Report = Field(default_factory=Report, description="the page")
    track: Track = Field(default_factory=Track, description="MLflow")
    compute: Compute = Field(default_factory=Compute, description="device, cores, memory, seed")
    _places: Places = PrivateAttr(default_factory=Places)

    @field_validator("system", mode="before")
    @classmethod
    def _system_by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, list):
            return [{"name": v} if isinstance(v, str) else v for v in value]
        return value

    @property
    def systems(self) -> list[System]:
        return self.system if isinstance(self.system, list) else [self.system]

    def for_system(self, system: System) -> Pipeline:
        """The same journey for one of its systems."""
        return self.model_copy(update={"system": system})

    @property
    def only_system(self) -> System:
        """The system of a journey that has one (pipeline.py walks comparisons one system at a time)."""
        if isinstance(self.system, list):
            if len(self.system) != 1:
                raise ValueError("several systems: use for_system first")
            return self.system[0]
        return self.system
