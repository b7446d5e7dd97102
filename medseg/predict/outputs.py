"""What a prediction leaves behind: masks, probabilities and one JSON beside them that says all about the case."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.config import Data, Predict
from medseg.config_types import OF_PARTS
from medseg.core.atomic import read_json, write_json
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import reorient_array
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.data.rows import counted
from medseg.ingest.prepare import PreparedImage

ENDINGS = {
    "nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "png": ".png", "dicom_seg": ".dcm",
    "dicom_labelmap": ".labelmap.dcm", "rtstruct": ".rtstruct.dcm",
}  # fmt: skip
ON_SERIES = {
    "dicom_seg": "DICOM-SEG", "dicom_labelmap": "DICOM-SEG", "dicom_fractional": "DICOM-SEG", "rtstruct": "RTSTRUCT"
}  # fmt: skip
"""Formats that refer to the pictures of a DICOM series, and what a person calls them."""

SAME_MASK = ("window", "overlap", "flips", "write", "probabilities", "keep_largest", "fill_holes", "precision", "ensemble",
             "postprocessing", "engine", "skip_air", "guided_filter")  # fmt: skip
"""Settings that decide what is written."""

OWN_FOLDERS = ("manifest", "private", "probabilities")
"""What no class may call the folder of its masks."""

LONGEST_FOLDER = 120
"""Bytes of a class's name that its folder keeps: file systems take 255."""


def formats_for(image: Image, settings: Predict) -> list[str]:
    """The formats of a case's masks. Raises UserError for a format that cannot hold it."""
    is_dicom = image.origin.get("format") == "dicom"
    if settings.write == "auto":
        if image.geometry.unit == "px":
            return ["png"]
        return ["nifti", "dicom_seg"] if is_dicom and image.geometry.ndim == 3 else ["nifti"]
    wanted = list(dict.fromkeys(settings.write))
    if "png" in wanted and image.geometry.ndim == 3:
        raise UserError("a volume cannot be written as PNG", "predict.write", "use nifti, nrrd or mha")
    if not is_dicom and (strange := [kind for kind in wanted if kind in ON_SERIES]):
        raise UserError(
            f"only DICOM images can get a{'n' * (strange[0] == 'rtstruct')} {ON_SERIES[strange[0]]}",
            "predict.write",
            "use nifti",
        )
    if "dicom_fractional" in wanted and not settings.probabilities:
        raise UserError(
            "dicom_fractional holds probabilities, which were not asked for",
            "predict.write",
            "set predict.probabilities: true",
        )
    return wanted


def file_name(case: str) -> str:
    """A case's name as a file name."""
    return "".join("_" if c in '/\\:*?"<>|' else c for c in case)


def class_folders(classes: Sequence[ClassInfo]) -> list[str]:
    """The name of a folder for each class: it leads nowhere else, no two share one, and none is a folder of medseg's own."""
    found: list[str] = []
    taken = set(OWN_FOLDERS)
    for info in classes:
        name = "".join(c if c.isprintable() else "_" for c in file_name(info.name))
        name = name.encode()[:LONGEST_FOLDER].decode(errors="ignore").strip(" .") or "class"
        while name.casefold() in taken:
            name += f"-{info.index}"
        taken.add(name.casefold())
        found.append(name)
    return found


def mask_names(
    case: str, formats: Sequence[str], seg_classes: Sequence[ClassInfo], overlapping: bool
) -> list[str]:
    """Names of a case's masks below the folder of predictions."""
    names = []
    for kind in (kind for kind in formats if kind in ENDINGS):
        name = file_name(case) + ENDINGS[kind]
        if overlapping and kind not in ON_SERIES:
            names += [f"{folder}/{name}" for folder in class_folders(seg_classes)]
        else:
            names.append(name)
    return names


