"""Rows of the networks that gather context at several scales."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.pyramid"
HEAD_SIZES = {
    "paper": {},
    "resnet50": {"backbone": "resnet50"},
    "small": {"backbone": "resnet-small", "channels": 64},
    "tiny": {"backbone": "resnet-tiny", "channels": 8},
}

ROWS = (
    Card(
        name="pspnet",
        title="PSPNet",
        task="semantic",
        dims=(2, 3),
        family="pyramid",
        paper="arXiv:1612.01105",
        year=2017,
        at=f"{HOME}.pspnet:PSPNet",
        params=67_900_000,
        params_source="counted in the authors' PyTorch code with its auxiliary head",
        params_form={"dims": 2, "in_channels": 3, "classes": 19},
        aliases=("psp-net",),
        sizes={
            "paper": {},
            "resnet50": {"backbone": "resnet50"},
            "small": {"backbone": "resnet-small", "channels": 64},
            "tiny": {"backbone": "resnet-tiny", "channels": 8},
        },
    ),
    Card(
        name="fpn",
        title="Feature pyramid network, semantic head",
        task="semantic",
        dims=(2, 3),
        family="pyramid",
        paper="arXiv:1612.03144",
        year=2017,
        at=f"{HOME}.fpn:FPN",
        aliases=("semantic-fpn",),
        sizes={
            "paper": {},
            "resnet101": {"backbone": "resnet101"},
            "small": {"backbone": "resnet-small", "width": 64, "inner": 32},
            "tiny": {"backbone": "resnet-tiny", "width": 8, "inner": 8},
        },
    ),
    Card(
        name="apc-net",
        title="APCNet, adaptive pyramid context",
        task="semantic",
        dims=(2, 3),
        family="pyramid",
        paper="doi:10.1109/CVPR.2019.00770",
        year=2019,
        at=f"{HOME}.apc_net:APCNet",
        aliases=("apcnet",),
        sizes=HEAD_SIZES,
    ),
    Card(
        name="dm-net",
        title="DMNet, dynamic multi-scale filters",
        task="semantic",
        dims=(2, 3),
        family="pyramid",
        paper="doi:10.1109/ICCV.2019.00366",
        year=2019,
        at=f"{HOME}.dm_net:DMNet",
        aliases=("dmnet",),
        sizes=HEAD_SIZES,
    ),
)
