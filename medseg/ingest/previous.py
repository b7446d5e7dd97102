"""The earlier stage of a cascade: its masks as further channels of the image, one a class.

nnU-Net's cascade (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): a first network sees the whole body on a coarse
grid, a second one refines on the fine grid what the first one drew. For training, each case's mask has to come from a
model that has not seen the case, since masks of cases that were learnt are better than those the second stage will get.

Cases of the two runs are matched by the bytes of their images, not by their names: names of DICOM cases differ from
run to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import Plan
from medseg.config_planned import Previous
from medseg.config_types import OF_PARTS
from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.ingest.prepare import PreparedImage, prepare_target

KEY = "ingest.previous"

SETTINGS = ("overlap", "flips", "keep_largest", "fill_holes", "ensemble", "guided_filter", "skip_air")
"""Settings of predict that decide what the earlier stage draws; prediction uses the same."""


@dataclass(frozen=True)
class Mask:
    """A mask of the earlier stage. seen: whether its model was trained on the case."""

    path: Path
    seen: bool


def earlier_run(run: str) -> RunFolder:
    """The run folder of the setting: RUN, or RUN/systems/NAME of a comparison. UserError where no model lies there."""
    path = Path(run).expanduser()
    folder = RunFolder(path)
    if path.parent.name == "systems":
        folder = RunFolder(path.parent.parent).system(path.name)
    if not (folder.model / "model.json").is_file():
        raise UserError(
            f"{path} holds no finished model",
            KEY,
            "give the run folder of the earlier stage: medseg run ... --out RUN",
        )
    return folder


def read_previous(run: str) -> Previous:
    """What the plan keeps of the earlier stage. Raises UserError for one whose classes overlap, or a cascade itself."""
    from medseg.config_file import load_pipeline
    from medseg.model.facts import load_facts, read_plan

    folder = earlier_run(run)
    facts = load_facts(folder.model)
    plan = read_plan(facts, str(folder.model))
    if plan.overlapping:
        raise UserError(
            f"the classes of {run} overlap: its masks are no label map", KEY, "take a run without"
        )
    if plan.previous is not None:
        raise UserError(f"{run} is a cascade itself", KEY, "a cascade has two stages: give a run without one")
    settings = {}
    if folder.pipeline_file.is_file():
        said = load_pipeline(folder.pipeline_file).predict.model_dump(mode="json")
        settings = {name: said[name] for name in SETTINGS}
        settings |= {name: said[name] for name in OF_PARTS if said[name] != "auto"}
    return Previous(
        model=str(facts["hash"]),
        classes=list(facts["classes"]),
        background=plan.background,
        settings=settings,
    )


def masks_of(run: str) -> dict[str, Mask]:
    """Hash of an image's bytes -> the mask that the earlier run drew of it; out-of-fold masks come first."""
    from medseg.model.facts import load_facts

    folder = earlier_run(run)
    members = folder.finished_folds()
    learnt = [] if _learnt_nothing(load_facts(folder.model)) else ["train", "val"] if members else ["train"]
    found: dict[str, Mask] = {}
    for place, seen in [*((member, ["train"]) for member in members), (folder, learnt)]:
        splits = _splits(place)
        for facts in _sidecars(place.predictions):
            mask = _mask_file(place.predictions, facts)
            if mask is not None:
                found.setdefault(str(facts["input"]), Mask(mask, splits.get(str(facts["case"])) in seen))
    return found


def out_of_fold_masks(run: str) -> dict[str, Mask]:
    """Hash of an image's bytes -> the mask by a member of the earlier cross-validation that has not seen the image.

    The joined model, which draws the masks of new cases, has learnt from those images: with its masks the scores of a
    second stage would flatter.
    """
    members = {member.predictions for member in earlier_run(run).finished_folds()}
    found = masks_of(run).items()
    return {content: mask for content, mask in found if mask.path.parent in members and not mask.seen}


