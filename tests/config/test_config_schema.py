"""`medseg schema`: what editors check a pipeline file against takes what medseg takes, and refuses what it refuses."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from medseg.config_schema import file_schema

ROOT = Path(__file__).parents[2]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))
PARTS = sorted([ROOT / "configs" / "quick.yaml", *(ROOT / "configs" / "recipes").glob("*.yaml")])
SCHEMA = file_schema()
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
}
WORDS = {"$defs", "$schema", "title", "description", "default"}


def _keys_fit(value: dict[str, Any], rule: dict[str, Any]) -> bool:
    named, patterns = rule.get("properties", {}), rule.get("patternProperties", {})
    for key, item in value.items():
        rules = [named[key]] if key in named else []
        rules += [r for pattern, r in patterns.items() if re.search(pattern, key)]
        rules = rules or [rule.get("additionalProperties", True)]
        if not all(fits(item, r) for r in rules):
            return False
    return all(key in value for key in rule.get("required", []))


CHECKS: dict[str, Callable[[Any, Any, dict[str, Any]], bool]] = {
    "$ref": lambda v, ref, _: fits(v, SCHEMA["$defs"][ref.rsplit("/", 1)[1]]),
    "type": lambda v, kind, _: TYPES[kind](v),
    "enum": lambda v, values, _: v in values,
    "const": lambda v, only, _: v == only,
    "anyOf": lambda v, forms, _: any(fits(v, form) for form in forms),
    "items": lambda v, rule, _: not isinstance(v, list) or all(fits(item, rule) for item in v),
    "prefixItems": lambda v, rules, _: not isinstance(v, list) or all(map(fits, v, rules)),
    "minItems": lambda v, least, _: not isinstance(v, list) or len(v) >= least,
    "maxItems": lambda v, most, _: not isinstance(v, list) or len(v) <= most,
    "pattern": lambda v, pattern, _: not isinstance(v, str) or re.search(pattern, v) is not None,
    "minLength": lambda v, least, _: not isinstance(v, str) or len(v) >= least,
    "maxLength": lambda v, most, _: not isinstance(v, str) or len(v) <= most,
    "minimum": lambda v, least, _: not TYPES["number"](v) or v >= least,
    "maximum": lambda v, most, _: not TYPES["number"](v) or v <= most,
    "exclusiveMinimum": lambda v, least, _: not TYPES["number"](v) or v > least,
    "exclusiveMaximum": lambda v, most, _: not TYPES["number"](v) or v < most,
    **dict.fromkeys(
        ("properties", "patternProperties", "additionalProperties", "required"),
        lambda v, _, rule: not isinstance(v, dict) or _keys_fit(v, rule),
    ),
}  # fmt: skip


def fits(value: Any, rule: Any) -> bool:
    """Whether a value keeps to a rule; a word that is not known here is a KeyError, not a pass."""
    if isinstance(rule, bool):
        return rule
    return all(CHECKS[word](value, argument, rule) for word, argument in rule.items() if word not in WORDS)


def load(path: Path) -> dict[str, Any]:
    found = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_every_shipped_pipeline_keeps_to_the_schema(path):
    assert fits(load(path), SCHEMA)


@pytest.mark.parametrize("path", PARTS, ids=lambda p: p.stem)
def test_every_recipe_keeps_to_it_once_it_is_included(path):
    assert fits({**load(path), "name": "x", "system": "u-net"}, SCHEMA)
    assert fits({"include": [path.name], "name": "x"}, SCHEMA)


def changed(key: str, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(load(ROOT / "pipelines" / "hippocampus.yaml"))
    place = found
    *parents, last = key.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.classes", {"a": 1, "b": [2, 3], "c": {"values": 4}, "5": "d"}),
        ("system", "3d-u-net"),
        ("system", ["3d-u-net", {"name": "v-net", "size": "tiny"}]),
        ("train.folds", 2),
        ("train.folds", "0, 2"),
        ("train.from", "runs/a-1/model"),
        ("predict.prompt", "simulate"),
        ("compute.cluster", "slurm"),
    ],
)
def test_short_forms_are_no_mistakes(key, value):
    assert fits(changed(key, value), SCHEMA)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trian", {}),
        ("train.stpes", 3),
        ("train.steps", "many"),
        ("train.folds", "some"),
        ("train.validate_every", 0),
        ("data.modality", "cta"),
        ("data.split.folds", 1),
        ("data.classes.a", "liver"),
        ("data.classes.a", []),
        ("name", None),
        ("system", 3),
        ("compute.cluster", "slrm"),
    ],
)
def test_mistakes_are_refused(key, value):
    assert not fits(changed(key, value), SCHEMA)


def test_a_file_without_a_system_has_to_include_one():
    found = load(ROOT / "pipelines" / "hippocampus.yaml")
    del found["system"]
    assert not fits(found, SCHEMA)
