"""Which images a model has learnt from, and which held-out cases of a run are among them.

A model folder names its training images by their content, as the check hashes it: the same bytes are recognised under
any name and in any data set, and the hash says nothing about what is in them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from medseg.core.run import RunFolder

LETTERS = 16
"""Letters of a hash that are kept: among a million images, two agree by chance once in 30 million data sets."""


class Learnt(NamedTuple):
    """Hashes of images, and whether they are all that the model has learnt from."""

    images: frozenset[str]
    complete: bool


def learnt_by(model: Path) -> Learnt:
    """What a model folder says of its training images; of its members and earlier stages as well."""
    from medseg.model.cascade import folders_of
    from medseg.model.ensemble import member_folders
    from medseg.model.facts import load_facts

    facts = load_facts(model)
    if facts["kind"] == "ensemble":
        parts = [learnt_by(place) for place in member_folders(model, facts).values()]
        return Learnt(frozenset().union(*(p.images for p in parts)), all(p.complete for p in parts))
    said = facts.get("learnt_from") or {}
    earlier = [learnt_by(model / name) for name in folders_of(facts)]
    untaught = facts["kind"] == "classical" and not facts.get("training")
    return Learnt(
        frozenset(map(str, said.get("images", ()))).union(*(p.images for p in earlier)),
        untaught or (bool(said.get("complete")) and all(p.complete for p in earlier)),
    )


def learnt_facts(folder: RunFolder, cases: Collection[str], start: Path | None = None) -> dict[str, Any]:
    """The entry `learnt_from` of model.json. cases: names that were trained on. start: what the weights came from."""
    keys = image_keys(folder)
    own = {keys[case] for case in cases if case in keys}
    before = Learnt(frozenset(), True) if start is None else _learnt_by_start(start)
    return {"images": sorted(own | before.images), "complete": before.complete and set(cases) <= set(keys)}


def _learnt_by_start(start: Path) -> Learnt:
    return learnt_by(start) if start.is_dir() else Learnt(frozenset(), False)


def image_keys(folder: RunFolder) -> dict[str, str]:
    """Case -> hash of its image, of the run's cases that can be used."""
    import pandas as pd

    table = pd.read_parquet(folder.cases)
    if "image_content" not in table:
        return {}
    used = table[(table["status"] == "ok") & table["image_content"].notna()]
    return {str(case): str(content)[:LETTERS] for case, content in zip(used["case"], used["image_content"])}


def seen_before(start: Path, folder: RunFolder) -> str:
    """What to say of a start that has learnt from cases which this run holds out; "" where it has not.

    folder: of one training, or the pooled one of a cross-validation, in which every case is held out once.
    """
    import pandas as pd

    learnt = _learnt_by_start(start)
    table = pd.read_parquet(folder.cases)
    pooled = folder.own_cases is not None and not folder.is_fold
    held = table[table["split"].isin(["val", "test"]) | (table["fold"].notna() if pooled else False)]
    keys = image_keys(folder)
    names = [str(case) for case in held["case"] if case in keys]
    seen = sum(keys[case] in learnt.images for case in names)
    if seen:
        return (
            f"LEAK: train.start_from has learnt from {seen} of the {len(names)} cases that this run holds out, so their "
            "scores say nothing about new cases"
        )
    if names and not learnt.complete:
        return (
            "train.start_from does not say which images it has learnt from: scores flatter if cases that this run "
            "holds out are among them"
        )
    return ""
