"""Published weights for a backbone: from a local safetensors file, also from planes into volumes.

Nothing is downloaded and nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from medseg.zoo.encoders.resnet import ResNet

STATISTICS = ("running_mean", "running_var")


def load_weights(net: nn.Module, file: Path) -> None:
    """Puts the tensors of a safetensors file into an encoder; the file may have more, a classifier say.

    The encoder's own names count, and for a ResNet those of torchvision and timm. Kernels of planes are inflated where
    the encoder is for volumes, and the first kernel is spread over another number of channels. Raises ValueError when
    a tensor is missing or does not fit. On the meta device (a model folder brings its own weights) nothing is read.
    """
    if any(p.is_meta for p in net.parameters()):
        return
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise ValueError(f"there is no file {file} with weights; it has to lie on this computer")
    try:
        found = load_file(str(file))
    except SafetensorError as err:
        raise ValueError(f"{file} is no safetensors file: {err}") from err
    own = {
        name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    if isinstance(net, ResNet) and "conv1.weight" in found:
        found = {name: found[theirs] for name, theirs in zip(own, torchvision_names(net)) if theirs in found}
    missing = [name for name in own if name not in found]
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} of {len(own)} tensors of this backbone, first {missing[0]}"
        )
    fitted = {name: _fitted(found[name], value, name, file) for name, value in own.items()}
    net.load_state_dict(fitted, strict=False)


def _fitted(given: Tensor, own: Tensor, name: str, file: Path) -> Tensor:
    if given.ndim == 4 and own.ndim == 5:
        given = inflate(given, own.shape[-1])
    if given.ndim > 3 and given.shape[1] != own.shape[1] and given.shape[1] == 3:
        given = spread(given, own.shape[1])
    if given.shape != own.shape:
        raise ValueError(f"{name} has the shape {tuple(given.shape)} in {file}, needed is {tuple(own.shape)}")
    return given.to(own.dtype)


def inflate(kernel: Tensor, depth: int, how: Literal["centre", "mean"] = "centre") -> Tensor:
    """(O, I, kx, ky) -> (O, I, kx, ky, depth).

    centre: the plane's kernel in the middle, zeros around it; on a volume that is constant along the new axis the net
    of volumes then gives exactly the features of the net of planes, at the volume's ends too. mean: repeated and
    divided by the depth (I3D, Carreira and Zisserman 2017, arXiv:1705.07750, section 2.4.1); equal away from the ends,
    where the padding is zero.
    """
    if how == "mean":
        return kernel[..., None].repeat(1, 1, 1, 1, depth) / depth
    out = kernel.new_zeros(*kernel.shape, depth)
    out[..., depth // 2] = kernel
    return out


def spread(kernel: Tensor, channels: int) -> Tensor:
    """A kernel on red, green and blue for another number of channels: a grey image gives what it gave as colour."""
    mean = kernel.sum(dim=1, keepdim=True) / channels
    return mean.repeat(1, channels, *(1,) * (kernel.ndim - 2))


def inflate_encoder(planes: nn.Module, volumes: nn.Module, how: Literal["centre", "mean"] = "centre") -> None:
    """Copies the weights of a 2D encoder into the 3D form of the same encoder."""
    given, own = planes.state_dict(), volumes.state_dict()
    fitted = {
        name: inflate(given[name], value.shape[-1], how) if value.ndim == 5 else given[name]
        for name, value in own.items()
    }
    volumes.load_state_dict(fitted)


def torchvision_names(net: ResNet) -> list[str]:
    """The names of torchvision and timm for a ResNet's tensors, in the order of ours."""
    names = [*_layer("conv1", "bn1")]
    for stage, units in enumerate(net.stages, start=1):
        for i, unit in enumerate(units):
            where = f"layer{stage}.{i}"
            for number in range(1, len(unit.path) + 1):
                names += _layer(f"{where}.conv{number}", f"{where}.bn{number}")
            if not isinstance(unit.shortcut, nn.Identity):
                names += _layer(f"{where}.downsample.0", f"{where}.downsample.1")
    return names


def _layer(conv: str, norm: str) -> list[str]:
    return [f"{conv}.weight", *(f"{norm}.{part}" for part in ("weight", "bias", *STATISTICS))]
