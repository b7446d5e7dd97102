"""The shape of a network: which parts work at which stride with how many channels, and who hands maps to whom.

Read off one forward pass on the meta device, where nothing is computed: layers with weights are gathered to stages, one
a part of the network and stride, and every tensor remembers from which stages it comes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.card import Card
from medseg.zoo.effort import fitting

SIDE = {2: 256, 3: 64}
"""Edge of the traced image; rounded up to what the network takes."""

MOST_STAGES = 22
"""More boxes than this no picture holds."""

FEW = 6
"""A stage with a sixth of the layers of another of the same part is how that part begins or ends."""

WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
SUMS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
Part = tuple[str, int | None]


@dataclass
class Stage:
    """A part of a network at one stride. stride: of the image; None: no map (queries, a vector of the whole image).

    channels: of the last layer that ran. layers: number of layers with weights. sources: positions of earlier stages.
    """

    part: str
    stride: int | None
    channels: int
    layers: int = 0
    sources: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Shape:
    """stages: in the order in which they first run. size: of the card that was traced. image: (B, C, *S)."""

    stages: tuple[Stage, ...]
    size: str
    image: tuple[int, ...]


def shape_of(card: Card, dims: int) -> Shape:
    """The shape of the published size; of "tiny", computed, where the published one cannot be traced without values."""
    try:
        return traced(card, dims, "paper", "meta")
    except (UserError, RuntimeError, NotImplementedError, TypeError):
        return traced(card, dims, "tiny", "cpu")


def traced(card: Card, dims: int, size: str, device: str) -> Shape:
    """One forward pass of a size on a device. Raises what the network raises."""
    channels = (3 if dims == 2 else 1) + bool(card.needs)
    with torch.device(device):
        net = build(card.name, dims=dims, in_channels=channels, classes=2, size=size)
    side = SIDE[dims] if device == "meta" else SIDE[dims] // 4
    image = (1, channels, *fitting((side,) * dims, net))
    trace = Trace(image[2:])
    with trace.listening(net.eval()), torch.no_grad():
        net(torch.zeros(image, device=device))
    return Shape(tuple(folded(trace.stages, net)), size, image)


class Trace(TorchDispatchMode):
    """Gathers stages while a network runs; tensors carry the positions of the stages they come from."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size, self.stages = tuple(size), list[Stage]()
        self.places: dict[Part, int] = {}
        self.origins: dict[int, frozenset[int]] = {}
        self.before: list[frozenset[int]] = []  # earlier layers at a layer's own stride that led to it
        self.held: list[Any] = []  # a freed storage could lend its address to the next tensor
        self.hooks: list[Any] = []

    def listening(self, net: nn.Module) -> Trace:
        """Hooks all layers with weights; the hooks end with the `with` block."""
        for path, module in net.named_modules():
            if isinstance(module, WEIGHTED):
                self.hooks.append(
                    module.register_forward_hook(lambda _, given, out, p=path: self.layer(p, given, out))
                )
        return self

    def __exit__(self, *problem: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*problem)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        origin = frozenset().union(*(self.origin(t) for t in tensors_in((args, kwargs))))
        if len(origin) > 1 and func in SUMS:
            origin = self.without_carried(origin)
        for tensor in tensors_in(out):
            self.mark(tensor, origin)
        return out

    def origin(self, tensor: Tensor) -> frozenset[int]:
        if tensor.layout is not torch.strided:
            return frozenset()
        return self.origins.get(tensor.untyped_storage()._cdata, frozenset())

    def without_carried(self, origin: frozenset[int]) -> frozenset[int]:
        """A residual sum comes from the layers that were added last, not from all whose output it carries along."""
        carried = frozenset().union(*(self.before[place] for place in origin))
        return origin - carried

    def mark(self, tensor: Tensor, origin: frozenset[int]) -> None:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            self.held.append(storage)
            self.origins[storage._cdata] = origin

    def layer(self, part: str, given: Any, out: Tensor) -> None:
        """Counts a layer that ran to its stage."""
        stride = self.stride(out)
        place = self.places.setdefault((part, stride), len(self.stages))
        if place == len(self.stages):
            self.stages.append(Stage(part, stride, 0))
            self.before.append(frozenset())
        stage = self.stages[place]
        stage.layers += 1
        stage.channels = out.shape[1] if out.ndim == len(self.size) + 2 else out.shape[-1]
        stage.sources |= {p for t in tensors_in(given) for p in self.origin(t) if p < place}
        same = [p for p in stage.sources if self.stages[p].stride == stride]
        self.before[place] = frozenset(same).union(*(self.before[p] for p in same))
        self.mark(out, frozenset({place}))

    def stride(self, out: Tensor) -> int | None:
        """Of maps (B, C, *s) by their edge, of tokens (B, N, C) by their number."""
        dims = len(self.size)
        if out.ndim == dims + 2 and out.shape[0] == 1:
            return nearest_power(self.size[-1] / out.shape[-1]) if max(out.shape[2:]) > 1 else None
        if out.ndim == 3 and out.shape[1] > 1:
            return whole_power((math.prod(self.size) / out.shape[1]) ** (1 / dims))
        return None


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, tuple | list) else []


