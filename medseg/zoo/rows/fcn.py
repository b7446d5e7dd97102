"""Rows of the fully convolutional networks."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.fcn"
VOC = {"dims": 2, "in_channels": 3, "classes": 21}
TINY = {"widths": (4, 6, 8, 8, 8), "fc_channels": 16, "fc_kernel": 3}
SMALL = {"widths": (16, 32, 64, 128, 128), "fc_channels": 256, "fc_kernel": 3}


def _fcn(stride: int, count: int) -> Card:
    return Card(
        name=f"fcn-{stride}s",
        title=f"FCN-{stride}s",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="arXiv:1411.4038",
        year=2015,
        at=f"{HOME}.fcn:FCN",
        params=count,
        params_source="counted by the layer list of the authors' models, upsampling left out",
        params_form=VOC,
        aliases=(f"fcn{stride}s", f"fcn-{stride}"),
        sizes={
            "paper": {"stride": stride},
            "small": {"stride": stride, **SMALL},
            "tiny": {"stride": stride, **TINY},
        },
    )


ROWS = (
    _fcn(32, 134_350_000),
    _fcn(16, 134_360_000),
    _fcn(8, 134_360_000),
    Card(
        name="parsenet",
        title="ParseNet",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="arXiv:1506.04579",
        year=2015,
        at=f"{HOME}.parsenet:ParseNet",
        aliases=("parse-net",),
        sizes={
            "paper": {},
            "small": {"widths": (16, 32, 64, 128, 128), "hidden": 128},
            "tiny": {"widths": (4, 6, 8, 8, 8), "hidden": 8},
        },
    ),
)
