"""Which series of a study is taken, and why each other one is left: the same choice for any order of files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from medseg.config import Select
from medseg.io.dicom.series import KERNELS, Series, SeriesTie, short_kernel

SPACING_EQUAL = 0.01


@dataclass(frozen=True)
class Choice:
    """kept: the series taken, one a study (more only with `tie: all`). left_out: the others, each with its reason."""

    kept: tuple[Series, ...]
    left_out: tuple[tuple[Series, str], ...]

    def table(self) -> list[str]:
        """One line a series for people: what it is, and why it was kept or left; no header texts."""
        lines = [f"kept  {s.describe()}" for s in self.kept]
        return lines + [f"left  {s.describe()}  ({reason})" for s, reason in self.left_out]


def choose(series: Sequence[Series], select: Select) -> Choice:
    """Takes one series a study by the rules of `data.select`.

    Left out, in this order: what the rules name, what is no volume, localizers, reformatted series where an
    original is there, series with too few slices, irregular series where a regular one is there. If several remain,
    `select.tie` says what happens; "ask" raises SeriesTie with a table of all.
    """
    studies: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for one in sorted(series, key=lambda s: s.key):
        studies[(one.patient_key, one.study_uid)].append(one)
    kept: list[Series] = []
    left: list[tuple[Series, str]] = []
    for study in sorted(studies):
        taken, others = _choose_one(studies[study], select, len(studies) == 1)
        kept += taken
        left += others
    return Choice(tuple(kept), tuple(left))


def _choose_one(
    series: list[Series], select: Select, alone: bool
) -> tuple[list[Series], list[tuple[Series, str]]]:
    left: list[tuple[Series, str]] = []
    remaining = list(series)

    def leave(reason: Callable[[Series], str]) -> None:
        nonlocal remaining
        left.extend((s, why) for s in remaining if (why := reason(s)))
        gone = {s.key for s, _ in left}
        remaining = [s for s in remaining if s.key not in gone]

    named = set(select.series)
    if named:
        leave(lambda s: "" if named & set(s.key) else "not named in data.select.series")
    leave(lambda s: _breaks_rules(s, select))
    leave(lambda s: str(s.facts.get("conflict", "")))
    if named:
        return remaining, left
    leave(lambda s: "localizer" if s.facts.get("localizer") else "")
    leave(lambda s: f"{s.n_slices} slices, fewer than data.select.min_slices: {select.min_slices}"
          if s.n_slices < select.min_slices else "")  # fmt: skip
    if any(not s.facts.get("reformatted") for s in remaining):
        leave(lambda s: "reformatted from another series" if s.facts.get("reformatted") else "")
    if any(not s.facts.get("faults") for s in remaining):
        leave(lambda s: s.facts["faults"][0] if s.facts.get("faults") else "")
    if len(remaining) > 1 and select.tie != "all":
        remaining, more = _break_tie(remaining, left, select, alone)
        left += more
    return remaining, left


def _breaks_rules(one: Series, select: Select) -> str:
    if select.modality and one.modality.upper() != select.modality.upper():
        return f"modality {one.modality or 'unknown'}, not {select.modality}"
    if select.description and select.description.lower() not in one.description.lower():
        return "its description lacks the text of data.select.description"
    if select.plane and one.orientation != select.plane:
        return f"{one.orientation}, not {select.plane}"
    if select.kernel and not fnmatchcase(one.kernel.split("\\")[0].strip().lower(), select.kernel.lower()):
        kernel = f"kernel {short_kernel(one.kernel)}" if one.kernel else "no kernel"
        return f"{kernel}, not {select.kernel}"
    return ""


def _break_tie(
    tied: list[Series], left: list[tuple[Series, str]], select: Select, alone: bool
) -> tuple[list[Series], list[tuple[Series, str]]]:
    if select.tie == "thinnest":
        finest = min(s.spacing[2] for s in tied)
        thin = [s for s in tied if s.spacing[2] <= finest * (1 + SPACING_EQUAL)]
        if len(thin) == 1:
            return thin, [(s, f"thicker slices ({s.spacing[2]:.3g} mm)") for s in tied if s is not thin[0]]
        tied, left = thin, left + [(s, "thicker slices") for s in tied if s not in thin]
    tied = sorted(tied, key=lambda s: (s.facts.get("series_number") or 0, s.facts.get("differs", ()), s.key))
    lines = [f"fits  {s.describe()}" for s in tied]
    lines += [f"left  {s.describe()}  ({reason})" for s, reason in left]
    what = f"{len(tied)} series of one study fit equally well"
    raise SeriesTie(what, "data", lines, _ways_out(tied, alone))


def _ways_out(tied: Sequence[Series], alone: bool) -> list[tuple[str, str]]:
    """What a person may choose. Naming one series leaves those of other studies: offered where there is one study."""
    # Quoted where eight hexadecimal digits could be read as a number.
    ids = {one: f"'{one.id}'" if re.fullmatch(r"\d+(e\d+)?", one.id) else one.id for one in tied}
    ways = [(one.describe(), f"data.select.series=[{ids[one]}]") for one in tied] if alone else []
    kernels = sorted({short_kernel(one.kernel) for one in tied if KERNELS.fullmatch(one.kernel)})
    if len(kernels) > 1 and not alone:
        ways += [(f"of every study the series of kernel {k}", f"data.select.kernel={k}") for k in kernels]
    if len({round(one.spacing[2], 2) for one in tied}) > 1:
        ways.append(("the thinnest slices", "data.select.tie=thinnest"))
    return [*ways, ("all of them, each a case of its own", "data.select.tie=all")]
