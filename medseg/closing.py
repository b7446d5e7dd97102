"""What a walk says at its end: one object for scripts, one block of text for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.core.at_work import say_who_works, who_works
from medseg.core.atomic import read_json
from medseg.core.progress import duration
from medseg.core.run import RunFolder
from medseg.pipeline import ROAD, Walk
from medseg.score.folds import first_seeds, plus_minus

CAME_IN = ("check", "predict")
"""Steps that leave cases out of a run; scoring leaves out what has no label, and that is no loss."""

SHOWN = (
    ("dice", "Dice", 3),
    ("iou", "IoU", 3),
    ("hd95_mm", "HD95 mm", 1),
    ("volume_error_percent", "volume error %", 1),
)


def summary(walk: Walk) -> dict[str, Any]:
    """The object that `medseg run --json` prints."""
    folders = _folders(walk)
    scores = {slug: _scores(folder) for slug, folder in folders.items()}
    first = next(iter(scores.values()))
    out: dict[str, Any] = {
        "run": str(walk.folder.path),
        "mlflow_run_id": walk.mlflow_run_id,
        "scores": first,
        "seconds": {
            **{k: round(v, 2) for k, v in walk.seconds.items()},
            "total": round(walk.total_seconds, 2),
        },
        "peak_ram_gb": round(walk.peak_ram_bytes / 1e9, 3),
        "cases": counts(walk),
    }
    if len(scores) > 1:
        out["systems"] = scores
    if walk.folder.choice.exists() and len(scores) > 1 and walk.pipeline.train.several:
        out["choice"] = read_json(walk.folder.choice)
    return out


def _folders(walk: Walk) -> dict[str, RunFolder]:
    systems = walk.pipeline.systems
    if len(systems) == 1:
        return {systems[0].slug: walk.folder}
    return {s.slug: walk.folder.system(s.slug) for s in systems}


def _scores(folder: RunFolder) -> dict[str, Any] | None:
    if not folder.scores_json.exists():
        return None
    found = read_json(folder.scores_json)
    wanted = (
        "mean",
        "per_class",
        "reference",
        "n",
        "folds",
        *(["trained_on"] if found.get("trained_on") else []),
    )
    return {key: found[key] for key in wanted if key in found}


def counts(walk: Walk) -> dict[str, int]:
    """Cases done, failed, skipped and to look at; done + failed + skipped is the number of cases that came in."""
    failed = {c for r in walk.results.values() for c in r.failed}
    skipped = {c for (step, _), r in walk.results.items() if step in CAME_IN for c in r.skipped} - failed
    review = {c for r in walk.results.values() for c in r.review} - failed - skipped
    came = [r for (step, _), r in walk.results.items() if step == "check"]
    total = sum(r.done + len(r.failed) + len(r.skipped) for r in came)
    return {
        "done": max(0, total - len(failed) - len(skipped)),
        "failed": len(failed),
        "skipped": len(skipped),
        "review": len(review),
    }


def text(walk: Walk) -> str:
    """The block a person reads at the end."""
    lines = ["", f"{walk.pipeline.name}: {_cases_line(walk)}"]
    check = next((r for (step, _), r in walk.results.items() if step == "check"), None)
    if check is not None:
        lines.append(f"  read: {check.line}")
    for slug, folder in _folders(walk).items():
        lines += _score_table(slug, folder)
        lines += _spread_table(folder)
        lines += _per_case(folder)
    lines += [f"  chosen   {r.line}" for (step, _), r in walk.results.items() if step == "choose"]
    lines += [f"  failed   {case}: {reason}" for case, reason in _gather(walk, "failed").items()]
    lines += [
        f"  left out {case}: {reason}"
        for case, reason in list(_gather(walk, "skipped", CAME_IN).items())[:10]
    ]
    review = _gather(walk, "review")
    if review:
        lines += [
            "  look at these first:",
            *(f"    {case}: {reason}" for case, reason in list(review.items())[:10]),
        ]
    used = "  ".join(f"{step} {duration(s)}" for step, s in walk.seconds.items())
    if used:
        peak = f"peak memory {walk.peak_ram_bytes / 1e9:.2f} GB"
        lines.append(f"  time     {duration(walk.total_seconds)} ({used}), {peak}")
    lines.append(f"  results  {walk.folder.path}")
    if walk.folder.report.exists():
        lines.append(f"  report   {walk.folder.report}")
    if walk.mlflow_run_id:
        lines.append(f"  MLflow   medseg ui {walk.folder.path}")
    return "\n".join(lines)


def _cases_line(walk: Walk) -> str:
    number = counts(walk)
    return f"{number['done']} cases done ({number['review']} to look at), {number['failed']} failed, {number['skipped']} left out"


def _gather(walk: Walk, kind: str, steps: Sequence[str] = ROAD) -> dict[str, str]:
    results = [r for (step, _), r in walk.results.items() if step in steps]
    return {case: reason for r in results for case, reason in getattr(r, kind).items()}


def _score_table(slug: str, folder: RunFolder) -> list[str]:
    scores = read_json(folder.scores_json) if folder.scores_json.exists() else {}
    if not scores.get("per_class"):
        return [f"  {slug}"]
    against = scores.get("reference", "label")
    head = f"  {slug}" + ("" if against == "label" else f"  agreement with {against}, which is not truth")
    learnt = len(scores.get("trained_on", ()))
    if learnt:
        head += f"  no measure of new cases: the model has learnt from {learnt} of {scores['n']}"
    rows = [head, "    " + "class".ljust(22) + "".join(title.rjust(16) for _, title, _ in SHOWN)]
    for name, values in [*scores.get("per_class", {}).items(), ("mean", scores.get("mean", {}))]:
        rows.append(
            "    " + name[:22].ljust(22) + "".join(_number(values.get(k), d).rjust(16) for k, _, d in SHOWN)
        )
    return rows


def _spread_table(folder: RunFolder) -> list[str]:
    """Dice of every class over folds and over seeds, and what cross-validation chose to do after the network."""
    scores = read_json(folder.scores_json) if folder.scores_json.exists() else {}
    if "folds" not in scores:
        return []
    folds = scores["folds"]
    rows = []
    for over, title in (("over_folds", "folds"), ("over_seeds", "seeds")):
        found = folds[over]
        if not found or len(folds[title]) < 2:
            continue
        named = [*found["per_class"].items(), ("mean", found["mean"])]
        parts = [f"{name} {plus_minus(v['dice'])}" for name, v in named if "dice" in v]
        rows.append(f"    Dice over {len(folds[title])} {title}: {', '.join(parts)}")
    ones = [f"{one['name']} {_number(one['mean'].get('dice'), 3)}" for one in folds["trainings"]]
    rows.append(f"    trainings: {', '.join(ones)}")
    if folds["left_out"]:
        rows.append(f"    made with other settings, left out: {', '.join(folds['left_out'])}")
    if folder.postprocessing.exists():
        rows.append(f"    post-processing: {_steps(read_json(folder.postprocessing))}")
    return rows


def _steps(facts: Mapping[str, Any]) -> str:
    words = {"keep_largest_of_all": "largest part of all classes together", "keep_largest": "largest part of",
             "fill_holes": "filled holes of"}  # fmt: skip
    named = [f"{words[step['step']]} {step['class']}".strip() for step in facts["steps"]]
    return ", ".join(named) or "none helps"


def _value(values: Mapping[str, Any], key: str) -> Any:
    """The figure; photographs have distances in pixels."""
    return values.get(key) if values.get(key) is not None else values.get(key.replace("_mm", "_px"))


def _per_case(folder: RunFolder) -> list[str]:
    rows = []
    places = [folder.predictions] if folder.predictions.is_dir() else []
    if not places:
        places = [member.predictions for member in first_seeds(folder.finished_folds())]
    if places:
        found = (p for place in places for p in place.glob("*.json") if not p.name.startswith("."))
        files = sorted(found, key=lambda path: path.name)
        for path in files[:30]:
            facts = read_json(path)
            volumes = ", ".join(
                f"{n} {v:,.0f} ml" for n, v in facts.get("volumes_ml", {}).items() if v is not None
            )
            scores = _case_dice(folder, facts["case"])
            cost = f"{facts.get('seconds', 0):.1f} s, {facts.get('peak_ram_bytes', 0) / 1e9:.2f} GB"
            rows.append(f"    {facts['case']:<20} {scores:<14} {cost:<18} {volumes}")
        if len(files) > 30:
            rows.append(f"    ... and {len(files) - 30} more in the report")
    return ["    case                 mean Dice      seconds, memory", *rows] if rows else []


def _case_dice(folder: RunFolder, case: str) -> str:
    values = read_json(folder.scores_json).get("per_case", {}) if folder.scores_json.exists() else {}
    value = values.get(case, {}).get("dice")
    return "" if value is None else f"{value:.3f}"


def _number(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def failed_steps(path: Path) -> tuple[str, ...]:
    """The steps of a run in which cases failed; UserError where there is none."""
    from medseg.core.errors import UserError

    facts = status(path)
    steps = {case["step"] for case in facts["cases"] if case["state"] == "failed"}
    if not steps:
        raise UserError("no case failed before", str(path), "leave out --only failed to do all cases")
    return tuple(step for step in ROAD if step in steps)


def status(path: Path) -> dict[str, Any]:
    """What `medseg status RUN` shows: the steps with their lines, and the cases that are not plainly done."""
    from medseg.jobs import journal

    folder = RunFolder(path)
    systems = sorted((path / "systems").glob("*")) if (path / "systems").is_dir() else []
    places = {"": folder, **{s.name: folder.system(s.name) for s in systems}}
    trainings = {
        f"{name}/{path.name}".lstrip("/"): place.fold(path.name)
        for name, place in places.items()
        for path in sorted(place.path.glob("folds/*"))
        if path.is_dir()
    }
    steps = {name: place.steps_done() for name, place in {**places, **trainings}.items()}
    journals = [folder.journal, *(place.journal for place in trainings.values())]
    outcomes = [
        dict(zip(("step", "system", "case", "state", "reason"), row))
        for one in journals
        for row in journal.outcomes(one)
    ]
    return {
        "run": str(path),
        "at_work": who_works(path),
        "unfinished": unfinished(folder, steps, [*places.values(), *trainings.values()]),
        "steps": {
            system: {s: {"line": f["line"], "seconds": f["seconds"]} for s, f in done.items()}
            for system, done in steps.items()
        },
        "cases": outcomes,
    }


def unfinished(
    folder: RunFolder, steps: Mapping[str, Mapping[str, Any]], places: Sequence[RunFolder]
) -> dict[str, Any] | None:
    """What a run has still before it; None once its page is made and no killed process left a mark.

    `next`: the step that comes next, where one training is all there is. `trainings`: folder -> steps and seconds of a
    training that began and is not over, and whether a checkpoint is there. `predict`: cases done and waiting.
    `call`: the command that goes on with the settings of the run.
    """
    if "report" in steps[""] and not who_works(folder.path)["killed"]:
        return None
    alone = [step for step in ROAD if step not in steps[""]] if len(places) == 1 else []
    return {
        "next": alone[0] if alone else None,
        "trainings": {
            str(place.path.relative_to(folder.path)): _begun(place)
            for place in places
            if "train" not in place.steps_done() and place.history.is_file()
        },
        "predict": _counted(folder, "predict"),
        "call": f"medseg run {shlex.quote(str(folder.pipeline_file))} --out {shlex.quote(str(folder.path))}",
    }


def _begun(place: RunFolder) -> dict[str, Any]:
    """How far a training came, by the last whole line of its history."""
    last: dict[str, Any] = {}
    for line in place.history.read_text(encoding="utf-8").splitlines():
        try:
            last = json.loads(line)
        except json.JSONDecodeError:
            break  # half a line: the process was killed while it wrote
    kept = (place.checkpoints / "last.safetensors").is_file()
    return {"step": last.get("step", 0), "seconds": last.get("seconds", 0.0), "checkpoint": kept}


def _counted(folder: RunFolder, step: str) -> dict[str, int] | None:
    """Cases done and waiting of a step that has still some to do."""
    from medseg.jobs import journal

    found = journal.counts(folder.journal, step)
    waiting = found.pop("waiting", 0)
    return {"done": sum(found.values()), "waiting": waiting} if waiting else None


def unfinished_lines(facts: Mapping[str, Any]) -> list[str]:
    """What `medseg status` says of a run that is not over, for people."""
    left = facts["unfinished"]
    lines = []
    if left is not None:
        for name, about in left["trainings"].items():
            named = "" if name == "." else f"{name} "
            kept = (
                "its checkpoint is kept" if about["checkpoint"] else "no checkpoint yet, it will begin again"
            )
            far = f"step {about['step']} after {duration(about['seconds'])}"
            lines.append(f"train    {named}not finished: {far}, {kept}")
        if left["predict"]:
            lines.append(
                f"predict  not finished: {left['predict']['done']} cases done, {left['predict']['waiting']} waiting"
            )
        if left["next"] and not lines:
            lines.append(f"{left['next']:<8} comes next")
    call = "" if left is None else f"`{left['call']}`"
    says = say_who_works(facts["at_work"], call or "the same command")
    if not says and left is not None:
        says = f"{call} goes on"
    return [*lines, *([says] if says else [])]