def digest_of(run: str) -> str:
    """Changes with the earlier run's model and with the cases that it has predicted."""
    from medseg.model.facts import load_facts

    folder = earlier_run(run)
    facts = [str(load_facts(folder.model)["hash"])]
    for content, mask in sorted(masks_of(run).items()):
        facts.append(f"{content} {mask.path.name} {mask.path.stat().st_size} {mask.path.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def masks_for(run: str, rows: Sequence[Any]) -> dict[str, Mask]:
    """Case -> its mask. Raises UserError that counts and names cases which the earlier run has not predicted."""
    from medseg.io.doors import channels_hash

    known = masks_of(run)
    found, missing = {}, []
    for row in rows:
        content = channels_hash(row.images)
        if content in known:
            found[row.case] = known[content]
        else:
            missing.append(row.case)
    if missing:
        raise UserError(
            f"{run} has no mask of {len(missing)} of {len(rows)} cases, the first is {missing[0]}",
            KEY,
            "predict every case by a model that has not seen it: medseg run EARLIER.yaml --out RUN --folds all",
        )
    return found


def in_words(masks: Mapping[str, Mask]) -> str:
    """What is to be known of the masks: how many show cases that the earlier model was trained on."""
    seen = sum(mask.seen for mask in masks.values())
    if not seen:
        return f"{len(masks)} masks of the earlier stage, none of a case that its model was trained on"
    return (
        f"{seen} of {len(masks)} masks of the earlier stage show cases that its model was trained on: they are better "
        "than those of new cases will be; train it with --folds all"
    )


def read_mask(mask: Mask, previous: Previous) -> Segmentation:
    """The mask on its case's own grid."""
    from medseg.io.doors import read_segmentation

    return read_segmentation(mask.path, tuple(ClassInfo.from_json(facts) for facts in previous.classes))


def with_previous(prepared: PreparedImage, seg: Segmentation, plan: Plan) -> PreparedImage:
    """The prepared image (C, *S) with the mask appended as one channel of 0 and 1 a class of the earlier stage.

    seg: the mask on the case's own grid; it is resampled like a label. Raises UserError when it lies on another grid.
    """
    earlier = plan.previous
    assert earlier is not None, "the plan is of no cascade"
    prepared.source.require_same_grid(seg.geometry, "image", "mask of the earlier stage", "")
    as_label = {
        "classes": earlier.classes,
        "overlapping": False,
        "background": earlier.background,
        "ignore": None,
    }
    positions = prepare_target(seg, prepared, plan.model_copy(update=as_label))
    channels = one_hot(positions, len(earlier.classes), earlier.background)
    return replace(prepared, array=np.concatenate([prepared.array, channels]))


def one_hot(positions: Any, classes: int, background: bool) -> Any:
    """Positions (*S) uint8 -> (K, *S) float32 of 0 and 1, without a channel for the background."""
    return np.stack([positions == k + background for k in range(classes)]).astype(np.float32)


def _learnt_nothing(facts: Mapping[str, Any]) -> bool:
    return facts["kind"] == "classical" and not facts.get("training")


def _splits(folder: RunFolder) -> dict[str, str]:
    import pandas as pd

    if not folder.cases.is_file():
        return {}
    table = pd.read_parquet(folder.cases)
    return dict(zip(table["case"].astype(str), table["split"].astype(str), strict=True))


def _sidecars(predictions: Path) -> list[dict[str, Any]]:
    """What stands beside the masks of a folder, sorted by name."""
    paths = sorted(path for path in predictions.glob("*.json") if not path.name.startswith("."))
    found = (read_json(path) for path in paths)
    return [facts for facts in found if isinstance(facts, dict) and {"case", "input", "files"} <= set(facts)]


def _mask_file(predictions: Path, facts: Mapping[str, Any]) -> Path | None:
    """The mask's file on the case's own grid; not a DICOM-SEG, which lacks its empty frames. None without one."""
    files = [predictions / name for name in facts["files"] if "/" not in name and not name.endswith(".dcm")]
    return next((path for path in files if path.is_file()), None)
