"""model.json: what a model folder says about its weights, and the checks it has to pass. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from medseg.config import Plan, System
from medseg.config_file import Source, validate
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo

FORMAT = 1
FACTS_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
MAX_BYTES = 20_000_000
REQUIRED = ("format", "kind", "system", "plan", "classes", "weights", "hash")
INTENDED_USE = (
    "Research. Not a medical device: a person has to check every result before it is used for a decision."
)
LICENCE = "not stated: the terms of the training data and of whoever trained it apply"


WRONGLY_MADE = "the file was put together wrongly; train again or get the model anew"


def make_facts(
    *,
    kind: str,
    system: Mapping[str, Any],
    plan: Plan,
    weights: Mapping[str, Any] | None,
    scores: Mapping[str, Any],
    data_hash: str,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """All that model.json holds.

    system: {name, size, arguments, package, dims, in_channels, out_channels}. weights: {file, sha256, bytes,
    parameters} or None for classical systems that learnt nothing but arguments. scores: with n, the number of cases. `extra` may state licence and
    intended_use and add further facts, but replaces none of the required ones.
    """
    facts = {
        "format": FORMAT,
        "kind": kind,
        "system": dict(system),
        "classes": list(plan.classes),
        "plan": plan.model_dump(mode="json"),
        "weights": None if weights is None else dict(weights),
        "data_hash": data_hash,
        "scores": dict(scores),
        "volume_ml": {name: list(span) for name, span in plan.volume_ml.items()},
        "licence": LICENCE,
        "intended_use": INTENDED_USE,
        "versions": versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    fixed = {key: facts[key] for key in facts if key not in ("licence", "intended_use")}
    facts = {**facts, **extra, **fixed}
    return {**facts, "hash": model_hash(facts)}


def versions() -> dict[str, str]:
    """Versions of what made the model, as installed (nothing is imported for it)."""
    found = {"python": platform.python_version()}
    for name in ("medseg", "torch", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def model_hash(facts: Mapping[str, Any]) -> str:
    """sha256 over what decides a prediction: system, classes, weights, post-processing, the plan without its reasons.

    Times, scores and versions are left out, so two trainings with one seed on one machine have one hash.
    """
    plan = {k: v for k, v in facts["plan"].items() if k not in ("reasons", "estimate")}
    kept = {
        "format": facts["format"],
        "kind": facts["kind"],
        "system": facts["system"],
        "classes": facts["classes"],
        "plan": plan,
        "weights": (facts["weights"] or {}).get("sha256"),
    }
    for key in ("postprocessing", "frame"):
        if key in facts:
            kept[key] = facts[key]
    return hashlib.sha256(
        json.dumps(kept, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def load_facts(folder: Path) -> dict[str, Any]:
    """Reads and checks model.json: format, required entries, its own hash. Loads no torch, reads no weights.

    Raises UserError that says what was expected and what was found.
    """
    folder = Path(folder)
    path = folder / FACTS_FILE
    if not folder.is_dir():
        raise UserError("no such model folder", str(folder), "give the folder that holds model.json")
    if path.is_symlink():
        raise UserError("is a link; a model folder holds its own files", str(path), "copy the file itself")
    if not path.is_file():
        raise UserError(
            f"expected {FACTS_FILE} in the model folder, found {_listing(folder)}",
            str(folder),
            "give the folder that `medseg train` wrote: RUN/model",
        )
    facts = _parse(path)
    _check_entries(facts, path)
    _check_hash(facts, path)
    return facts


def require_network(facts: Mapping[str, Any], folder: Path) -> None:
    """Raises UserError where the model of a folder is no single network: nothing else has weights of its own."""
    if facts["kind"] == "ensemble":
        names = ", ".join(str(member["name"]) for member in facts["weights"]["members"])
        raise UserError(
            "is an ensemble, which has no weights of its own",
            str(folder),
            f"give the folder of one of its members: {names}",
        )
    if facts["kind"] != "network":
        raise UserError(
            f"holds the classical system {facts['system'].get('name')}, which has no weights",
            str(folder),
            "give the model folder of a network",
        )


def read_plan(facts: Mapping[str, Any], where: str) -> Plan:
    """The plan stored in model.json; UserError with every fault when it does not hold."""
    plan: Plan = validate(Plan, Source(dict(facts["plan"])), f"{where}, plan", WRONGLY_MADE)
    expected = len(plan.classes) if plan.overlapping else len(plan.classes) + plan.background
    if plan.out_channels != expected:
        raise UserError(
            f"expected {expected} output channels for {len(plan.classes)} classes, found {plan.out_channels}",
            where,
            WRONGLY_MADE,
        )
    if plan.intensity and len(plan.intensity) != plan.image_channels:
        raise UserError(
            f"expected an entry of plan.intensity for each of {plan.image_channels} channels, found {len(plan.intensity)}",
            where,
            WRONGLY_MADE,
        )
    return plan


def read_system(facts: Mapping[str, Any], where: str) -> System:
    """The system stored in model.json; UserError where the catalog means other numbers by its size by now."""
    stored = {key: facts["system"].get(key) for key in ("name", "size", "arguments")}
    stored["configuration"] = facts["system"].get("configuration", "full")
    system: System = validate(System, Source(stored), where)
    if "size_arguments" in facts["system"]:
        _require_size(system, facts["system"]["size_arguments"], where)
    return system


def _require_size(system: System, trained: Mapping[str, Any], where: str) -> None:
    """Numbers that leave the weights' shapes alone, a dilation say, would change the results and nobody would see it."""
    from medseg.zoo.build import find

    try:
        sizes = find(system.name).sizes
    except UserError:
        return  # which package is missing is said where the system is built
    now = json.loads(json.dumps(sizes.get(system.size, {})))
    changed = sorted(name for name in {*trained, *now} if trained.get(name) != now.get(name))
    if changed:
        raise UserError(
            f"size {system.size} of {system.name} has changed since this model was trained",
            where,
            "train again, or use the medseg version in model.json",
            [f"{name} was {trained.get(name, 'not set')}, is {now.get(name, 'not set')}" for name in changed],
        )


