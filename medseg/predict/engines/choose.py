"""Which engine and number type computes the windows: the fastest that gives the labels of float32.

The gate is measured on windows of the cohort's own first case, whatever is known from before. The speed of an engine
is measured once per model and machine and kept; a choice that was made for a folder of results is kept with it, so
that a prediction that was stopped goes on in the same manner. Each engine is named before it is tried, and all the
trying may take a share of what the plain network would need for the work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from medseg.core.errors import UserError
from medseg.core.progress import duration, say
from medseg.model.parity import PARITY
from medseg.predict.engines import kept
from medseg.predict.engines.gate import Gate, Verdict, seconds_of
from medseg.predict.engines.several import engine_of, members_of
from medseg.predict.engines.table import ENGINES, Forward, Setting
from medseg.predict.precision import number_type

if TYPE_CHECKING:
    from torch import Tensor, nn

WORTH = 4.0
"""Engines are only tried for work that takes the plain network this many times longer than all the trying."""

TRIAL_WINDOWS = 3
"""Windows that trying an engine takes: one for its labels, two for its speed."""


@dataclass(frozen=True)
class Choice:
    """engine, precision: what was taken. why: in words, with the Dice. dice: against float32, None where not measured.

    seconds: of one window, where it was timed. tried: the same of every candidate.
    """

    engine: str
    precision: str
    why: str
    dice: float | None = None
    seconds: float | None = None
    tried: tuple[Mapping[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"engine": self.engine, "precision": self.precision, "why": self.why, "dice_against_fp32": self.dice,
                "seconds_per_window": self.seconds, "tried": [dict(one) for one in self.tried]}  # fmt: skip

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Choice:
        """What `as_json` wrote."""
        return cls(facts["engine"], facts["precision"], facts["why"], facts.get("dice_against_fp32"),
                   facts.get("seconds_per_window"), tuple(facts.get("tried", ())))  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What is asked for, and what is known about the work.

    engine, precision: as in the pipeline file. windows: how many windows the whole cohort has, about. background,
    overlapping: of the plan. model: its hash. before: the choice that this folder's results were made with.
    """

    engine: str
    precision: str
    device: str
    windows: int
    background: bool
    overlapping: bool
    model: str = ""
    before: Choice | None = None


class Chosen(NamedTuple):
    """forwards: converted members, None for PyTorch; autocast: its number type."""

    choice: Choice
    autocast: Any
    forwards: list[Forward] | None


def choose(net: nn.Module, samples: Tensor, wish: Wish) -> Chosen:
    """Decides for windows like `samples` (N, C, *S). Raises UserError where what is asked for is not there."""
    if wish.before is not None:
        return _again(net, samples, wish, wish.before)
    gate = Gate(net, samples, wish.background, wish.overlapping)
    if wish.engine not in ("auto", "torch"):
        ENGINES[wish.engine].require(wish.device)
        return _asked_for(gate, wish)
    plain, first_seconds = _plain(gate, wish)
    return (
        plain if wish.engine == "torch" or wish.windows == 0 else _fastest(gate, wish, plain, first_seconds)
    )


def _again(net: nn.Module, samples: Tensor, wish: Wish, before: Choice) -> Chosen:
    """What earlier results of this folder were made with; its figures stand, nothing is measured again."""
    if before.engine == "torch":
        return Chosen(before, number_type(before.precision, wish.device)[0], None)
    engine = ENGINES[before.engine]
    engine.require(wish.device)
    say(f"  setting up {engine.title} {before.precision}, as for the results that are there")
    return Chosen(before, None, _forwards(net, samples, wish, before.engine, before.precision))


def _plain(gate: Gate, wish: Wish) -> tuple[Chosen, float | None]:
    """PyTorch in the number type of this machine, if that passes; else in float32.

    With it the seconds of the first window, which warmed it up; None where none was computed.
    """
    dtype, why = number_type(wish.precision, wish.device)
    if dtype is None or wish.precision != "auto":
        return Chosen(Choice("torch", _name_of(dtype), f"torch {why}"), dtype, None), None
    say(f"  choosing the engine on a window of this case: torch {_name_of(dtype)} against fp32")
    dice, seconds = gate.verdict(_runner(gate.net, dtype, None))
    if dice < PARITY:
        why = f"torch fp32: half precision has a Dice of only {dice:.5f} against it"
        tried = (_row("torch", _name_of(dtype), dice),)
        return Chosen(Choice("torch", "fp32", why, tried=tried), None, None), None
    why = f"torch {why}, Dice {dice:.5f} against fp32"
    return Chosen(Choice("torch", _name_of(dtype), why, dice), dtype, None), seconds


def _asked_for(gate: Gate, wish: Wish) -> Chosen:
    """One engine by name: the first of its number types that passes; PyTorch in float32 where none does."""
    engine = ENGINES[wish.engine]
    kinds = [wish.precision] if wish.precision != "auto" else _kinds(wish.engine, wish.device)
    tried = []
    for kind in kinds:
        say(
            f"  setting up {engine.title} {kind} and comparing its labels with fp32's on a window of this case"
        )
        forwards, verdict = _made(gate, wish, wish.engine, kind)
        tried.append(_row(wish.engine, kind, verdict.dice))
        if verdict.dice >= PARITY:
            why = f"{engine.title} {kind} as asked, Dice {verdict.dice:.5f} against fp32"
            return Chosen(Choice(wish.engine, kind, why, verdict.dice, tried=tuple(tried)), None, forwards)
    figures = ", ".join(f"{row['precision']} {row['dice_against_fp32']:.5f}" for row in tried)
    why = f"torch fp32: {engine.title} has a Dice of only {figures} against it, {PARITY} is asked for"
    say(f"  {why}")
    return Chosen(Choice("torch", "fp32", why, tried=tuple(tried)), None, None)


