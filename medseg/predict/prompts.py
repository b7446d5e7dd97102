"""Where the prompt of a case comes from: the manifest, a folder, a list of all cases, beside the image, or its label."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.config import Data
from medseg.config_types import Prompts
from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.prompt import Prompt, joined
from medseg.core.segmentation import ClassInfo
from medseg.predict.simulate import SIMULATED

BESIDE = ".prompt.json"
"""The ending, after the image's name without its own, of a prompt that lies beside its image."""

MASK_ENDINGS = (".png", ".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".tiff")


@dataclass(frozen=True)
class Hints:
    """What a case's prompt is made of; can be sent to another process.

    found: files of prompts. label: opens the case whose label a simulation looks at; None: nothing is simulated.
    label_files: what that label is made of.
    """

    case: str
    settings: Prompts
    classes: tuple[ClassInfo, ...]
    found: tuple[str, ...] = ()
    label: Callable[[], Case] | None = None
    label_files: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that decides the prompt."""
        return (*self.found, *self.label_files)

    def read(self, image: Image) -> Prompt | None:
        """The prompt for an image of the case, in patient mm or px; None where there is none.

        Raises UserError for files that cannot be read and for a case without a label to simulate from.
        """
        if self.label is not None:
            return self._simulated(image)
        if not self.found:
            return None
        from medseg.io.prompts import Coding, read_prompt

        coding = Coding(self.classes, self.settings.background, self.settings.box, self.case)
        return joined([read_prompt(Path(name), image.geometry, coding) for name in self.found])

    def _simulated(self, image: Image) -> Prompt:
        from medseg.predict.simulate import simulated

        assert self.label is not None
        case = self.label()
        if not case.has_label:
            raise UserError(
                "no prompt can be simulated: this case has no label",
                f"case {self.case}",
                "add its label, or give prompts as files: predict.prompt.files",
            )
        label = case.label()
        image.geometry.require_same_grid(label.geometry, "image", "label", f"case {self.case}")
        return simulated(label, self.settings, self.case)


def takes_prompts(model: Any) -> bool:
    """Whether a loaded model's system does anything with a prompt."""
    return model.classical is not None and bool(getattr(model.classical, "takes_prompt", False))


def find_hints(row: Any, data: Data, settings: Prompts | None, classes: Sequence[ClassInfo]) -> Hints:
    """What the prompt of a manifest's row is made of, most particular first: the row's own file, the folder or
    list of `predict.prompt.files`, a file beside the image."""
    settings = settings or Prompts()
    if settings.simulate != "none":
        from functools import partial

        from medseg.data.reading import open_case

        opener = partial(open_case, row, data, tuple(classes))
        return Hints(row.case, settings, tuple(classes), (), opener, tuple(row.labels.values()))
    images = [name for channel in row.images for name in channel]
    return Hints(row.case, settings, tuple(classes), files_of(row.case, row.prompt, images, data, settings))


def files_of(case: str, named: str, images: Sequence[str], data: Data, settings: Prompts) -> tuple[str, ...]:
    """The files of a case's prompt; empty where there is none. named: by the manifest, or ""."""
    if named:
        return (named,)
    if settings.files is not None:
        place = _place(settings.files, data)
        return (str(place),) if place.is_file() else tuple(_in_folder(place, case, images))
    if len(images) == 1:
        from medseg.io.names import without_ending

        beside = Path(images[0]).with_name(without_ending(images[0]) + BESIDE)
        return (str(beside),) if beside.is_file() else ()
    return ()


def _place(named: str, data: Data) -> Path:
    """The folder or list, as given or below the data root. Raises UserError where there is neither."""
    from medseg.data.cohort import data_root

    given, root = Path(named).expanduser(), data_root(data)
    for place in (given, *([] if root is None or given.is_absolute() else [root / given])):
        if place.exists():
            return place
    raise UserError(
        f"there is no folder or list of prompts {named!r}", "predict.prompt.files", "give an existing folder"
    )


def _in_folder(folder: Path, case: str, images: Sequence[str]) -> list[str]:
    """CASE.json and CASE's mask of scribbles, by the case's name or its image's."""
    from medseg.io.names import without_ending

    names = list(dict.fromkeys([case, *(without_ending(name) for name in images[:1])]))
    found = []
    for endings in ((".json", BESIDE), MASK_ENDINGS):
        places = [folder / f"{name}{ending}" for name in names for ending in endings]
        found += [str(place) for place in places if place.is_file()][:1]
    return found


def require_prompt(model: Any, prompt: Prompt | None) -> None:
    """Raises UserError where a method needs a prompt and the case has none."""
    method = model.classical
    if prompt is not None or not getattr(method, "needs_prompt", False):
        return
    raise UserError(
        f"{method.name} needs a prompt and this case has none: give CASE.json or CASE.png in predict.prompt.files, "
        "the manifest's column `prompt`, or predict.prompt: simulate for a measurement",
        f"system {method.name}",
    )


def notes_of(facts: Mapping[str, Any] | None) -> list[str]:
    """The sentence that a result of a prompt carries, from what `facts_of` remembers."""
    if not facts:
        return []
    counts = ", ".join(f"{count} {kind}" for kind, count in facts.items() if kind != "source")
    leak = (
        "; it knows part of the answer, so scores say nothing of other prompts"
        if facts["source"].startswith(SIMULATED)
        else ""
    )
    return [f"prompt: {counts or 'text'}, {facts['source']}{leak}"]


def prompts_digest(hints: Sequence[Hints]) -> str:
    """Changes with any file that prompts are made of: by content where it is small, else by size and time."""
    facts = []
    for name in sorted({name for one in hints for name in one.files}):
        path = Path(name)
        if not path.is_file():
            facts.append(f"{name} absent")
        elif path.stat().st_size > 1_000_000:
            facts.append(f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}")
        else:
            facts.append(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def facts_of(prompt: Prompt | None) -> Mapping[str, Any] | None:
    """What is remembered of a prompt: how much of what, and where it came from; no places, no paths."""
    return None if prompt is None else {"source": prompt.source or "given", **prompt.counts}
