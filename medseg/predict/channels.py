"""The channels of an image come in the order in which the network learnt them, by their names."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.config import Data, Plan
from medseg.core.errors import UserError


def with_channels(data: Data, plans: Sequence[Plan]) -> Data:
    """The data section with the models' own channels where the settings name none: tables and folders then hand over
    theirs by name, whatever order they come in. Raises UserError where models or settings have them in other orders."""
    known = [plan.channels for plan in plans if len(plan.channels) > 1]
    for plan in plans if known else ():
        require_channels(plan, data.channels or known[0], said=bool(data.channels))
    if data.channels or not known:
        return data
    return data.model_copy(update={"channels": list(known[0])})


def require_channels(plan: Plan, found: Sequence[str], said: bool) -> None:
    """Raises UserError where images bring channels that the model does not know, or in another order.

    found: their names in their order; one name or none says nothing. said: the settings name them, so that names the
    model does not know are meant to be its own, in this order.
    """
    ours, theirs = ([name.lower() for name in names] for names in (plan.channels, found))
    if min(len(ours), len(theirs)) < 2 or ours == theirs:
        return
    listed = f"the model learnt the channels {', '.join(plan.channels)}; the images have {', '.join(found)}"
    if sorted(ours) == sorted(theirs):
        raise UserError(
            f"{listed}, in another order", "data.channels", f"set data.channels: [{', '.join(plan.channels)}]"
        )
    if not said:
        hint = (
            f"data.channels=[{', '.join(found)}], in the order of the model's, says that they mean the same"
        )
        raise UserError(listed, "data.channels", hint)
