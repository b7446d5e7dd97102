"""3D convolutions of small volumes, which PyTorch computes the slow way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

SMALL_VOLUME = 20480
"""Batch x channels x depth x height up to which PyTorch computes a 3D convolution in float32 by spelling out
neighbourhoods, although oneDNN is there."""


@contextmanager
def small_volumes() -> Iterator[None]:
    """Inside, oneDNN also computes the 3D convolutions in float32 that PyTorch keeps from it because they are small.

    What it is worth: benchmarks/narrow_networks.py. For predictions on the CPU: a gradient would still be computed the
    slow way, so what needs one is left alone.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    def is_kept_back(image: Any, weight: Any, padding: Any, groups: int) -> bool:
        return (
            image.ndim == 5
            and image.is_cpu
            and image.dtype == weight.dtype == torch.float32
            and groups == 1
            and not isinstance(padding, str)
            and prod(image.shape[:4]) <= SMALL_VOLUME
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    def convolved(image, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):  # type: ignore[no-untyped-def]
        if not is_kept_back(image, weight, padding, groups):
            return torch.conv3d(image, weight, bias, stride, padding, dilation, groups)
        steps = [(n,) * 3 if isinstance(n, int) else tuple(n) for n in (padding, stride, dilation)]
        return torch.mkldnn_convolution(image, weight, bias, *steps, groups)

    class Redirected(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            return (convolved if func is torch.conv3d else func)(*args, **(kwargs or {}))

    if not torch.backends.mkldnn.is_available():
        yield
        return
    with Redirected():
        yield
