"""Whether a training still gets anywhere: a network that finds nothing, and a Dice that no longer rises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LOOKS = 3
"""So many looks in a row that find nothing make a collapse, when the loss does not fall meanwhile."""

SHARE, STEPS = 0.2, 100
"""They must lie at least this share of the training apart, and this many steps."""

FALL = 0.02
"""A loss that fell by less than this share did not fall."""


@dataclass
class Progressing:
    """Keeps the looks that found nothing, and the best one.

    empty: (position t, step, mean loss) of each look in a row in which no class was hit. best: highest Dice so far;
    since: looks without a better one.
    """

    patience: int | None = None
    empty: list[tuple[float, int, float]] = field(default_factory=list)
    best: float = 0.0
    since: int = 0

    def after_look(self, dice: float | None, t: float, step: int, loss: float | None) -> None:
        """Takes in a look. dice None: no class was there, so it says nothing."""
        if dice is None:
            return
        self.since = 0 if dice > self.best else self.since + 1
        self.best = max(self.best, dice)
        if dice > 0:
            self.empty.clear()
        elif loss is not None:
            self.empty.append((t, step, loss))

    @property
    def collapsed(self) -> bool:
        """Whether validation found nothing for a while and the loss did not fall either."""
        if len(self.empty) < LOOKS:
            return False
        (first_t, first_step, _), (last_t, last_step, loss) = self.empty[0], self.empty[-1]
        if last_t - first_t < SHARE or last_step - first_step < STEPS:
            return False
        before = max(earlier for _, _, earlier in self.empty[-LOOKS:-1])
        return before - loss < FALL * abs(before)

    @property
    def settled(self) -> bool:
        """Whether the Dice has not risen for as many looks as were asked for."""
        return self.patience is not None and self.since >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"empty": [list(look) for look in self.empty], "best": self.best, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on after a checkpoint."""
        self.empty = [(float(t), int(step), float(loss)) for t, step, loss in state["empty"]]
        self.best, self.since = float(state["best"]), int(state["since"])
