"""What a forward pass of a system costs: floating point operations, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from medseg.core.errors import UserError
from medseg.zoo.build import build, parameter_count
from medseg.zoo.card import Card
from medseg.zoo.weightless import weightless

Made = TypeVar("Made")

DEFAULT_INPUT = {2: (1, 3, 256, 256), 3: (1, 1, 96, 96, 96)}
"""(B, C, *S) that FLOPs are stated for where nobody says otherwise."""


def parse_input(text: str) -> tuple[int, ...]:
    """`1,3,256,256` -> (1, 3, 256, 256). Raises UserError for anything that is no (B, C, *S) of 2D or 3D."""
    try:
        shape = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError as err:
        raise UserError(f"'{text}' is no input size", "--input", "write it like 1,3,256,256") from err
    if len(shape) not in (4, 5) or min(shape) < 1:
        raise UserError(
            f"'{text}' is no input size: it takes batch, channels and 2 or 3 axes",
            "--input",
            "write it like 1,3,256,256 or 1,1,96,96,96",
        )
    return shape


def fitting(shape: Sequence[int], net: Any) -> tuple[int, ...]:
    """Axes (*S) rounded up to what a network takes: multiples of `divisor`, at least `minimum`."""
    divisor = getattr(net, "divisor", (1,) * len(shape))
    least = getattr(net, "minimum", (1,) * len(shape))
    return tuple(-(-max(int(n), int(m)) // int(d)) * int(d) for n, d, m in zip(shape, divisor, least))


def flops_of(net: Any, shape: Sequence[int], device: str = "meta") -> int:
    """Operations of one forward pass in eval mode on (B, C, *S); a multiplication and an addition count two.

    Counted by PyTorch: convolutions, matrix products and attention, not norms and activations. The network has to be
    on `device`; on "meta" nothing is computed. Its mode is put back afterwards.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = net.training
    # The counter wants a gradient of a weight that is handed to a layer as it is (learned queries), which has none here.
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    net.eval().requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(tuple(shape), device=device))
    finally:
        net.train(training)
        for weight in trained:
            weight.requires_grad_(True)
    return int(counter.get_total_flops())


def without_computing(attempt: Callable[[str], Made]) -> Made:
    """`attempt(device)` on tensors that hold no values; it builds its network itself.

    Meta tensors first; fake ones of the CPU for a network with constants there, or that asks for the CPU's precision.
    Raises RuntimeError or NotImplementedError for a network that looks at values.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with suppress(RuntimeError, NotImplementedError), weightless():
        return attempt("meta")
    with FakeTensorMode():
        return attempt("cpu")


def count(
    card: Card, size: str, shape: Sequence[int], classes: int = 2, **arguments: Any
) -> dict[str, Any] | None:
    """Parameters and FLOPs of a size for an input (B, C, *S), rounded up to what the network takes.

    None where the size needs a planned topology first; FLOPs are None where a shape depends on the image's values.
    """
    form = {"dims": len(shape) - 2, "in_channels": shape[1], "classes": classes, "size": size, **arguments}
    try:
        with weightless():
            net = build(card.name, **form)
    except (UserError, RuntimeError, NotImplementedError):
        return None
    taken = (*shape[:2], *fitting(shape[2:], net))
    flops: int | None = None
    with suppress(RuntimeError, NotImplementedError):
        flops = without_computing(lambda device: flops_of(build(card.name, **form), taken, device))
    return {"input": list(taken), "params": sum(p.numel() for p in net.parameters()), "flops": flops}


def figures_of(card: Card) -> dict[str, Any]:
    """What is counted of a network: every size and form at `DEFAULT_INPUT`, and the form that was published."""
    forms = [(size, dims) for size in card.sizes for dims in card.dims]
    return {
        "forms": {f"{size} {dims}D": count(card, size, DEFAULT_INPUT[dims]) for size, dims in forms},
        "as_published": parameter_count(card, "paper", **card.params_form) if card.params else None,
    }