def write_masks(
    seg: Segmentation, image: Image, case: str, formats: Sequence[str], out: Path
) -> tuple[list[str], list[str]]:
    """Writes the masks of one case, each whole or not at all.

    Returns their names below `out`, and sentences on a DICOM-SEG that could not be made beside another format; as
    the only format it raises. Classes that overlap get one mask each, in a folder of the class's name, with the
    class's own label value.
    """
    from medseg.io.doors import write_segmentation

    names, troubles = [], []
    for kind in formats:
        for name in mask_names(case, [kind], seg.classes, seg.regions is not None):
            if kind in ON_SERIES:
                trouble = _write_dicom(kind, seg, image, out / name, alone=len(formats) == 1)
                if trouble is not None:
                    troubles += [trouble] if trouble else []
                    continue
            elif seg.regions is None:
                write_segmentation(seg, out / name, image)
            else:
                position = class_folders(seg.classes).index(name.split("/")[0])
                write_segmentation(_one_class(seg, position), out / name, image)
            names.append(name)
    return names, troubles


def _write_dicom(kind: str, seg: Segmentation, image: Image, path: Path, alone: bool) -> str | None:
    """Writes one of ON_SERIES; returns None, or why there is none ("" where nothing was found: it cannot be empty)."""
    path.unlink(missing_ok=True)
    if not seg.labels.any():
        return ""
    files = [Path(f) for f in image.origin["files"]]
    algorithm = f"medseg {seg.provenance.get('system', '')}".strip()
    try:
        if kind == "rtstruct":
            from medseg.io.dicom.rtstruct import write_rtstruct

            write_rtstruct(seg, files, path, algorithm=algorithm)
        else:
            from medseg.io.dicom.seg import write_seg

            pixels: Literal["BINARY", "LABELMAP"] = "LABELMAP" if kind == "dicom_labelmap" else "BINARY"
            write_seg(seg, files, path, algorithm=algorithm, kind=pixels)
    except UserError as err:
        if alone:
            raise
        return f"no {ON_SERIES[kind]} was written: {err.what}"
    return None


def _one_class(seg: Segmentation, position: int) -> Segmentation:
    info = seg.classes[position]
    kind = np.uint8 if info.index < 256 else np.uint16
    return Segmentation(seg.mask(position).astype(kind) * kind(info.index), seg.geometry, (info,))


class ProbabilityFile:
    """Probabilities (K, *S) on the case's grid in a temporary file: written plane by plane, never held in memory."""

    def __init__(self, folder: Path, channels: int) -> None:
        import tempfile

        folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(prefix=".part-", dir=folder)  # noqa: SIM115
        self.channels = channels
        self.array: Any = None
        self.prepared: PreparedImage | None = None

    def sink(self, prepared: PreparedImage) -> Any:
        """The function that takes boxes of the RAS-ordered, cropped case."""
        self.prepared = prepared
        shape = (self.channels, *prepared.kept.shape)
        self.array = np.memmap(self.file, dtype=np.float16, mode="w+", shape=shape)

        def take(box: tuple[slice, ...], values: Any) -> None:
            self.array[(slice(None), *box)] = values.cpu().numpy()

        return take

    def channel(self, number: int, outside: float) -> Any:
        """One channel (*S) float32 in the file's axis order; `outside` beyond the box that the network saw."""
        assert self.prepared is not None
        full = np.full(self.prepared.source.shape, outside, np.float32)
        turned = reorient_array(full, self.prepared.order, self.prepared.flips)
        turned[self.prepared.box] = self.array[number]
        return full

    def write(
        self,
        seg: Segmentation,
        image: Image,
        case: str,
        background: bool,
        out: Path,
        formats: Sequence[str] = (),
    ) -> list[str]:
        """One volume a class below probabilities/, and a fractional DICOM-SEG if asked for; returns their names."""
        from medseg.io.doors import write_array

        ending = ".nii.gz" if image.geometry.ndim == 3 else ".tif"
        names = []
        for position, folder in enumerate(class_folders(seg.classes)):
            name = f"probabilities/{folder}/{file_name(case)}{ending}"
            write_array(self.channel(position + background, 0.0), seg.geometry, out / name, image)
            names.append(name)
        if "dicom_fractional" in formats:
            from medseg.io.dicom.seg import write_fractions

            name = f"probabilities/{file_name(case)}.fractional.dcm"
            files = [Path(f) for f in image.origin["files"]]
            algorithm = f"medseg {seg.provenance.get('system', '')}".strip()
            made = write_fractions(
                seg, lambda n: self.channel(n + background, 0.0), files, out / name, algorithm=algorithm
            )
            names += [name] if made else []
        return names

    def close(self) -> None:
        self.array = None
        self.file.close()


