"""Building a network that gets its weights from a file: without memory for them, and without drawing any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def weightless() -> Iterator[None]:
    """Inside, new tensors have no memory (PyTorch's meta device), and drawing random numbers for them does nothing.

    On the meta device PyTorch works drawing out in Python, and loads its compiler for it: 0.6 CPU seconds and more
    than 100 MB that no prediction needs.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    drawing = {getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "bernoulli_", "exponential_")}

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func in drawing and args[0].is_meta:
                return args[0]
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), Undrawn():
        yield
