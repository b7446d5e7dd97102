"""Pipeline files: YAML with includes and overrides -> `Pipeline`, and all faults at once with file, line and key."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Section
from medseg.core.atomic import write_text
from medseg.core.errors import UserError, did_you_mean, nearest

SCHEMA = "`medseg schema` prints every key with its meaning"
MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_NODES = 20_000


@dataclass
class Source:
    """Plain values of a YAML file and where each key stood: (key, key, ...) -> "file, line N"."""

    values: dict[str, Any]
    places: dict[tuple, str] = field(default_factory=dict)


def load_pipeline(
    path: Path, overrides: Iterable[str] = (), extra: Mapping[str, Any] | None = None
) -> Pipeline:
    """Reads a pipeline file.

    overrides: `key.sub=value` texts (--set). extra: nested values that win over everything (--data, --model).
    Raises UserError that lists every fault with file, line, key and the nearest valid name.
    """
    source = read_with_includes(path)
    apply_overrides(source, overrides)
    _merge(source.values, extra or {}, source.places, {})
    pipeline: Pipeline = validate(Pipeline, source, str(path))
    pipeline._places.update(source.places)
    return pipeline


KEY = re.compile(r"[a-z_]+(\.[^\s,:/]+)+")
"""A setting as errors name it: `train.class_weights`."""


@contextmanager
def placed(pipeline: Pipeline) -> Iterator[None]:
    """Adds file and line to an error that names a setting of the pipeline file; once, at the door."""
    try:
        yield
    except UserError as err:
        err.where = with_place(pipeline, err.where)
        raise


def with_place(pipeline: Pipeline, where: str) -> str:
    """`tiny.yaml line 4  train.freeze` for `train.freeze`; as it is where the file does not give that key."""
    found = KEY.match(where)
    keys = tuple(found[0].split(".")) if found else ("",)
    if keys[0] not in Pipeline.model_fields:
        return where
    spellings = (keys, tuple("from" if key == "start_from" else key for key in keys))
    places = (_place(Source({}, pipeline._places), one, "", shortest=2) for one in spellings)
    place = next(filter(None, places), "")
    return f"{place}  {where}" if place else where


def validate(kind: type[Section], source: Source, name: str, hint: str = SCHEMA) -> Any:
    """Builds the frozen type, or raises UserError with all faults."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(source.values)
    except ValidationError as err:
        found = err.errors()
        words = {tuple(_keys_of(f)): _words_of(f) for f in found if f["type"] == "literal_error"}
        faults = sorted({_sentence(kind, fault, source, name, words) for fault in _meant(found)})
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    raise UserError(f"has {count}", name, hint, faults)


def _meant(faults: Sequence[Any]) -> list[Any]:
    """Without the faults of the other forms that a value may have: a wrong list is no misspelt word, nor the reverse."""

    def is_other(fault: Any) -> bool:
        text, keys = isinstance(fault["input"], str), _keys_of(fault)
        beside = [f for f in faults if f is not fault and _keys_of(f)[: len(keys)] == keys]
        if fault["type"] in ("literal_error", "model_type"):
            return not text and any(
                f["type"] != "literal_error" or len(_keys_of(f)) > len(keys) for f in beside
            )
        words = [f["ctx"]["expected"] for f in beside if f["type"] == "literal_error" and _keys_of(f) == keys]
        near = (
            any(nearest(fault["input"], word.replace("'", "").split(", ")) for word in words)
            if text
            else False
        )
        return bool(words) and text and (near or fault["type"] not in ("list_type", "dict_type"))

    return [fault for fault in faults if not is_other(fault)]


def _keys_of(fault: Any) -> list[Any]:
    """The keys that lead to a fault, without pydantic's names of types."""
    kinds = ["str", "int", "float", "list", "dict"] + [one.__name__ for one in Section.__subclasses__()]
    return [
        k
        for k in fault["loc"]
        if not (isinstance(k, str) and ("[" in k or k in kinds or k.startswith("constrained-")))
    ]


def _words_of(fault: Any) -> list[str]:
    """The words that a value may be."""
    expected: str = fault["ctx"]["expected"]
    return expected.replace("'", "").replace(" or ", ", ").split(", ")