def settings_digest(settings: Predict, data: Data | None) -> str:
    """Equal digest, equal masks: what of the settings decides them."""
    facts = [f"{name}={getattr(settings, name)!r}" for name in SAME_MASK]
    if settings.prompt is not None:
        facts.append(f"prompt={settings.prompt!r}")
    facts += [f"{name}={getattr(settings, name)!r}" for name in OF_PARTS if getattr(settings, name) != "auto"]
    if settings.disagreement != "auto":
        facts.append(f"disagreement={settings.disagreement!r}")
    if data is not None:
        facts += [
            f"{name}={getattr(data, name)!r}" for name in ("channels", "not_finite", "spacing_tolerance")
        ]
        facts.append(f"irregular={data.select.irregular}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def sidecar(out: Path, case: str) -> Path:
    """Where the facts of a case lie."""
    return out / f"{file_name(case)}.json"


def write_sidecar(out: Path, case: str, facts: Mapping[str, Any]) -> None:
    """Writes the facts last of all, with the hashes of the masks: a case with them is complete."""
    hashes = [sha256_of(out / name) for name in facts["files"]]
    write_json(sidecar(out, case), {"case": case, **facts, "sha256": hashes})


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_sidecar(out: Path, case: str) -> dict[str, Any]:
    """The facts of a case; empty where there are none or they are damaged."""
    path = sidecar(out, case)
    try:
        found = read_json(path) if path.exists() else {}
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def is_complete(out: Path, case: str, facts: Mapping[str, str]) -> bool:
    """Whether a case was done before with the same facts (model, settings, input), and its files are still there."""
    found = read_sidecar(out, case)
    if not found or any(found.get(key) != value for key, value in facts.items()):
        return False
    return all((out / name).exists() for name in found["files"])


def discard(out: Path, case: str) -> None:
    """Removes what an earlier prediction of a case left behind, its JSON last: what it does not name stays for ever."""
    for name in read_sidecar(out, case).get("files", []):
        if (out / name).resolve().is_relative_to(out.resolve()):
            (out / name).unlink(missing_ok=True)
    sidecar(out, case).unlink(missing_ok=True)


def refuse_others_files(out: Path, cases: Sequence[str], inputs: Iterable[str]) -> None:
    """Raises UserError where a mask would be written over an input, or over a file that no call on this folder wrote.

    cases: their names. inputs: every file that is read.
    """
    there = set(os.listdir(out)) if out.is_dir() else set()
    endings = (*ENDINGS.values(), ".tif", ".json")
    targets = {file_name(case) + ending: case for case in cases for ending in endings}
    found = {name: case for name, case in targets.items() if name in there}
    read = {os.path.realpath(name) for name in inputs if os.path.basename(name) in found}
    begun = any((out / "manifest").glob("journal*.sqlite"))
    wanted = [
        name
        for name, case in found.items()
        if os.path.realpath(out / name) in read or not (begun or _is_told_of(out, case, name))
    ]
    if wanted:
        raise UserError(
            f"{len(wanted)} files there would be written over, and medseg did not make them: {counted(wanted, 3)}",
            str(out),
            "choose another folder for the masks with --out",
        )


def _is_told_of(out: Path, case: str, name: str) -> bool:
    """Whether the JSON of a case, by a prediction, names a file; of itself it may be silent."""
    facts = read_sidecar(out, case)
    return "model" in facts and name in (*facts.get("files", ()), sidecar(out, case).name)


def refuse_other_models(out: Path, model: str) -> None:
    """Raises UserError when the folder holds masks of another model: results must not be mixed."""
    for path in sorted(out.glob("*.json")):
        if path.name.startswith("."):
            continue
        found = read_json(path)
        if isinstance(found, dict) and "model" in found and found["model"] != model:
            raise UserError(
                f"holds masks of another model ({str(found['model'])[:12]}..., this one is {model[:12]}...)",
                str(out),
                "choose another folder, or empty this one: masks of two models must not be mixed",
            )
