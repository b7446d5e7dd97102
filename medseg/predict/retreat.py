"""What a prediction does when a GPU's memory runs out after all: fewer windows at once, then sums in main memory.

What a network needs on a GPU is estimated from a window of a quarter's size on whatever chose its algorithms, and other
programs take memory of the same GPU while it works; so that an estimate alone is no promise there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from medseg.core.errors import UserError
from medseg.core.progress import say

if TYPE_CHECKING:
    from medseg.predict.case import Predictor

Made = TypeVar("Made")


def with_less(predictor: Predictor, attempt: Callable[[], Made], where: str) -> Made:
    """The value of `attempt`, which is made again with less of the GPU's memory as often as that runs out.

    Later cases stay that way. Raises UserError where one window with nothing beside it does not fit.
    """
    if predictor.model.net is None:
        return attempt()
    import torch

    while True:
        try:
            return attempt()
        except torch.OutOfMemoryError:
            change = retreat(predictor)
        if not change:
            hint = "take predict.precision: fp16, compute.device: cpu, or a model with smaller windows"
            raise UserError("the GPU's memory does not hold one window of this network", where, hint)
        say(f"  the GPU's memory ran out: {change}, {where} is begun again")
        # Only now: the error held on to the tensors of what failed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def retreat(predictor: Predictor) -> str:
    """Makes a predictor, its parts and the earlier stage of a cascade take less; what changed in words, "" for nothing."""
    from medseg.predict.mixed import each

    all_of_it = each(predictor)
    if any(one.cut.batch_size > 1 for one in all_of_it):
        for one in all_of_it:
            one.batch_size = max(1, one.cut.batch_size // 2)
        return f"{predictor.batch_size} windows at once" if predictor.batch_size > 1 else "one window at once"
    if predictor.device.startswith("cuda") and not all(one.only_in_ram for one in all_of_it):
        for one in all_of_it:
            one.only_in_ram = True
        return "logits are added up in main memory"
    return ""
