"""Prints the licences of all installed packages and fails on one that would bind a user's own code.

Run it in the environment to judge: python benchmarks/licences.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

REFUSED = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
ALLOWED = re.compile(r"LGPL|Lesser|Library General Public|GCC runtime|exception", re.IGNORECASE)
TOOLS = {"pip-licenses", "prettytable"}
# Dual licensed: the permissive one of the two is taken.
DUAL = {"text-unidecode", "docutils"}


def binding(licence: str) -> bool:
    """Whether every alternative of the licence text is a strong copyleft."""
    parts = [p for p in re.split(r"\bOR\b|;", licence) if p.strip()]
    return bool(parts) and all(REFUSED.search(p) and not ALLOWED.search(p) for p in parts)


def main() -> int:
    out = subprocess.check_output(
        [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed"], text=True
    )
    packages = [p for p in json.loads(out) if p["Name"] not in TOOLS | DUAL]
    bad = [f"{p['Name']} {p['Version']}: {p['License']}" for p in packages if binding(p["License"])]
    unknown = [p["Name"] for p in packages if p["License"] == "UNKNOWN"]
    print(
        f"{len(packages)} packages, {len(bad)} under GPL or AGPL; no licence stated by: {', '.join(unknown) or 'none'}"
    )
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
