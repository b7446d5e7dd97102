"""A model folder of several members whose outputs are averaged.

`model.json` (kind: ensemble) names the members; each lies in a folder of its own below, a complete model folder.
Members may be different trainings or different systems, as long as they know the same classes. Those that see the same
windows of the same grid are one configuration, averaged window by window; the means of several configurations are
averaged on the case's own grid (`Model.parts`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Plan
from medseg.config_types import OF_PARTS
from medseg.core.atomic import write_json
from medseg.core.errors import UserError
from medseg.model.facts import (
    FACTS_FILE,
    WEIGHTS_FILE,
    load_facts,
    make_facts,
    model_hash,
    read_classes,
    read_plan,
    read_system,
)
from medseg.model.folder import Model, check_files, load_model, new_folder, verify_model

if TYPE_CHECKING:
    from torch import nn

SAME = ("dims", "in_channels", "out_channels", "overlapping", "background", "spacing_mm", "spacing_px", "intensity",
        "crop", "image_order", "patch_size", "window", "margin", "mirror_axes", "swap_sides", "flips", "guided_filter",
        *OF_PARTS, "previous")  # fmt: skip
"""What of the plans agrees within a configuration: it decides what the networks see."""

COMMON = ("dims", "out_channels", "overlapping", "background", "crop", "guided_filter", *OF_PARTS)
"""What of the plans has to agree in any ensemble: what the channels mean, which box of a case is looked at, what is
done with the mask."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")
"""Names that members may have: they become folders."""


def save_ensemble(
    folder: Path,
    members: Mapping[str, Path],
    *,
    postprocessing: Sequence[Mapping[str, str]] = (),
    scores: Mapping[str, Any] | None = None,
    data_hash: str = "",
) -> str:
    """Writes a model folder of members (name -> model folder), whole or not at all. Returns its hash.

    postprocessing: steps {step, class} that are done after the network. Weights are hard links where the file system
    has them, else copies. Raises UserError for members that do not go together.
    """
    facts = ensemble_facts(
        {name: verify_model(path) for name, path in members.items()},
        postprocessing=postprocessing,
        scores=scores,
        data_hash=data_hash,
    )
    with new_folder(Path(folder)) as part:
        for name, path in members.items():
            _place(path, part / name)
        write_json(part / FACTS_FILE, json.loads(json.dumps(facts, allow_nan=False)))
    return str(facts["hash"])


def ensemble_facts(
    members: Mapping[str, Mapping[str, Any]],
    *,
    postprocessing: Sequence[Mapping[str, str]] = (),
    scores: Mapping[str, Any] | None = None,
    data_hash: str = "",
) -> dict[str, Any]:
    """What model.json of an ensemble holds. Raises UserError that names the difference of members that differ."""
    require_alike(members)
    first = next(iter(members.values()))
    plan = read_plan(first, next(iter(members)))
    slugs = list(dict.fromkeys(read_system(facts, name).slug for name, facts in members.items()))
    mixed = {"name": " + ".join(slugs), "size": "paper", "arguments": {}}
    system = {**first["system"], **(mixed if len(slugs) > 1 else {})}
    listed = [
        {"name": name, "hash": facts["hash"], "sha256": facts["weights"]["sha256"]}
        for name, facts in members.items()
    ]
    weights = {
        "members": listed,
        "sha256": hashlib.sha256("\n".join(str(one["hash"]) for one in listed).encode()).hexdigest(),
        "bytes": sum(int(facts["weights"].get("bytes", 0)) for facts in members.values()),
        "parameters": sum(int(facts["weights"].get("parameters", 0)) for facts in members.values()),
    }
    facts = make_facts(
        kind="ensemble",
        system=system,
        plan=plan,
        weights=weights,
        scores=scores or {},
        data_hash=data_hash,
        extra={
            "postprocessing": [dict(step) for step in postprocessing],
            **({"upright": first["upright"]} if "upright" in first else {}),
        },
    )
    return {**facts, "hash": model_hash(facts)}


