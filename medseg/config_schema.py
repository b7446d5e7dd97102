"""The JSON schema of the pipeline file as people write it: with includes and with every short form that is read."""

from __future__ import annotations

from typing import Any

from medseg.config import Pipeline

DRAFT = "https://json-schema.org/draft/2020-12/schema"

WHOLE: dict[str, Any] = {"type": "integer"}
TEXT: dict[str, Any] = {"type": "string"}


def file_schema() -> dict[str, Any]:
    """Draft 2020-12. The types' own schema knows the long forms alone; editors would underline what is right."""
    schema = Pipeline.model_json_schema()
    kinds = schema["$defs"]
    classes = kinds["Data"]["properties"]["classes"]
    # `liver: 1`, `liver: [1, 2]`, `liver: {values: 1}` and, as Decathlon writes it, `1: liver`.
    values = kinds["ClassSpec"]["properties"]["values"]
    _also(values, WHOLE)
    forms = [classes["additionalProperties"], WHOLE, {"type": "array", "items": WHOLE, "minItems": 1}]
    classes["patternProperties"] = {"^[0-9]+$": {"anyOf": [TEXT, *forms]}}
    classes["additionalProperties"] = {"anyOf": forms}
    system = schema["properties"]["system"]
    system["anyOf"] = [*system["anyOf"], TEXT]
    several = next(form for form in system["anyOf"] if form.get("type") == "array")
    several["items"] = {"anyOf": [several["items"], TEXT]}
    _also(kinds["Train"]["properties"]["folds"], WHOLE, {**TEXT, "pattern": r"^[0-9]+( *, *[0-9]+)*$"})
    _also(kinds["Predict"]["properties"]["prompt"], TEXT)
    _also(kinds["Compute"]["properties"]["cluster"], kinds["Cluster"]["properties"]["kind"])
    kinds["Train"]["properties"]["from"] = kinds["Train"]["properties"]["start_from"]
    schema["properties"]["include"] = {
        "description": "other files whose settings come first; this file's own win",
        "anyOf": [TEXT, {"type": "array", "items": TEXT}],
    }
    # What a file leaves out may come from one that it includes.
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["include"]}]
    return {"$schema": DRAFT, **schema}


def _also(key: dict[str, Any], *forms: dict[str, Any]) -> None:
    """Further forms of one key's value, beside those that it has."""
    if "anyOf" not in key:
        words = ("description", "title", "default")
        own = {name: key.pop(name) for name in list(key) if name not in words}
        key["anyOf"] = [own] if own else []
    key["anyOf"] = [*key["anyOf"], *forms]
