"""Prints how long `medseg --help` and `medseg list` take beside an empty Python, and fails above 0.3 s.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time

LIMIT_SECONDS = 0.3


def best_of(command: list[str], runs: int = 7) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    empty = best_of([sys.executable, "-c", "pass"])
    print(f"{'command':<16} {'best of 7':>10}   empty Python {empty:.3f} s")
    worst = 0.0
    for verb in ("--help", "list"):
        seconds = best_of([sys.executable, "-m", "medseg.cli", verb])
        worst = max(worst, seconds)
        print(f"medseg {verb:<9} {seconds:>8.3f} s   {seconds / empty:.1f} x")
    return 0 if worst < LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