def _sentence(
    kind: type[Section], fault: Any, source: Source, name: str, words: Mapping[tuple[Any, ...], Sequence[str]]
) -> str:
    keys = _keys_of(fault)
    where = _place(source, tuple(keys), name)
    dotted = ".".join(str(k) for k in keys)
    if fault["type"] == "extra_forbidden":
        return f"{where}  {dotted}: unknown key{did_you_mean(str(keys[-1]), _keys_at(kind, keys[:-1]))}"
    if fault["type"] == "missing":
        return f"{where}  {dotted}: is required and missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "literal_error":
        expected = _words_of(fault)
        message = f"must be one of {', '.join(expected)}{did_you_mean(str(fault['input']), expected)}"
    if fault["type"] == "model_type":
        known = _keys_at(kind, keys)
        message = f"has keys of its own: {', '.join(known[:6])}{' ...' if len(known) > 6 else ''}"
    if fault["type"] in ("model_type", "list_type", "dict_type") and tuple(keys) in words:
        message += f", or is {' or '.join(words[tuple(keys)])}"
    return f"{where}  {dotted}: {message}, got {_short(fault.get('input'))}"


def _place(source: Source, keys: tuple, name: str, shortest: int = 1) -> str:
    for length in range(len(keys), shortest - 1, -1):
        if keys[:length] in source.places:
            return source.places[keys[:length]]
    return name


def _keys_at(kind: type[Section], keys: Sequence[Any]) -> list[str]:
    current: Any = kind
    for key in keys:
        known = getattr(current, "model_fields", {})
        if key not in known:
            return []
        current = next((c for c in _sections_in(known[key].annotation)), None)
    return list(getattr(current, "model_fields", {}))


def _sections_in(annotation: Any) -> list[type[Section]]:
    import typing

    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _sections_in(part)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- YAML ---------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> Source:
    """Reads one YAML file into plain values; duplicate keys, tags, aliases, excess size or depth are refused."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import YAMLError

    text = _read_limited(path)
    try:
        _refuse_tricks(text, path)
        tree = YAML(typ="rt").load(io.StringIO(text))
    except DuplicateKeyError as err:
        line = err.problem_mark.line + 1 if err.problem_mark else "?"
        raise UserError(
            f"line {line}: the key {_quoted(err)} is given twice", str(path), "keep one of the two"
        ) from err
    except YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(err, "problem", None) or "is not valid YAML"
        raise UserError(
            f"{place}{problem}", str(path), "indent with spaces, not tabs; write `key: value`"
        ) from err
    if not isinstance(tree, Mapping):
        raise UserError("is no pipeline file: expected `key: value` lines", str(path))
    source = Source({})
    source.values = _plain(tree, (), path, source.places)
    return source


def _quoted(err: Any) -> str:
    words = str(err.problem or "").split('"')
    return f"`{words[1]}`" if len(words) > 2 else "on this line"


def _read_limited(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"has {path.stat().st_size} bytes, more than a pipeline file may have ({MAX_BYTES})",
                str(path),
            )
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as err:
        raise UserError(
            "no such pipeline file", str(path), "give the path of a .yaml file, or a shipped name: ct_lung"
        ) from err
    except IsADirectoryError as err:
        raise UserError(
            "is a folder, not a pipeline file",
            str(path),
            "use --data FOLDER for data, or `medseg init FOLDER`",
        ) from err
    except UnicodeDecodeError as err:
        raise UserError("is not UTF-8 text", str(path)) from err


def _refuse_tricks(text: str, path: Path) -> None:
    """Aliases and tags are refused while scanning, before anything is built; so are depth and node count."""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for count, event in enumerate(YAML(typ="rt").parse(io.StringIO(text))):
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            raise UserError(
                f"line {line}: aliases (*name) are not allowed",
                str(path),
                "write the value out, or use include",
            )
        if getattr(event, "tag", None) is not None:
            raise UserError(
                f"line {line}: tags ({event.tag}) are not allowed", str(path), "write a plain value"
            )
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise UserError(
                f"line {line}: nested deeper than {MAX_DEPTH} levels or more than {MAX_NODES} values",
                str(path),
            )


def _plain(node: Any, keys: tuple, path: Path, places: dict[tuple, str]) -> Any:
    if isinstance(node, Mapping):
        out = {}
        for key, value in node.items():
            plain_key = int(key) if isinstance(key, int) else str(key)
            places[(*keys, plain_key)] = f"{path.name} line {node.lc.key(key)[0] + 1}"
            out[plain_key] = _plain(value, (*keys, plain_key), path, places)
        return out
    if isinstance(node, list):
        for position in range(len(node) if node.lc.data else 0):
            places[(*keys, position)] = f"{path.name} line {node.lc.item(position)[0] + 1}"
        return [_plain(v, (*keys, i), path, places) for i, v in enumerate(node)]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def read_with_includes(path: Path, _stack: tuple[Path, ...] = ()) -> Source:
    """A file with the files it includes, earlier includes first, the file's own values last (they win)."""
    path = find_file(path)
    if path.resolve() in _stack:
        raise UserError("includes itself", str(path), "remove the circular include")
    own = read_yaml(path)
    listed = own.values.pop("include", [])
    merged = Source({})
    for name in [listed] if isinstance(listed, str) else listed:
        part = read_with_includes(path.parent / name, (*_stack, path.resolve()))
        _merge(merged.values, part.values, merged.places, part.places)
    _merge(merged.values, own.values, merged.places, own.places)
    _paths_relative_to(merged.values, path.parent)
    return merged


