"""Rows of the transformers."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.transformer"

ROWS = (
    Card(
        name="segformer",
        title="SegFormer",
        task="semantic",
        dims=(2, 3),
        family="transformer",
        paper="arXiv:2105.15203",
        year=2021,
        at=f"{HOME}.segformer:SegFormer",
        params=84_610_000,
        params_source="counted in the transformers library for B5",
        params_form={"dims": 2, "in_channels": 3, "classes": 19},
        aliases=("seg-former",),
        sizes={
            "paper": {},
            "b0": {"mix": "b0", "width": 256},
            "b2": {"mix": "b2"},
            "small": {"mix": "small", "width": 64},
            "tiny": {"mix": "tiny", "width": 8},
        },
    ),
    Card(
        name="swin-unetr",
        title="Swin UNETR",
        task="semantic",
        dims=(2, 3),
        family="transformer",
        paper="arXiv:2201.01266",
        year=2021,
        at=f"{HOME}.swin_unetr:SwinUNETR",
        params=61_980_000,
        params_source="the paper's section on the experiments",
        params_form={"dims": 3, "in_channels": 4, "classes": 3},
        aliases=("swinunetr",),
        sizes={
            "paper": {},
            "small": {"width": 12},
            "tiny": {"width": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1), "norm": "batch"},
        },
    ),
)