def read_classes(facts: Mapping[str, Any], where: str) -> tuple[ClassInfo, ...]:
    """The classes stored in model.json, without background."""
    try:
        return tuple(ClassInfo.from_json(entry) for entry in facts["classes"])
    except (KeyError, TypeError, ValueError) as err:
        raise UserError(
            f"expected name, index and colour for every class, found {facts['classes']!r}", where
        ) from err


def _parse(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"expected at most {MAX_BYTES} bytes of facts, found {size}", str(path))
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as err:
        raise UserError(
            f"expected JSON, found something else ({err})", str(path), "the file is damaged; get it again"
        ) from err
    if not isinstance(facts, dict):
        raise UserError(f"expected a JSON object, found a {type(facts).__name__}", str(path))
    return facts


def _check_entries(facts: Mapping[str, Any], path: Path) -> None:
    if facts.get("format") != FORMAT:
        raise UserError(
            f"expected model format {FORMAT}, found {facts.get('format')!r}",
            str(path),
            "update medseg, or train the model again with this version",
        )
    missing = [key for key in REQUIRED if key not in facts]
    if missing:
        raise UserError(
            f"expected the entries {', '.join(REQUIRED)}; {', '.join(missing)} missing",
            str(path),
            "the file is not complete; get the model again",
        )
    kinds: dict[str, type | tuple[type, ...]] = {"system": dict, "plan": dict, "classes": list}
    for key, kind in {**kinds, "weights": (dict, type(None))}.items():
        if not isinstance(facts[key], kind):
            raise UserError(f"expected {key} as {kind}, found {type(facts[key]).__name__}", str(path))
    if facts["kind"] not in ("network", "classical", "ensemble"):
        raise UserError(f"expected kind network, ensemble or classical, found {facts['kind']!r}", str(path))
    if facts["weights"] is None and facts["kind"] != "classical":
        raise UserError(f"expected weights, found kind {facts['kind']} without weights", str(path))


def _check_hash(facts: Mapping[str, Any], path: Path) -> None:
    found = model_hash(facts)
    if found != facts["hash"]:
        raise UserError(
            f"expected the model hash {str(facts['hash'])[:12]}, found {found[:12]}: model.json was changed "
            "after it was written",
            str(path),
            "undo the change, or train again with the wanted settings",
        )


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "nothing"
