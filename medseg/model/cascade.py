"""A model of two stages: the folder of the second holds the first as `previous`, a complete model folder.

The plan of the second stage names the hash of the first, so that the two cannot be exchanged one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError

if TYPE_CHECKING:
    from medseg.model.folder import Model

PREVIOUS = "previous"


def folders_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders that a model which is no ensemble holds."""
    return (PREVIOUS,) if facts["plan"].get("previous") else ()


def add_previous(folder: Path, earlier: Path) -> str:
    """Completes the model folder of a cascade with a copy of its earlier stage. Returns the folder's hash.

    Until then the folder is incomplete and refused. Raises UserError when `earlier` is another model than the plan of
    the folder names.
    """
    from medseg.model.facts import load_facts
    from medseg.model.folder import copy_model, verify_model

    facts = load_facts(folder)
    _require_earlier(facts, verify_model(earlier), earlier)
    copy_model(earlier, folder / PREVIOUS)
    return str(facts["hash"])


def verify_previous(folder: Path, facts: Mapping[str, Any]) -> None:
    """Checks the earlier stage's folder, and that it is the one which the plan names; nothing where there is none."""
    from medseg.model.folder import verify_model

    for name in folders_of(facts):
        _require_earlier(facts, verify_model(folder / name), folder / name)


def load_previous(folder: Path, facts: Mapping[str, Any], device: str) -> Model | None:
    """The earlier stage, or None where there is none."""
    from medseg.model.folder import load_model

    return next((load_model(folder / name, device) for name in folders_of(facts)), None)


def _require_earlier(facts: Mapping[str, Any], found: Mapping[str, Any], place: Path) -> None:
    wanted = str(facts["plan"]["previous"].get("model"))
    if found["hash"] != wanted:
        raise UserError(
            f"expected the earlier stage {wanted[:12]}, found {str(found['hash'])[:12]}",
            str(place),
            "it was exchanged; copy the model folder again, or train the cascade on the new one",
        )