def _fastest(gate: Gate, wish: Wish, plain: Chosen, first_seconds: float | None) -> Chosen:
    """The fastest of PyTorch and of those engines whose trying pays.

    first_seconds: of PyTorch's first window, which is none of its fastest; None: not known.
    """
    candidates = list(_candidates(wish))
    if not candidates:
        return plain
    machine, members = kept.machine_key(_threads()), len(members_of(gate.net))
    speeds = kept.read_speeds(wish.model, machine)
    own = f"torch {plain.choice.precision}"
    if own not in speeds:
        first_seconds = first_seconds or _first_seconds(gate, plain)
        if not any(_pays(name, first_seconds, wish, members, 0.0) for name, _ in candidates):
            return plain
        speeds[own] = seconds_of(_runner(gate.net, plain.autocast, None), gate.samples)
    best, fastest, begun = plain, speeds[own], time.monotonic()
    tried = [_row("torch", plain.choice.precision, plain.choice.dice, fastest)]
    for name, kind in sorted(candidates, key=lambda c: speeds.get(" ".join(c), 0.0)):
        if speeds.get(f"{name} {kind}", 0.0) >= fastest:
            continue
        if not _pays(name, speeds[own], wish, members, time.monotonic() - begun):
            continue
        say(f"  trying {ENGINES[name].title} {kind}; {own} takes {speeds[own]:.2f} s a window")
        found = _tried(gate, replace(wish, engine=name), kind, fastest)
        if found is None:
            continue
        tried.append(_row(name, kind, found.choice.dice, found.choice.seconds))
        if found.choice.seconds is not None:
            speeds[f"{name} {kind}"] = found.choice.seconds
        if (found.choice.dice or 0) >= PARITY and (found.choice.seconds or 0) < fastest:
            best, fastest = found, found.choice.seconds or fastest
    if len(tried) > 1:
        say(f"  {best.choice.why}: {fastest:.2f} s a window, after {duration(time.monotonic() - begun)}")
    kept.write_speeds(wish.model, machine, speeds)
    return best._replace(choice=replace(best.choice, tried=tuple(tried)))


def _first_seconds(gate: Gate, plain: Chosen) -> float:
    """Of a window in PyTorch's plain form, with all that is set up when it is first used."""
    if plain.autocast is None:
        return gate.reference[1]  # its labels will be wanted as well
    start = time.perf_counter()
    _runner(gate.net, plain.autocast, None)(gate.samples[:1])
    return time.perf_counter() - start


def _pays(name: str, seconds: float, wish: Wish, members: int, spent: float) -> bool:
    """Whether an engine is worth trying. seconds: of PyTorch's window; spent: on trying others."""
    trial = ENGINES[name].set_up_seconds * members + TRIAL_WINDOWS * seconds
    return WORTH * (spent + trial) <= seconds * wish.windows


def _tried(gate: Gate, wish: Wish, kind: str, fastest: float) -> Chosen | None:
    """A candidate with its Dice and speed; None, and a line, where it cannot be made."""
    import torch

    title = ENGINES[wish.engine].title
    try:
        forwards, verdict = _made(gate, wish, wish.engine, kind)
    except (UserError, torch.OutOfMemoryError) as err:
        say(
            f"  {title} {kind}: {err.what if isinstance(err, UserError) else 'the memory of the GPU ran out'}"
        )
        return None
    passes = verdict.dice >= PARITY
    seconds = seconds_of(_runner(gate.net, None, forwards), gate.samples, fastest) if passes else None
    why = f"{title} {kind}: the fastest that passes, Dice {verdict.dice:.5f} against fp32"
    return Chosen(Choice(wish.engine, kind, why, verdict.dice, seconds), None, forwards)


def _candidates(wish: Wish) -> Iterator[tuple[str, str]]:
    for name, engine in ENGINES.items():
        if not engine.missing(wish.device):
            for kind in _kinds(name, wish.device):
                if wish.precision in ("auto", kind):
                    yield name, kind


def _kinds(name: str, device: str) -> list[str]:
    """The number types that `auto` considers on this device: half precision only where it is computed in hardware."""
    half = _name_of(number_type("auto", device)[0])
    return [kind for kind in ENGINES[name].precisions if kind in {half, "fp32"}]


def _made(gate: Gate, wish: Wish, name: str, kind: str) -> tuple[list[Forward], Verdict]:
    """Converted members, and how they compare with float32."""
    forwards = _forwards(gate.net, gate.samples, wish, name, kind)
    return forwards, gate.verdict(_runner(gate.net, None, forwards))


def _forwards(net: nn.Module, samples: Tensor, wish: Wish, name: str, kind: str) -> list[Forward]:
    return [
        ENGINES[name].make(member, Setting(kind, samples, f"{wish.model}-{number}" if wish.model else ""))
        for number, member in enumerate(members_of(net))
    ]


def _runner(net: nn.Module, dtype: Any, forwards: Sequence[Forward] | None) -> Any:
    return engine_of(net, autocast=dtype, forwards=forwards)


def _row(engine: str, precision: str, dice: float | None, seconds: float | None = None) -> dict[str, Any]:
    return {
        "engine": engine,
        "precision": precision,
        "dice_against_fp32": dice,
        "seconds_per_window": seconds,
    }


def _name_of(dtype: Any) -> str:
    return {"None": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}[str(dtype)]


def _threads() -> int:
    import torch

    return torch.get_num_threads()