def require_alike(members: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError that names what two members differ in: they could not be averaged voxel by voxel."""
    if not members:
        raise UserError("an ensemble needs members", hint="give at least one model folder")
    (first, ours), *rest = members.items()
    for name, facts in members.items():
        if facts["kind"] != "network":
            raise UserError(
                f"{name} is a {facts['kind']} model; only networks have outputs that can be averaged",
                "ensemble",
                "give model folders of single networks",
            )
    faults = [
        f"{key}: {first} has {_short(left)}, {name} has {_short(right)}"
        for name, theirs in rest
        for key, left, right in _differences(ours, theirs, COMMON)
    ]
    if faults:
        raise UserError(
            f"{len(members)} models cannot be averaged: they differ in {len(faults)} thing{'s' * (len(faults) > 1)}",
            "ensemble",
            "members have to know the same classes and take the same images",
            faults[:12],
        )


def configurations_of(members: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The names of members in groups that see the same windows of the same grid."""
    groups: list[list[str]] = []
    for name, facts in members.items():
        fitting = (group for group in groups if not _differences(members[group[0]], facts, SAME))
        group = next(fitting, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Sequence[str]
) -> list[tuple[str, Any, Any]]:
    sides = [
        {
            "classes": [f"{c['name']} ({c['index']})" for c in facts["classes"]],
            "image channels": _image_channels(facts["plan"]),
            **{key: facts["plan"].get(key, _default(key)) for key in keys},
        }
        for facts in (ours, theirs)
    ]
    return [(key, sides[0][key], sides[1][key]) for key in sides[0] if sides[0][key] != sides[1][key]]


def _image_channels(plan: Mapping[str, Any]) -> int:
    """Channels of the image alone, without the masks of an earlier stage."""
    previous = plan.get("previous")
    return int(plan["in_channels"]) - (len(previous["classes"]) if previous else 0)


def _default(key: str) -> Any:
    """What a plan has that was made before it had the key."""
    return Plan.model_fields[key].get_default(call_default_factory=True)


def member_folders(folder: Path, facts: Mapping[str, Any]) -> dict[str, Path]:
    """Name -> model folder of every member. Raises UserError for names that would lead elsewhere."""
    listed = (facts["weights"] or {}).get("members")
    if not isinstance(listed, list) or not listed:
        raise UserError("expected a list of members, found none", str(Path(folder) / FACTS_FILE))
    names = [str(one.get("name")) if isinstance(one, dict) else "" for one in listed]
    for name in names:
        if not NAME.fullmatch(name) or ".." in name:
            raise UserError(f"expected the name of a member, found {name!r}", str(Path(folder) / FACTS_FILE))
    return {name: Path(folder) / name for name in names}


def verify_members(folder: Path, facts: Mapping[str, Any]) -> None:
    """Checks every member's folder, that it is the one that is named, and that nothing else lies there."""
    places = member_folders(folder, facts)
    check_files(folder, {FACTS_FILE, *places})
    found = {name: verify_model(place) for name, place in places.items()}
    for one in facts["weights"]["members"]:
        if found[one["name"]]["hash"] != one.get("hash"):
            raise UserError(
                f"expected the model {str(one.get('hash'))[:12]}, found {str(found[one['name']]['hash'])[:12]}",
                str(places[one["name"]]),
                "the member was exchanged; copy the model folder again",
            )
    require_alike(found)


def load_models(folders: Sequence[Path], device: str = "cpu") -> Model:
    """One model folder as it is; several as one model whose members' outputs are averaged."""
    if len(folders) == 1:
        return load_model(folders[0], device)
    members = _flat(folders)
    return assemble(facts_of(folders), members, device, "ensemble")


def facts_of(folders: Sequence[Path]) -> dict[str, Any]:
    """model.json of one folder, or what it would be for the ensemble of several. Reads no weights."""
    if len(folders) == 1:
        return load_facts(folders[0])
    return ensemble_facts({name: load_facts(path) for name, path in _flat(folders).items()})


def assemble(facts: Mapping[str, Any], members: Mapping[str, Path], device: str, where: str) -> Model:
    """Loads every member; the network of the model holds them as `members`."""
    loaded = {name: load_model(path, device) for name, path in members.items()}
    for name, member in loaded.items():
        if member.net is None:
            raise UserError(f"{name} has no network", where)
    groups = configurations_of({name: member.facts for name, member in loaded.items()})
    parts = [[loaded[name] for name in group] for group in groups]
    first = next(iter(loaded.values()))
    return replace(
        first,
        net=_mean_of(list(loaded.values())),
        plan=read_plan(facts, where),
        classes=read_classes(facts, where),
        system=read_system(facts, where),
        hash=str(facts["hash"]),
        facts=facts,
        previous=first.previous if len(parts) == 1 else None,
        parts=tuple(_as_one(models) for models in parts) if len(parts) > 1 else (),
    )


def _as_one(models: Sequence[Model]) -> Model:
    """The models of one configuration as one; one alone stays as it is."""
    return models[0] if len(models) == 1 else replace(models[0], net=_mean_of(models))


def _mean_of(models: Sequence[Model]) -> nn.Module:
    from medseg.model.members import Members

    return Members([model.net for model in models if model.net is not None]).eval()


def copy_ensemble(source: Path, facts: Mapping[str, Any], target: Path) -> None:
    """Copies a verified folder of members."""
    with new_folder(target) as part:
        for name, place in member_folders(source, facts).items():
            _place(place, part / name)
        shutil.copyfile(source / FACTS_FILE, part / FACTS_FILE)


def _flat(folders: Sequence[Path]) -> dict[str, Path]:
    """The members of several folders; an ensemble among them brings its own."""
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    for folder in folders:
        facts = load_facts(folder)
        own = member_folders(folder, facts) if facts["kind"] == "ensemble" else {"": Path(folder)}
        for name, path in own.items():
            if path.resolve() in seen:
                raise UserError("a model is given twice", str(path), "name every model folder once")
            seen.add(path.resolve())
            found["/".join(part for part in (str(folder), name) if part)] = path
    return found


def _place(source: Path, target: Path) -> None:
    """A model's files in another folder; weights never change in place, so a hard link is as good as a copy."""
    target.mkdir()
    shutil.copyfile(source / FACTS_FILE, target / FACTS_FILE)
    for folder in sorted(path for path in source.iterdir() if (path / FACTS_FILE).is_file()):
        _place(folder, target / folder.name)  # the earlier stage of a cascade, and its members
    if not (source / WEIGHTS_FILE).is_file():
        return
    try:
        os.link(source / WEIGHTS_FILE, target / WEIGHTS_FILE)
    except OSError:
        shutil.copyfile(source / WEIGHTS_FILE, target / WEIGHTS_FILE)


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."
