"""2D backbones of other libraries, as an optional extra: `hf:NAME` (transformers) and `timm:NAME`.

NAME of transformers: a kind of backbone (`hf:resnet`: its default shape, random weights), a local folder, or a
repository of the hub that lies in the local cache (its weights, safetensors only). Nothing is downloaded and no code of
a repository is run. NAME of timm: a model's name, random weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXTRA = "pip install 'medseg[backbones]'"


class Outside(nn.Module):
    """forward: (B, C, *S) -> four features, finest first, of a library's backbone; channels and strides as found.

    `half(x)` does not exist for these; `half_channels` is the width of the finest feature.
    """

    def __init__(self, body: nn.Module, in_channels: int, takes_mapping: bool) -> None:
        super().__init__()
        self.body, self.takes_mapping = body, takes_mapping
        self.channels, self.strides = _measured(self, in_channels)
        self.half_channels = self.channels[0]

    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.body(x)
        features: Sequence[Tensor] = found.feature_maps if self.takes_mapping else found
        return list(features)[-4:]


def make_outside(name: str, dims: int, in_channels: int, output_stride: int = 32) -> Outside:
    """A backbone by `hf:NAME` or `timm:NAME`. Raises ValueError with the remedy where it cannot be had."""
    library, _, rest = name.partition(":")
    if dims != 2:
        raise ValueError(
            f"{name} works on flat images only, these have {dims} axes; backbones of medseg work on both"
        )
    if not rest:
        raise ValueError(f"{name!r} names no backbone; write {library}:NAME")
    net = _from_timm(rest, in_channels, output_stride) if library == "timm" else _from_hf(rest, in_channels)
    if len(net.channels) != 4:
        raise ValueError(f"{name} has {len(net.channels)} features, 4 are needed (strides 4, 8, 16 and 32)")
    if net.strides[-1] > output_stride:
        raise ValueError(
            f"{name} ends at stride {net.strides[-1]} and this system wants {output_stride}; "
            "take a backbone of medseg, or a system that works at stride 32 (fpn, uper-net)"
        )
    return net


def _measured(net: Outside, in_channels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and strides of the features, by one pass over a small image."""
    training = net.training
    device = next(net.parameters()).device
    net.eval()
    with torch.no_grad():
        features = net(torch.zeros(1, in_channels, 64, 64, device=device))
    net.train(training)
    if any(f.ndim != 4 for f in features):
        raise ValueError("its features are no maps (B, C, H, W)")
    return tuple(f.shape[1] for f in features), tuple(64 // f.shape[2] for f in features)


def _from_hf(name: str, in_channels: int) -> Outside:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoBackbone, AutoConfig
    except ImportError as err:
        raise ValueError(f"hf:{name} needs the package transformers ({err}): {EXTRA}") from err
    changes: dict[str, Any] = {"out_indices": [1, 2, 3, 4]}
    if "/" not in name and not Path(name).is_dir():
        try:
            config = AutoConfig.for_model(name, num_channels=in_channels, **changes)
            return Outside(AutoBackbone.from_config(config), in_channels, True)
        except ValueError as err:
            raise ValueError(f"transformers has no backbone of the kind {name!r}: {_first(err)}") from err
    if in_channels != 3:
        raise ValueError(f"hf:{name} was trained on 3 channels, these images have {in_channels}")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **changes}
    try:
        place = _local_folder(name)
        if torch.get_default_device().type == "meta":  # a model folder brings its own weights
            body = AutoBackbone.from_config(AutoConfig.from_pretrained(place, **options))
        else:
            body = AutoBackbone.from_pretrained(place, use_safetensors=True, **options)
    except (OSError, ValueError) as err:
        raise ValueError(
            f"hf:{name} is no local folder and not in the local cache of the hub ({_first(err)}); "
            "medseg downloads nothing: fetch it once with `hf download`"
        ) from err
    return Outside(body, in_channels, True)


def _local_folder(name: str) -> str:
    """The folder of a repository in the local cache. transformers is only ever given folders: by a name it asks the
    hub even where it was told not to."""
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, local_files_only=True))


def _from_timm(name: str, in_channels: int, output_stride: int) -> Outside:
    try:
        import timm
    except (ImportError, RuntimeError) as err:
        raise ValueError(
            f"timm:{name} needs the packages timm and torchvision, which do not load here ({_first(err)}): {EXTRA}, "
            "with a torchvision that was built for the installed torch"
        ) from err
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        body = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels, **options)
    except (RuntimeError, ValueError, TypeError, AttributeError) as err:
        raise ValueError(f"timm cannot make {name!r} as a backbone: {_first(err)}") from err
    return Outside(body, in_channels, False)


def _first(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
