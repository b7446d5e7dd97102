"""Descriptions of public data sets (`data_manifests/*.yaml`): where each file lies, classes, licence, citation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medseg.config import ClassSpec, Data, Section, _class_table
from medseg.config_file import find_file, read_yaml, validate
from medseg.core.errors import UserError
from medseg.data.manifest import files_of_folder, safe_name
from medseg.data.rows import SPLITS, CaseRow, Found, column_name
from medseg.data.splits import read_split_file
from medseg.io.names import stem_of

FILLS_IN = ("modality", "classes", "background", "ignore", "channels")
"""Keys of `data` that a description answers where the pipeline file leaves them out."""


class Group(Section):
    """Cases that lie in one pattern of files.

    In a pattern, `{case}` stands for the case's name, `{split}` for train, val or test, `*` for anything within a
    name; a pattern that ends in `/` names folders of DICOM slices.
    """

    images: str | dict[str, str] = Field(description="pattern of the image, or one a channel")
    labels: str | dict[str, str] = Field(
        default_factory=dict, description="pattern of the label, or one a column"
    )
    values: Annotated[dict[str, ClassSpec], BeforeValidator(_class_table)] = Field(
        default_factory=dict,
        description="how these files write the classes, where they do it in their own way",
    )
    known: list[str] | None = Field(None, description="classes that are drawn here; default: those of values")
    rest: Literal["error", "background"] = Field("error", description="what other label values are")
    case: str | None = Field(None, description="name of the only case of a pattern without {case}")
    split: Literal["train", "val", "test"] | None = Field(None, description="split of these cases")


class DescribedSplit(Section):
    """How the set is split: a file, or blocks of cases in name order (`em_00..em_12`)."""

    file: str | None = Field(None, description="CSV with case and split or fold")
    blocks: dict[Literal["train", "val", "test"], list[str]] = Field(
        default_factory=dict, description="cases, or ranges first..last by name"
    )


class Description(Section):
    """One public data set."""

    name: str = Field(description="name of the set and of its folder", pattern=r"^[\w.-]+$")
    title: str = Field(description="what it holds, in one line")
    home: str = Field(description="where it is found")
    licence: str = Field(description="under which terms it is given")
    citation: str = Field(description="what to cite")
    modality: Literal["ct", "mr", "em", "xray", "photo", "other"] = Field(description="kind of image")
    classes: Annotated[dict[str, ClassSpec], BeforeValidator(_class_table)] = Field(
        default_factory=dict, description="classes with values, colours and codes"
    )
    background: int | None = Field(0, description="value of what belongs to no class")
    ignore: int | None = Field(None, description="value that no score looks at")
    channels: list[str] = Field(default_factory=list, description="names of the image channels")
    groups: list[Group] = Field(min_length=1, description="where the files lie")
    split: DescribedSplit = Field(DescribedSplit(), description="train, val, test")
    patient: str | None = Field(
        None,
        description="regular expression on the image's path in the set; its groups joined are the patient",
    )
    checksum: str = Field("", description="sha256 over the sorted sha256 of all files used")


def is_description(name: str | None) -> bool:
    """Whether data.manifest names a description rather than a table of cases."""
    if not name:
        return False
    path = Path(name)
    return path.suffix.lower() in (".yaml", ".yml") or (not path.suffix and not path.exists())


def load_description(name: str) -> Description:
    """Reads a description: a path, or the name of a shipped one (`hippocampus`)."""
    path = find_file(Path(name), "data_manifests")
    if not path.is_file():
        raise UserError(
            f"no data set description '{name}'",
            "data.manifest",
            f"shipped: {', '.join(shipped_names()) or 'none'}; or give a CSV or Parquet table of cases",
        )
    description: Description = validate(Description, read_yaml(path), str(path))
    return description


def shipped_names() -> list[str]:
    """Names of the descriptions that come with the package."""
    package = Path(__file__).parent.parent
    folders = (package / "shipped" / "data_manifests", package.parent / "data_manifests")
    return sorted({path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")})


def filled_in(data: Data, description: Description) -> Data:
    """The data section with what the description says where the pipeline file says nothing.

    Classes that the pipeline names stay as they are, but for colour and code where only the description has them.
    """
    given = data.model_fields_set
    update: dict[str, Any] = {k: getattr(description, k) for k in FILLS_IN if k not in given}
    if data.classes:
        update["classes"] = {
            name: _with_looks(spec, description.classes.get(name)) for name, spec in data.classes.items()
        }
    return data.model_copy(update=update)


def _with_looks(spec: ClassSpec, described: ClassSpec | None) -> ClassSpec:
    if described is None:
        return spec
    looks = {k: getattr(described, k) for k in ("colour", "code", "laterality") if getattr(spec, k) is None}
    return spec.model_copy(update=looks)


def find(root: Path | None, data: Data, description: Description) -> Found:
    """The cases of a described set below `root`, or below the folder of the set's name in `root`.

    Raises UserError with the set's home and licence when nothing lies there.
    """
    folder = _folder_of(root, description)
    rows: dict[str, CaseRow] = {}
    for group in description.groups:
        for row in _cases_of(group, folder, description):
            if row.case in rows:
                raise UserError(f"two files are called case '{row.case}'", f"data set {description.name}")
            rows[row.case] = row
    found: tuple[CaseRow, ...] = tuple(_with_blocks(rows, description)[name] for name in sorted(rows))
    notes: tuple[str, ...] = (f"{description.title}; licence {description.licence}",)
    if description.split.file and (folder / description.split.file).is_file():
        found, more = read_split_file(found, folder / description.split.file)
        notes += more
    return Found(
        found,
        f"described data set {description.name}",
        notes=notes,
        channels=tuple(description.channels),
        patients_known=description.patient is not None,
        checksum=description.checksum,
    )


def _folder_of(root: Path | None, description: Description) -> Path:
    # The set's own folder first: patterns of one set may fit files of its neighbours.
    places = [] if root is None else [root / description.name, root]
    first = [image for group in description.groups for image in _patterns(group.images).values()]
    for place in places:
        if any(next(_matches(place, pattern), None) for pattern in first):
            return place
    looked = (
        f"looked for {first[0]} in {root} and in its folder {description.name}"
        if root
        else "no folder was given"
    )
    raise UserError(
        f"the data set '{description.name}' is not here: {looked}",
        f"data set {description.name}",
        f"get it at {description.home} (licence: {description.licence}), then say where it lies:"
        " --data FOLDER, data.root or MEDSEG_DATA",
    )


def _patterns(given: str | Mapping[str, str]) -> dict[str, str]:
    return {"": given} if isinstance(given, str) else dict(given)


def _matches(root: Path, pattern: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Paths below `root` that fit a pattern, with what its {names} stand for; sorted."""
    folders = pattern.endswith("/")
    glob = re.sub(r"\{\w+\}", "*", pattern.rstrip("/"))
    expression = re.compile(_expression(pattern.rstrip("/")))
    for path in sorted(root.glob(glob)):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match and path.is_dir() == folders:
            yield path, match.groupdict()


