"""`medseg bench classical`: how its entries are measured and kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medseg.bench.children import Children, ending
from medseg.bench.classical.fit import key_of, wanted
from medseg.bench.classical.recipe import ClassicalRecipe
from medseg.bench.coordinator import Done, Facts, Ways, Wish, folder_of, measure_all, missing
from medseg.bench.entries import machine_facts, write_entry

PARAMS = ("data_set", "system", "state", "error", "key", "rule", "prompted", "arguments", "images", "library")
METRICS = ("dice", "iou", "worst_dice", "oracle_dice", "covering_ods", "covering_ois", "boundary_f_ods",
           "boundary_f_ois", "precision", "recall", "cpu_seconds", "peak_ram_bytes", "added_ram_bytes",
           "library_cpu_seconds", "same_work_cpu_seconds", "ratio")  # fmt: skip
"""What MLflow keeps of an entry, where the entry has it."""

WAITING = 30
"""A process is ended after this many times its processor time, whatever keeps it from computing."""


@dataclass(frozen=True)
class Job:
    """One entry to measure. root: the folder of its set, None where it needs none."""

    data_set: str
    system: str
    key: str
    root: Path | None


def run(wish: Wish[ClassicalRecipe]) -> Done:
    """Measures the entries that are missing. Raises UserError for unknown names and absent folders."""
    recipe = wish.recipe
    todo, kept = missing(wish, list(wanted(recipe, wish.data_sets, wish.systems)), key_of)
    roots = {name: _root(wish, name) for name in dict.fromkeys(name for name, _, _ in todo)}
    jobs = [Job(data_set, system, key, roots[data_set]) for data_set, system, key in todo]
    settings = {"cpu_seconds": recipe.cpu_seconds, "workers": wish.workers}
    ways = Ways(partial(measure_apart, wish), partial(store, wish), line_of, settings, PARAMS, METRICS)
    return measure_all(wish, jobs, kept, ways)


def _root(wish: Wish[ClassicalRecipe], data_set: str) -> Path | None:
    images = wish.recipe.data_set(data_set)
    if images.measures == "speed":
        return None
    return folder_of(wish.data, images.folder or data_set, data_set)


def measure_apart(wish: Wish[ClassicalRecipe], job: Job, children: Children) -> Facts:
    """One entry in its own process; a process that dies is a failed entry."""
    limit = wish.recipe.cpu_seconds
    given = {
        "system": job.system,
        "root": None if job.root is None else str(job.root),
        "cpu_seconds": limit,
        "images": wish.recipe.data_set(job.data_set).model_dump(mode="json"),
    }
    folder = wish.work / job.data_set / job.system
    log = wish.work / "logs" / job.data_set / f"{job.system}.log"
    found, code = children.ask("medseg.bench.classical.one", given, folder, log, 1, WAITING * limit)
    if found is not None:
        return found
    if code is None or ending(code) in ("SIGXCPU", "SIGKILL: memory may not have sufficed"):
        return {"state": "failed", "error": f"took more than {limit} s of processor time and was ended"}
    return {"state": "failed", "error": f"its process ended with {ending(code)}"}


def store(wish: Wish[ClassicalRecipe], facts: Facts, job: Job) -> Facts:
    """Writes an entry with what it was measured on."""
    machine = {name: value for name, value in machine_facts().items() if name != "torch"}
    entry = {
        "data_set": job.data_set,
        "system": job.system,
        **facts,
        "machine": {**machine, **versions()},
        "measured": time.strftime("%Y-%m-%d"),
        "key": job.key,
    }
    write_entry(wish.out, entry)
    return entry


def versions() -> dict[str, str]:
    """The versions of the libraries that classical methods call."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scipy", "scikit-image", "scikit-learn", "SimpleITK")}


def line_of(entry: Facts) -> str:
    """An entry as a line for people."""
    place = f"{entry['data_set']:<12} {entry['system']:<24}"
    if entry["state"] == "failed":
        return f"{place} failed: {entry['error']}"
    names = ("dice", "oracle_dice", "covering_ods", "boundary_f_ods")
    figures = [f"{name} {entry[name]:.3f}" for name in names if name in entry]
    return f"{place} {'  '.join(figures)}  {entry['cpu_seconds']:.2f} s"
