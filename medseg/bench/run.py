"""`medseg bench zoo`: how its entries are measured and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from medseg.bench import entries
from medseg.bench.baselines import BASELINES
from medseg.bench.children import Children, ending
from medseg.bench.coordinator import Done, Facts, Ways, Wish, folder_of, measure_all, missing
from medseg.bench.one import Entry, with_data_set
from medseg.bench.recipe import Recipe
from medseg.bench.table import learns
from medseg.config import System
from medseg.jobs.lock import one_at_a_time
from medseg.zoo.build import find

SHARED = 20
"""Times its minutes that an entry may take before its process is ended: other work may hold the processor meanwhile."""

BESIDE_TRAINING_MINUTES = 20.0
"""What it may take beside that."""

PARAMS = ("data_set", "system", "size", "state", "error", "key", "patch", "rate")
METRICS = ("dice", "miou", "steps", "step_seconds", "image_seconds", "peak_ram_bytes", "parameters", "gflop",
           "train_seconds")  # fmt: skip


def run(wish: Wish[Recipe]) -> Done:
    """Measures the entries that are missing. Raises UserError for unknown names and absent folders."""
    recipe = wish.recipe
    names = list(wish.data_sets) or list(recipe.data_sets)
    asked = list(entries.wanted(recipe, names, wish.systems))
    todo, kept = missing(wish, asked, entries.key_of, partial(is_unfinished, wish))
    roots = {name: root_of(wish, name) for name in dict.fromkeys(name for name, _, _ in todo)}
    bases = {name: prepare(wish, name, root) for name, root in roots.items()}
    jobs = [
        Entry(recipe, data_set, system, size_of(recipe, system), roots[data_set], bases[data_set], key)
        for data_set, system, key in todo
    ]
    settings = {"minutes": recipe.minutes, "common": recipe.common}
    measure: Callable[[Entry, Children], Facts] = partial(measure_until_it_learns, wish)
    return measure_all(
        wish, jobs, kept, Ways(measure, partial(store, wish), line_of, settings, PARAMS, METRICS)
    )


def measure_until_it_learns(wish: Wish[Recipe], job: Entry, children: Children) -> Facts:
    """One entry, trained anew by the recipe's further trials while it does not learn; the best by Dice of these.

    `rate` in the facts is the one it had where that is not the first, `minutes` its training, `tried_minutes` the
    longest of all. Baselines come first in the list of entries.
    """
    best: Facts = {}
    tried = 0.0
    for other, recipe in wish.recipe.trials():
        found = {**measure_apart(wish, replace(job, recipe=recipe), children), **other}
        tried = other["minutes"]
        learnt = None if job.is_baseline else _learns(wish, job.data_set, found)
        if learnt or not best or (found["state"] == "done" and found["dice"] > best.get("dice", -1.0)):
            best = found
        if learnt is not False:
            break
    return {**best, "tried_minutes": tried}


def is_unfinished(wish: Wish[Recipe], held: Facts) -> bool:
    """Whether an entry does not learn and was not given the recipe's longest training yet."""
    longest = wish.recipe.more_minutes or wish.recipe.minutes
    if held["state"] != "done" or held["system"] in BASELINES:
        return False
    short = held.get("tried_minutes", held["minutes"]) < longest
    return short and _learns(wish, held["data_set"], held) is False


def _learns(wish: Wish[Recipe], data_set: str, facts: Facts) -> bool | None:
    """None where a baseline is missing, or the entry failed."""
    held = {name: entries.read_entry(entries.path_of(wish.out, data_set, name)) for name in BASELINES}
    return learns(facts, {name: entry for name, entry in held.items() if entry}, wish.recipe.margin)


def measure_apart(wish: Wish[Recipe], job: Entry, children: Children) -> Facts:
    """One entry in its own process; a process that dies is a failed entry."""
    log = wish.work / "logs" / job.data_set / f"{job.system}.log"
    threads = wish.recipe.settings(job.data_set).get("compute", {}).get("cores", 1)
    seconds = 60 * (SHARED * job.recipe.minutes + BESIDE_TRAINING_MINUTES)
    found, code = children.ask("medseg.bench.one", job.as_json(), job.folder.path, log, threads, seconds)
    if found is not None:
        return found
    if code is None:
        return {"state": "failed", "error": f"took more than {SHARED} times its minutes and was ended"}
    return {"state": "failed", "error": f"its process ended with {ending(code)}"}


def store(wish: Wish[Recipe], facts: Facts, job: Entry) -> Facts:
    """Writes an entry with what it was measured by and on."""
    settings = wish.recipe.settings(job.data_set)
    entry = {
        "data_set": job.data_set, "system": job.system, "size": "" if job.is_baseline else job.size, **facts,
        "seed": settings.get("compute", {}).get("seed", 17),
        "threads": settings.get("compute", {}).get("cores", 1), "workers": wish.workers,
        "machine": entries.machine_facts(), "measured": time.strftime("%Y-%m-%d"), "key": job.key,
    }  # fmt: skip
    entries.write_entry(wish.out, entry)
    return entry


def line_of(entry: Facts) -> str:
    """An entry as a line for people."""
    place = f"{entry['data_set']:<14} {entry['system']:<22}"
    if entry["state"] == "failed":
        return f"{place} failed: {entry['error']}"
    figures = f"Dice {entry['dice']:.3f}  mIoU {entry['miou']:.3f}  {entry['steps']:>5} steps"
    return f"{place} {figures}  {entry['peak_ram_bytes'] / 1e9:.2f} GB"


def size_of(recipe: Recipe, system: str) -> str:
    """The size of a system, or of the network that lends a baseline its plan."""
    return recipe.size_of(find(recipe.reference if system in BASELINES else system))


def root_of(wish: Wish[Recipe], data_set: str) -> Path:
    """The folder of a data set. Raises UserError when it is not there."""
    return folder_of(wish.data, wish.recipe.data_set(data_set).folder or data_set, data_set)


def prepare(wish: Wish[Recipe], data_set: str, root: Path) -> Path:
    """Checks and prepares a data set once for all systems; later calls find it as it is. Returns its run folder."""
    from medseg.pipeline import run as walk

    base = (wish.work / data_set).resolve()
    size = wish.recipe.size_of(find(wish.recipe.reference))
    pipeline = wish.recipe.pipeline(data_set, System(name=wish.recipe.reference, size=size), root)
    pipeline = pipeline.model_copy(update={"track": pipeline.track.model_copy(update={"enabled": False})})
    base.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(base / "preparing.lock", f"the cases of {data_set}"):
        walk(with_data_set(pipeline), base, steps=("check", "plan", "ingest"))
    return base
