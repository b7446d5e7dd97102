"""Which processes work in a folder: each leaves a mark there that it takes away at its end, unless it is killed.

The name of a mark begins like that of an unfinished file, so that the next call removes those of the killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.core.atomic import AT_WORK, PART, is_of_this_machine, part_prefix, runs_still, writing_failed


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Marks `folder` as worked in by this process, as long as the block runs; makes the folder.

    Raises UserError when nothing can be written there.
    """
    mark = folder / f"{part_prefix()}{AT_WORK}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as err:
        raise writing_failed(err, mark) from err
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def who_works(folder: Path) -> dict[str, int]:
    """Numbers of processes: `here` work in the folder now, on this computer; `elsewhere` began on another computer and
    did not say that they ended; `killed` were ended on this computer before they could take their mark away."""
    counts = {"here": 0, "elsewhere": 0, "killed": 0}
    for mark in sorted(folder.glob(f"{PART}*-{AT_WORK}")):
        if not is_of_this_machine(mark):
            counts["elsewhere"] += 1
        else:
            counts["here" if runs_still(mark) else "killed"] += 1
    return counts


def say_who_works(counts: dict[str, int], call: str) -> str:
    """One sentence for people; "" where no process left a mark. call: the command that goes on, in words."""
    if counts["here"]:
        return f"at work: {_processes(counts['here'])} of this computer"
    if counts["elsewhere"]:
        return f"at work: {_processes(counts['elsewhere'])} of another computer, unless killed there; then {call} goes on"
    if counts["killed"]:
        return f"the process that worked here was killed before its end: {call} goes on"
    return ""


def _processes(number: int) -> str:
    return "a process" if number == 1 else f"{number} processes"
