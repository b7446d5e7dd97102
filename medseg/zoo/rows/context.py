"""Rows of the networks that fuse context in other ways."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.context"

ROWS = (
    Card(
        name="ocr",
        title="Object-contextual representations",
        task="semantic",
        dims=(2, 3),
        family="context",
        paper="arXiv:1909.11065",
        year=2020,
        at=f"{HOME}.ocr:OCR",
        params=70_400_000,
        params_source="the authors' table for HRNetV2-W48 with OCR",
        params_form={"dims": 2, "in_channels": 3, "classes": 19},
        aliases=("hrnet-ocr", "ocr-net"),
        sizes={
            "paper": {},
            "w18": {"width": 18},
            "small": {"width": 8, "modules": (1, 1, 1), "channels": 64, "inner": 32},
            "tiny": {"width": 2, "modules": (1, 1, 1), "channels": 8, "inner": 4},
        },
    ),
    Card(
        name="refine-net",
        title="RefineNet",
        task="semantic",
        dims=(2, 3),
        family="context",
        paper="arXiv:1611.06612",
        year=2017,
        at=f"{HOME}.refine_net:RefineNet",
        params=118_000_000,
        params_source="the authors' release with ResNet-101",
        params_form={"dims": 2, "in_channels": 3, "classes": 21},
        aliases=("refinenet",),
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "width": 32},
            "tiny": {"backbone": "resnet-tiny", "width": 4},
        },
    ),
    Card(
        name="gcn-large-kernel",
        title="Global convolutional network",
        task="semantic",
        dims=(2, 3),
        family="context",
        paper="arXiv:1703.02719",
        year=2017,
        at=f"{HOME}.large_kernel:GlobalConvNet",
        aliases=("gcn", "large-kernel-matters"),
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "kernel": 7},
            "tiny": {"backbone": "resnet-tiny", "kernel": 5},
        },
    ),
    Card(
        name="uper-net",
        title="UPerNet",
        task="semantic",
        dims=(2, 3),
        family="context",
        paper="arXiv:1807.10221",
        year=2018,
        at=f"{HOME}.uper_net:UPerNet",
        params=66_500_000,
        params_source="counted in the transformers library",
        params_form={"dims": 2, "in_channels": 3, "classes": 150},
        aliases=("upernet",),
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "width": 64},
            "tiny": {"backbone": "resnet-tiny", "width": 8},
        },
    ),
)
