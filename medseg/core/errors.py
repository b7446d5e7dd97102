"""Errors a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A person's mistake or a bad input: what is wrong, where, and what to do.

    Parameters
    ----------
    what: one sentence that says what is wrong and shows the offending value.
    where: file, line, case or slice.
    hint: the remedy.
    faults: further sentences when several things are wrong at once.
    """

    def __init__(self, what: str, where: str = "", hint: str = "", faults: Iterable[str] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.where = str(where)
        self.hint = hint
        self.faults = tuple(faults)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        lines = [text, *(f"  {fault}" for fault in self.faults)]
        if self.hint:
            lines.append(f"  -> {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple:
        return (type(self), (self.what, self.where, self.hint, self.faults))

    def as_json(self) -> dict[str, object]:
        return {"what": self.what, "where": self.where, "hint": self.hint, "faults": list(self.faults)}


class Question(UserError):
    """Something that only a person can decide: asked on a terminal, an error with the choices to write in a script.

    choices: (what it means, the setting that says so, as after `--set`).
    """

    def __init__(
        self, what: str, where: str, faults: Iterable[str], choices: Iterable[tuple[str, str]]
    ) -> None:
        self.choices = tuple(choices)
        options = "; ".join(f"{setting} ({meaning})" for meaning, setting in self.choices)
        super().__init__(what, where, f"decide with --set, or in the pipeline file: {options}", faults)

    def __reduce__(self) -> tuple:
        return (type(self), (self.what, self.where, self.faults, self.choices))

    def as_json(self) -> dict[str, object]:
        choices = [{"means": meaning, "set": setting} for meaning, setting in self.choices]
        return {**super().as_json(), "choices": choices}


class Interrupted(Exception):
    """The run was asked to stop (Ctrl-C or SIGTERM); what was finished is kept and can be continued."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that look most like `name`, best first; none that is clearly further off than the best."""
    likeness = {str(k): difflib.SequenceMatcher(None, name.lower(), str(k).lower()).ratio() for k in known}
    best = max(likeness.values(), default=0.0)
    close = [k for k, ratio in likeness.items() if ratio >= max(0.5, best - 0.1)]
    return sorted(close, key=lambda k: -likeness[k])[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean x or y?`, or an empty text where nothing is near."""
    close = nearest(name, known)
    return f", did you mean {' or '.join(close)}?" if close else ""


@contextmanager
def about(case_id: str, step: str) -> Iterator[None]:
    """Adds the case and the step to whatever goes wrong inside, once, at the door."""
    try:
        yield
    except UserError as err:
        if not err.where:
            err.where = f"case {case_id}"
        raise
    except Exception as err:
        err.add_note(f"while {step} case {case_id}")
        raise
