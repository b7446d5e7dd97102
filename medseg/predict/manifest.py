"""One table of everything a folder of predictions holds, in the forms that programs and people open.

`manifest/manifest.json`, `.csv` and `.parquet` have one row a case, those to look at first: its state, files with sha256, volumes, flags, model,
time and memory. `manifest/failed.csv` lists what failed, `manifest/journal*.sqlite` what became of each case; a job that
does a share of the cases has a journal of its own, since SQLite does not belong to two machines at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from medseg.core.atomic import atomic_path, read_json, write_text
from medseg.core.errors import UserError
from medseg.core.run import Result
from medseg.jobs.journal import outcomes, record

FOLDER = "manifest"
ORDER = ("review", "failed", "done")
COLUMNS = ("case", "state", "reason", "files", "sha256", "bytes", "model", "system", "medseg", "engine", "windows", "seconds",
           "peak_ram_bytes", "voxels", "volumes_ml", "intensity", "probability", "entropy", "disagreement",
           "confidence", "flags", "notes", "input")  # fmt: skip


def journal_of(out: Path, shard: str = "") -> Path:
    """The journal of all calls on a folder, or of those that do one share of it."""
    return out / FOLDER / f"journal{'-' + shard if shard else ''}.sqlite"


def record_result(out: Path, result: Result, shard: str = "") -> None:
    """Closes the journal of this call."""
    record(journal_of(out, shard), "", result, noted=True)


def failed_before(out: Path) -> dict[str, str]:
    """Case -> reason of all that failed in this folder and did not come through since."""
    from medseg.predict.outputs import read_sidecar

    found: dict[str, str] = {}
    for journal in sorted((out / FOLDER).glob("journal*.sqlite")):
        found.update({case: reason for _, _, case, _, reason in outcomes(journal, "failed")})
    return {case: reason for case, reason in found.items() if not read_sidecar(out, case)}


@dataclass(frozen=True)
class States:
    """What became of the cases of a folder of masks, over all its journals.

    counts: state -> number, which add up to what was found in the data: done, review, failed, waiting, left_out.
    named: (case, state, reason) of those that failed or want a look. not_begun: those of the waiting that are in no
    call yet, such as the other shares of a cohort.
    """

    counts: dict[str, int]
    named: list[tuple[str, str, str]]
    not_begun: list[str]


def states_of(out: Path) -> States:
    """What the journals beside the masks say, and the masks themselves: a journal may be behind them."""
    from medseg.predict.outputs import read_sidecar

    known: dict[str, tuple[str, str]] = {}
    journals = sorted((out / FOLDER).glob("journal*.sqlite"))
    # Every share lists all cases, so that what another one found out of them counts for more.
    for states in (("listed", "skipped"), ("waiting", "failed", "done", "review")):
        for journal, state in product(journals, states):
            rows = outcomes(journal, state)
            known.update({case: (state, reason) for step, _, case, _, reason in rows if step == "predict"})
    if not journals:  # taken away by somebody: what lies here is all that is known
        known = {row["case"]: (row["state"], row["reason"]) for row in _rows(out, {})}
    for case, (state, _) in known.items():
        if state in ("listed", "waiting", "failed") and (facts := read_sidecar(out, case)):
            flags = "; ".join(facts.get("flags", []))
            known[case] = ("review" if flags else "done", flags)
    count = Counter(state for state, _ in known.values())
    counts = {state: count[state] for state in ("done", "review", "failed")}
    counts |= {"waiting": count["waiting"] + count["listed"], "left_out": count["skipped"]}
    named = [
        (case, state, reason) for case, (state, reason) in known.items() if state in ("review", "failed")
    ]
    named.sort(key=lambda row: (ORDER.index(row[1]), row[0]))
    return States(counts, named, sorted(case for case, (state, _) in known.items() if state == "listed"))


def write_manifest(
    out: Path, failed: Mapping[str, str] | None = None, left_out: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Makes the manifest anew from what lies in `out`; unchanged files are not written again. Returns its totals.

    failed: case -> reason; default: what the journals beside the manifest say. left_out: what is no case, and why.
    Cases that want a look come first, then those that failed.
    """
    import pandas

    rows = _rows(out, failed_before(out) if failed is None else failed)
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"cases": rows, "totals": _totals(rows), "left_out": dict(left_out or {})}
    text = json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    target = folder / "manifest.json"
    tables = [folder / "manifest.csv", folder / "manifest.parquet", folder / "failed.csv"]
    if target.is_file() and target.read_text(encoding="utf-8") == text and all(t.is_file() for t in tables):
        return facts["totals"]  # type: ignore[return-value]
    flat = [{key: _flat(row.get(key)) for key in COLUMNS} for row in rows]
    wide = pandas.DataFrame([{**row, **_volumes(full)} for row, full in zip(flat, rows)], columns=None)
    if wide.empty:
        wide = pandas.DataFrame(columns=list(COLUMNS))
    with atomic_path(tables[0]) as part:
        wide.to_csv(part, index=False)
    with atomic_path(tables[1]) as part:
        wide.to_parquet(part, index=False)
    with atomic_path(tables[2]) as part:
        wide[wide["state"] == "failed"][["case", "reason"]].to_csv(part, index=False)
    write_text(target, text)
    return facts["totals"]  # type: ignore[return-value]


def _rows(out: Path, failed: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(out.glob("[!.]*.json")):
        try:
            facts = read_json(path)
        except UserError:
            continue  # a damaged one counts as absent: the case is done again
        if isinstance(facts, dict) and "case" in facts and "files" in facts:
            rows.append(_row(out, facts))
    done = {row["case"] for row in rows}
    rows += [
        {"case": case, "state": "failed", "reason": reason, "files": [], "flags": []}
        for case, reason in failed.items()
        if case not in done
    ]
    return sorted(rows, key=lambda row: (ORDER.index(row["state"]), str(row["case"])))


def _row(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON of a case says, and whether its masks are still those that it speaks of."""
    from medseg.predict.outputs import sha256_of

    files = [name for name in facts["files"] if (out / name).is_file()]
    hashes = {name: sha256_of(out / name) for name in files}
    written = dict(zip(facts["files"], facts.get("sha256") or ()))
    flags = [*facts.get("flags", []), *(f"{name} is gone" for name in facts["files"] if name not in hashes)]
    flags += [
        f"{name} is not as it was written"
        for name in files
        if written.get(name, hashes[name]) != hashes[name]
    ]
    return {
        **{key: facts.get(key) for key in COLUMNS},
        "state": "review" if flags else "done",
        "reason": "; ".join(flags),
        "flags": flags,
        "files": files,
        "sha256": list(hashes.values()),
        "bytes": sum((out / name).stat().st_size for name in files),
    }


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts that add up to the rows, and what the cases cost."""
    states = [row["state"] for row in rows]
    return {
        "cases": len(rows),
        **{state: states.count(state) for state in ("done", "review", "failed")},
        "seconds": round(sum(row.get("seconds") or 0.0 for row in rows), 1),
        "bytes": sum(row.get("bytes") or 0 for row in rows),
        "peak_ram_bytes": max((row.get("peak_ram_bytes") or 0 for row in rows), default=0),
        "models": sorted({str(row["model"]) for row in rows if row.get("model")}),
    }


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "; ".join(map(str, value)) if isinstance(value, list) else value


def _volumes(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {f"{name} ml": volume for name, volume in (row.get("volumes_ml") or {}).items()}
