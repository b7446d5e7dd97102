"""What may be kept from one prediction to the next: converted networks and the speed of engines on this machine.

It is a cache in the user's own cache folder: deleting it costs time and changes no result, because whether an engine
gives the right labels is measured anew on every cohort.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.core.atomic import write_json
from medseg.core.errors import UserError

CHOICE_FILE = ".engine"


def cache_folder() -> Path | None:
    """`medseg/engines` in the user's cache folder, made if need be; None where nothing may be written."""
    own = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        home = own / "Library" / "Caches"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", str(own)))
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or own / ".cache")
    folder = home / "medseg" / "engines"
    if not folder.is_absolute():
        return None  # a user without a home, as in some containers
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def machine_key(threads: int) -> str:
    """What the speed of an engine depends on beside the model: processor and threads."""
    return f"{_processor()}, {threads} threads"


def _processor() -> str:
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    named = (row.split(":", 1)[1].strip() for row in rows if row.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def read_speeds(model: str, machine: str) -> dict[str, float]:
    """Seconds a window of every engine that was timed before ("openvino bf16" -> 0.5); empty where there are none."""
    found: Any = _read(model).get(machine, {})
    return found if isinstance(found, dict) else {}


def write_speeds(model: str, machine: str, speeds: dict[str, float]) -> None:
    """Keeps what was timed; says nothing where that is not possible."""
    path = _path(model)
    if path is None:
        return
    try:
        write_json(path, {**_read(model), machine: speeds})
    except UserError:
        return  # a cache that cannot be written costs time only


def read_choice(out: Path, facts: Mapping[str, str]) -> dict[str, Any] | None:
    """The choice that the results in `out` were made with; None where they were made otherwise (`facts` differ)."""
    try:
        found = json.loads((out / CHOICE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("facts") != dict(facts):
        return None
    choice = found.get("choice")
    return choice if isinstance(choice, dict) else None


def write_choice(out: Path, facts: Mapping[str, str], choice: Mapping[str, Any]) -> None:
    """Keeps a choice beside the results, so that a prediction that was stopped goes on in the same manner."""
    write_json(out / CHOICE_FILE, {"facts": dict(facts), "choice": dict(choice)})


def _path(model: str) -> Path | None:
    folder = cache_folder() if model else None
    return None if folder is None else folder / f"{model}-speeds.json"


def _read(model: str) -> dict[str, Any]:
    path = _path(model)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