def find_file(path: Path, kind: str = "pipelines") -> Path:
    """The file itself, or the shipped file of that name (`ct_lung`, `pipelines/ct_lung.yaml`)."""
    if path.exists():
        return path
    shipped = Path(__file__).parent / "shipped"
    for folder in (shipped, Path(__file__).parent.parent):
        for candidate in (folder / path, folder / kind / path.name, folder / kind / f"{path.name}.yaml"):
            if not path.is_absolute() and candidate.is_file():
                return candidate
    return path


def _paths_relative_to(values: dict[str, Any], folder: Path) -> None:
    """A manifest named beside the pipeline file is found from anywhere."""
    data = values.get("data")
    if (
        isinstance(data, dict)
        and isinstance(data.get("manifest"), str)
        and not Path(data["manifest"]).is_absolute()
    ):
        beside = folder / data["manifest"]
        found = beside if beside.exists() else find_file(Path(data["manifest"]), "data_manifests")
        if found.exists():
            data["manifest"] = str(found.resolve())


def _merge(
    into: dict, new: Mapping, places: dict[tuple, str], new_places: Mapping[tuple, str], keys: tuple = ()
) -> None:
    """Nested merge, `new` wins; a list or a plain value replaces what was there."""
    for key, value in new.items():
        if (
            isinstance(value, Mapping)
            and isinstance(into.get(key), dict)
            and (*keys, key) != ("data", "classes")
        ):
            _merge(into[key], value, places, new_places, (*keys, key))
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
            places.update({k: v for k, v in new_places.items() if k[: len(keys) + 1] == (*keys, key)})
        if (*keys, key) in new_places:
            places[(*keys, key)] = new_places[(*keys, key)]


def apply_overrides(source: Source, overrides: Iterable[str]) -> None:
    """Applies `key.sub=value` texts in order; the values are read as YAML."""
    for text in overrides:
        _override(source, text)


def _override(source: Source, text: str) -> None:
    """Applies one `a.b=value`; the value is read as YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, raw = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set {text}: expected key=value, e.g. --set train.steps=500")
    try:
        value = YAML(typ="safe").load(raw) if raw.strip() else None
    except YAMLError as err:
        raise UserError(f"--set {text}: the value is not valid YAML") from err
    keys = name.strip().split(".")
    node = source.values
    for depth, key in enumerate(keys[:-1], start=1):
        if isinstance(node.get(key), str) and key == "system":
            node[key] = {"name": node[key]}
        if not isinstance(node.get(key), dict):
            node[key] = {}
            source.places[tuple(keys[:depth])] = "--set"
        node = node[key]
    node[keys[-1]] = value
    for below in [place for place in source.places if place[: len(keys)] == tuple(keys)]:
        del source.places[below]
    source.places[tuple(keys)] = "--set"


# --- writing ------------------------------------------------------------------------------------------------------


def dump_yaml(value: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """Plain values as YAML; `comments[key]` stands at the end of that top-level line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    tree = CommentedMap(value)
    for key, comment in (comments or {}).items():
        if key in tree:
            tree.yaml_add_eol_comment(" ".join(comment.split()), key)
    yaml = YAML()
    yaml.width = 1000
    yaml.default_flow_style = None
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def save_pipeline(pipeline: Pipeline, path: Path, version: str) -> None:
    """Writes the journey with every default spelled out."""
    head = (
        f"# Written by medseg {version}: every default is spelled out. Run it again: medseg run {path.name}\n"
    )
    write_text(path, head + dump_yaml(pipeline.model_dump(mode="json")))