def nearest_power(ratio: float) -> int:
    """The power of two next to a ratio; unpadded convolutions and resized images are never exact."""
    return 2 ** max(0, round(math.log2(ratio)))


def whole_power(ratio: float) -> int | None:
    """The same for a number of tokens, which may have nothing to do with the image: then None. One more (a class
    token) is let pass."""
    power = nearest_power(ratio) if ratio >= 1 else 1
    return power if abs(ratio / power - 1) < 0.02 else None


def folded(layers: Sequence[Stage], net: nn.Module) -> list[Stage]:
    """Layers gathered to stages by the first two names of their path, or by the first where that gives too many."""
    for depth in (2, 1):
        stages = entered(merged(gathered(layers, [part_of(layer.part, net, depth) for layer in layers])))
        if len(stages) <= MOST_STAGES:
            break
    return stages


def entered(stages: Sequence[Stage]) -> list[Stage]:
    """The few layers by which a part of two strides begins or ends at the other one count to its main stage."""
    parts: dict[str, list[Stage]] = {}
    for stage in stages:
        parts.setdefault(stage.part, []).append(stage)
    main = {part: max(of, key=lambda s: s.layers) for part, of in parts.items() if len(of) == 2}
    strides = [
        main[s.part].stride if s.part in main and s.layers * FEW <= main[s.part].layers else s.stride
        for s in stages
    ]
    moved = [replace(s, stride=stride) for s, stride in zip(stages, strides, strict=True)]
    return gathered(moved, [s.part for s in stages])


def part_of(path: str, net: nn.Module, depth: int) -> str:
    """`down.2.conv` -> `down.2`, `encoder.stages.1.conv` -> `encoder.stages.1` at depth 2, `encoder` at depth 1.

    An only child (a wrapped network) is not named.
    """
    names = path.split(".")
    while len(names) > 1 and len([m for m in net.children() if any(True for _ in m.parameters())]) == 1:
        net, names = net.get_submodule(names[0]), names[1:]
    taken = names[:1]
    for name in names[1:-1]:
        if not name.isdigit() and len([n for n in taken if not n.isdigit()]) == depth:
            break
        taken.append(name)
        if name.isdigit():
            break
    return ".".join(taken)


def merged(stages: Sequence[Stage]) -> list[Stage]:
    """Items of a list that all work at one and the same stride are one stage."""
    strides: dict[str, set[int | None]] = {}
    for stage in stages:
        strides.setdefault(without_number(stage.part), set()).add(stage.stride)
    bases = [without_number(stage.part) for stage in stages]
    return gathered(
        stages, [b if len(strides[b]) == 1 else s.part for b, s in zip(bases, stages, strict=True)]
    )


def without_number(part: str) -> str:
    """`down.2` -> `down`."""
    base, _, last = part.rpartition(".")
    return base if last.isdigit() and base else part


def gathered(stages: Sequence[Stage], parts: Sequence[str]) -> list[Stage]:
    """Stages of the same part and stride become one; `parts` are their new names."""
    found: list[Stage] = []
    place: dict[Part, int] = {}
    to: list[int] = []
    for stage, part in zip(stages, parts, strict=True):
        at = place.setdefault((part, stage.stride), len(found))
        to.append(at)
        if at == len(found):
            found.append(Stage(part, stage.stride, stage.channels))
        found[at].layers += stage.layers
        found[at].channels = stage.channels
        found[at].sources |= {to[s] for s in stage.sources if to[s] < at}
    return found
