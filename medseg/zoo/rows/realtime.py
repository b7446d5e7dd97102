"""Rows of the networks made for speed."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.realtime"

ROWS = (
    Card(
        name="bise-net",
        title="BiSeNet",
        task="semantic",
        dims=(2, 3),
        family="realtime",
        paper="arXiv:1808.00897",
        year=2018,
        at=f"{HOME}.bise_net:BiSeNet",
        params=13_500_000,
        params_source="counted in the authors' framework with auxiliary heads",
        params_form={"dims": 2, "in_channels": 3, "classes": 19},
        aliases=("bisenet",),
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "width": 32, "spatial": 16},
            "tiny": {"backbone": "resnet-tiny", "width": 8, "spatial": 4},
        },
    ),
)
