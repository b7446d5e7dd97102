"""Which engine and number type computes the windows: the fastest that gives the labels of float32.

The gate is measured on windows of the cohort's own first case, whatever is known from before. The speed of an engine
is measured once per model and machine and kept; a choice that was made for a folder of results is kept with it, so
that a prediction that was stopped goes on in the same manner.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.model.parity import PARITY
from medseg.predict.engines import kept
from medseg.predict.engines.several import engine_of, members_of
from medseg.predict.engines.table import ENGINES, Forward, Setting
from medseg.predict.head import Head, put_off
from medseg.predict.planes import winners
from medseg.predict.precision import number_type

if TYPE_CHECKING:
    from torch import Tensor, nn

PLANES = 16
"""Planes of a window whose labels are compared at once."""

WORTH = 4.0
"""An engine is only set up for work that takes the plain network this many times longer than the setting up."""


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
    if wish.engine not in ("auto", "torch"):
        ENGINES[wish.engine].require(wish.device)
        return _asked_for(net, samples, wish)
    return _fastest(net, samples, wish, _plain(net, samples, wish))


def _again(net: nn.Module, samples: Tensor, wish: Wish, before: Choice) -> Chosen:
    """What earlier results of this folder were made with; its figures stand, nothing is measured again."""
    if before.engine == "torch":
        return Chosen(before, number_type(before.precision, wish.device)[0], None)
    ENGINES[before.engine].require(wish.device)
    return Chosen(before, None, _forwards(net, samples, wish, before.engine, before.precision))


def _plain(net: nn.Module, samples: Tensor, wish: Wish) -> Chosen:
    """PyTorch in the number type of this machine, if that passes; else in float32."""
    dtype, why = number_type(wish.precision, wish.device)
    if dtype is None or wish.precision != "auto":
        return Chosen(Choice("torch", _name_of(dtype), f"torch {why}"), dtype, None)
    dice = _dice(net, samples, wish, _runner(net, dtype, None))
    if dice < PARITY:
        why = f"torch fp32: half precision has a Dice of only {dice:.5f} against it"
        return Chosen(Choice("torch", "fp32", why, tried=(_row("torch", _name_of(dtype), dice),)), None, None)
    why = f"torch {why}, Dice {dice:.5f} against fp32"
    return Chosen(Choice("torch", _name_of(dtype), why, dice), dtype, None)


def _asked_for(net: nn.Module, samples: Tensor, wish: Wish) -> Chosen:
    """One engine by name: the first of its number types that passes; PyTorch in float32 where none does."""
    engine = ENGINES[wish.engine]
    kinds = [wish.precision] if wish.precision != "auto" else _kinds(wish.engine, wish.device)
    tried = []
    for kind in kinds:
        forwards, dice = _made(net, samples, wish, wish.engine, kind)
        tried.append(_row(wish.engine, kind, dice))
        if dice >= PARITY:
            why = f"{engine.title} {kind} as asked, Dice {dice:.5f} against fp32"
            return Chosen(Choice(wish.engine, kind, why, dice, tried=tuple(tried)), None, forwards)
    figures = ", ".join(f"{row['precision']} {row['dice_against_fp32']:.5f}" for row in tried)
    why = f"torch fp32: {engine.title} has a Dice of only {figures} against it, {PARITY} is asked for"
    say(f"  {why}")
    return Chosen(Choice("torch", "fp32", why, tried=tuple(tried)), None, None)


def _fastest(net: nn.Module, samples: Tensor, wish: Wish, plain: Chosen) -> Chosen:
    """The fastest of PyTorch and of those engines whose setting up pays."""
    if wish.engine == "torch":
        return plain
    candidates = list(_candidates(wish))
    if not candidates or wish.windows == 0:
        return plain
    machine = kept.machine_key(_threads())
    speeds = kept.read_speeds(wish.model, machine)
    own = f"torch {plain.choice.precision}"
    if own not in speeds:
        speeds[own] = _seconds(_runner(net, plain.autocast, None), samples)
    best, fastest, work = plain, speeds[own], speeds[own] * wish.windows
    tried = [_row("torch", plain.choice.precision, plain.choice.dice, fastest)]
    for name, kind in sorted(candidates, key=lambda c: speeds.get(" ".join(c), 0.0)):
        known = speeds.get(f"{name} {kind}")
        if known is not None and known >= fastest:
            continue
        if work < WORTH * ENGINES[name].set_up_seconds * len(members_of(net)):
            continue
        found = _tried(net, samples, replace(wish, engine=name), kind)
        if found is None:
            continue
        tried.append(_row(name, kind, found.choice.dice, found.choice.seconds))
        if found.choice.seconds is not None:
            speeds[f"{name} {kind}"] = found.choice.seconds
        if (found.choice.dice or 0) >= PARITY and (found.choice.seconds or 0) < fastest:
            best, fastest = found, found.choice.seconds or fastest
    kept.write_speeds(wish.model, machine, speeds)
    return best._replace(choice=replace(best.choice, tried=tuple(tried)))


def _tried(net: nn.Module, samples: Tensor, wish: Wish, kind: str) -> Chosen | None:
    """A candidate with its Dice and speed; None, and a line, where it cannot be made."""
    title = ENGINES[wish.engine].title
    try:
        forwards, dice = _made(net, samples, wish, wish.engine, kind)
        seconds = _seconds(_runner(net, None, forwards), samples) if dice >= PARITY else None
    except UserError as err:
        say(f"  {title} {kind}: {err.what}")
        return None
    why = f"{title} {kind}: the fastest that passes, Dice {dice:.5f} against fp32"
    return Chosen(Choice(wish.engine, kind, why, dice, seconds), None, forwards)


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


def _made(net: nn.Module, samples: Tensor, wish: Wish, name: str, kind: str) -> tuple[list[Forward], float]:
    """Converted members and their Dice against float32."""
    forwards = _forwards(net, samples, wish, name, kind)
    return forwards, _dice(net, samples, wish, _runner(net, None, forwards))


def _forwards(net: nn.Module, samples: Tensor, wish: Wish, name: str, kind: str) -> list[Forward]:
    return [
        ENGINES[name].make(member, Setting(kind, samples, f"{wish.model}-{number}" if wish.model else ""))
        for number, member in enumerate(members_of(net))
    ]


def _runner(net: nn.Module, dtype: Any, forwards: Sequence[Forward] | None) -> Any:
    return engine_of(net, autocast=dtype, forwards=forwards)


def _dice(net: nn.Module, samples: Tensor, wish: Wish, run: Any) -> float:
    """The smallest Dice of a window; one window after the other, so that only two windows of answers exist."""
    full, head = _runner(net, None, None), put_off(net)
    return min(_labels_agree(run(sample[None])[0], full(sample[None])[0], head, wish) for sample in samples)


def _labels_agree(ours: Tensor, theirs: Tensor, head: Head | None, wish: Wish) -> float:
    """Dice of all classes together between two answers (K or F, *S), a few planes at a time; 1 where both are empty."""
    both = sizes = 0
    for left, right in zip(ours.split(PLANES, 1), theirs.split(PLANES, 1)):
        if head is not None:
            left, right = head(left), head(right)
        found, wanted = (left > 0, right > 0) if wish.overlapping else (winners(left), winners(right))
        first = 1 if wish.overlapping else int(wish.background)
        both += int(((found == wanted) & (wanted >= first)).sum())
        sizes += int((found >= first).sum() + (wanted >= first).sum())
    return 2 * both / sizes if sizes else 1.0


def _seconds(run: Any, samples: Tensor) -> float:
    """Wall seconds of a window, the better of two after a first one that sets things up."""
    run(samples[:1])
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run(samples[:1])
        times.append(time.perf_counter() - start)
    return round(min(times), 5)


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