def _expression(pattern: str) -> str:
    """`{split}/images/{case}.jpg` as a regular expression."""
    parts = re.split(r"(\{\w+\}|\*)", pattern)
    names: set[str] = set()
    out = []
    for part in parts:
        if part == "*":
            out.append("[^/]*")
        elif part.startswith("{"):
            name = part[1:-1]
            what = "|".join(SPLITS) if name == "split" else "[^/]+"
            out.append(f"(?P={name})" if name in names else f"(?P<{name}>{what})")
            names.add(name)
        else:
            out.append(re.escape(part))
    return "".join(out)


def _cases_of(group: Group, folder: Path, description: Description) -> Iterator[CaseRow]:
    channels = list(_patterns(group.images).values())
    for path, names in _matches(folder, channels[0]):
        case = names.get("case") or group.case or stem_of(path)
        files, trouble = [], []
        for channel in channels:
            file = (
                folder / channel.rstrip("/").format(**{**names, "case": case})
                if channel != channels[0]
                else path
            )
            files.append(files_of_folder(file) if file.is_dir() else (str(file),))
            if not file.exists():
                trouble.append(f"the file of channel {len(files)} does not exist")
        labels = {
            column_name(column or "label"): str(folder / pattern.format(**{**names, "case": case}))
            for column, pattern in _patterns(group.labels).items()
        }
        missing = [column for column, file in labels.items() if not Path(file).is_file()]
        values = {n: (column_name(s.column), tuple(s.values)) for n, s in group.values.items()} or None
        yield CaseRow(
            case=safe_name(case),
            patient=_patient(path.relative_to(folder).as_posix(), case, description),
            images=tuple(files),
            labels={column: file for column, file in labels.items() if column not in missing},
            split=group.split or names.get("split", ""),
            known=tuple(group.known) if group.known is not None else (tuple(values) if values else None),
            values=values,
            rest_is_background=group.rest == "background",
            trouble="; ".join(trouble),
        )


def _patient(path: str, case: str, description: Description) -> str:
    if description.patient is None:
        return case
    match = re.search(description.patient, path)
    return "-".join(match.groups()) if match and match.groups() else case


def _with_blocks(rows: Mapping[str, CaseRow], description: Description) -> dict[str, CaseRow]:
    """Cases with the split of the block they lie in; `a..b` covers every case between the two names."""
    done = dict(rows)
    for split, blocks in description.split.blocks.items():
        for block in blocks:
            first, _, last = block.partition("..")
            for name in rows:
                if first <= name <= (last or first):
                    done[name] = replace(done[name], split=split)
    return done
