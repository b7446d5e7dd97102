"""One table of everything a folder of predictions holds, in the forms that programs and people open.

`manifest/manifest.json`, `.csv` and `.parquet` have one row a case: its state, files with sha256, volumes, flags, model,
time and memory. `manifest/failed.csv` lists what failed, `manifest/journal*.sqlite` what became of each case; a job that
does a share of the cases has a journal of its own, since SQLite does not belong to two machines at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.core.atomic import atomic_path, read_json, write_text
from medseg.core.errors import UserError
from medseg.core.run import Result
from medseg.jobs.journal import outcomes, record

FOLDER = "manifest"
COLUMNS = ("case", "state", "reason", "files", "sha256", "bytes", "model", "system", "engine", "windows", "seconds",
           "peak_ram_bytes", "voxels", "volumes_ml", "intensity", "flags", "notes", "input")  # fmt: skip


def record_result(out: Path, result: Result, shard: str = "") -> None:
    """Notes in the journal of this job what became of each case."""
    record(out / FOLDER / f"journal{'-' + shard if shard else ''}.sqlite", "", result)


def failed_before(out: Path) -> dict[str, str]:
    """Case -> reason of all that failed in this folder and did not come through since."""
    from medseg.predict.outputs import read_sidecar

    found: dict[str, str] = {}
    for journal in sorted((out / FOLDER).glob("journal*.sqlite")):
        found.update({case: reason for _, _, case, _, reason in outcomes(journal, "failed")})
    return {case: reason for case, reason in found.items() if not read_sidecar(out, case)}


def write_manifest(out: Path) -> dict[str, Any]:
    """Makes the manifest anew from what lies in `out`; unchanged files are not written again. Returns its totals."""
    import pandas

    rows = _rows(out)
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"cases": rows, "totals": _totals(rows)}
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


def _rows(out: Path) -> list[dict[str, Any]]:
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
        for case, reason in failed_before(out).items()
        if case not in done
    ]
    return sorted(rows, key=lambda row: str(row["case"]))


def _row(out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    files = [name for name in facts["files"] if (out / name).is_file()]
    return {
        **{key: facts.get(key) for key in COLUMNS},
        "state": "review" if facts.get("flags") else "done",
        "reason": "; ".join(facts.get("flags", [])),
        "files": files,
        "sha256": [_sha256(out / name) for name in files],
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


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
