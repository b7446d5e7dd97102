"""The last layer of a network, put off until windows are blended: less memory and less work for many classes.

Most networks end in a 1 x 1 convolution from F features to K classes, which works on every voxel for itself and is
linear. So is the blending of windows, whose shares of a voxel sum to 1. The two may therefore change places:

    sum_w share_w (W f_w + b) = W (sum_w share_w f_w) + b

Where F is smaller than K (16 or 32 features, 104 classes) the features of open planes are kept instead of the logits,
and each voxel's logits are worked out once, when it is finished, instead of in each of the windows that hold it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest one, with which the two orders count as one."""


class Head(NamedTuple):
    """A linear layer on every voxel: weight (K, F) and bias (K,), float32."""

    weight: Tensor
    bias: Tensor

    @property
    def features(self) -> int:
        return int(self.weight.shape[1])

    def __call__(self, features: Tensor) -> Tensor:
        """Features (F, *S) of any floating type -> logits (K, *S) float32, on the features' device."""
        import torch

        flat = features.reshape(self.features, -1).float()
        weight, bias = self.weight.to(flat.device), self.bias.to(flat.device)
        return torch.addmm(bias[:, None], weight, flat).reshape(-1, *features.shape[1:])


def without_last_layer(net: nn.Module, channels: int, patch: Sequence[int]) -> nn.Module:
    """The network without its last layer, where that saves memory and changes no answer; else the network itself.

    What comes back shares its weights with `net`, answers with features, and holds its `Head` as `put_off`. Whether
    both together answer as before is tried on a small window (1, channels, *s) of noise; networks that refuse such a
    window stay whole.
    """
    import torch

    if hasattr(net, "members") or not any(_shrinks(module) for module in net.modules()):
        return net
    window = noise(net, channels, patch)
    try:
        with one_thread(), torch.inference_mode():
            place, wanted = _last(net, window)
            if place is None:
                return net
            body, head = _without(net, place), head_of(net.get_submodule(place))
            found = head(_main(body(window))[0])[None]
    except (RuntimeError, ValueError, TypeError, AttributeError):
        # A forward of its own kind, which wants its last layer: the network stays whole.
        return net
    if found.shape != wanted.shape or (found - wanted).abs().max() > TOLERANCE * wanted.abs().max():
        return net
    body.put_off = head  # type: ignore[assignment]
    return body


def put_off(net: object) -> Head | None:
    """The last layer that a network or an engine left to be done, or None."""
    found = getattr(net, "put_off", None)
    return found if isinstance(found, Head) else None


def logits_of(run: Any, windows: Tensor) -> Tensor:
    """Logits (B, K, *S) of an engine's answer, its last layer included."""
    import torch

    answer: Tensor = run(windows)
    head = put_off(run)
    return answer if head is None else torch.stack([head(one) for one in answer])


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread inside the block: threads that wait for a window this small cost more than it does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def noise(net: nn.Module, channels: int, patch: Sequence[int]) -> Tensor:
    """A window (1, channels, *s) of noise, about a quarter of `patch` along each axis, of a size that `net` takes."""
    import torch

    parameter = next(net.parameters(), torch.empty(0))
    maker = torch.Generator().manual_seed(0)
    return torch.randn((1, channels, *quarter(net, patch)), generator=maker).to(parameter.device)


def quarter(net: nn.Module, patch: Sequence[int]) -> list[int]:
    """About a quarter of a window along each axis, in multiples of the network's divisor."""
    wish: Any = getattr(net, "divisor", 1)
    multiples = [wish] * len(patch) if isinstance(wish, int) else wish
    full = [n + -n % m for n, m in zip(patch, multiples)]
    return [min(f, max(m, -(-f // (4 * m)) * m)) for f, m in zip(full, multiples)]


def head_of(layer: Any) -> Head:
    """The weights of a 1 x 1 convolution."""
    import torch

    weight = layer.weight.detach().reshape(layer.out_channels, layer.in_channels).float()
    bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().float()
    return Head(weight, bias.to(weight.device))


def _shrinks(layer: nn.Module) -> bool:
    """Whether a layer is a plain 1 x 1 convolution from fewer features to more classes."""
    import torch

    return (
        isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d)
        and math.prod(layer.kernel_size) == math.prod(layer.stride) == layer.groups == 1
        and not any(layer.padding)
        and layer.in_channels < layer.out_channels
    )


def _last(net: nn.Module, window: Tensor) -> tuple[str | None, Tensor]:
    """The name of the layer that a forward ends in, None where that is no head, and the logits of the window."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in net.named_modules()
        if not list(module.children())
    ]
    try:
        wanted = _main(net(window))
    finally:
        for hook in hooks:
            hook.remove()
    name = called[-1] if called else None
    fits = called.count(str(name)) == 1 < len(called) and _shrinks(net.get_submodule(str(name)))
    return name if fits else None, wanted


def _without(net: nn.Module, place: str) -> nn.Module:
    """A copy that shares everything with `net` but the layer at `place`, which hands on what it gets."""
    import torch

    first, _, rest = place.partition(".")
    twin = copy.copy(net)
    twin._modules = dict(net._modules)
    inner = net.get_submodule(first)
    twin._modules[first] = _without(inner, rest) if rest else torch.nn.Identity()
    return twin


def _main(outputs: Any) -> Tensor:
    from medseg.zoo.outputs import main_of

    return main_of(outputs)
