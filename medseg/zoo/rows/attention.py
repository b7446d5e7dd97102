"""Rows of the networks whose idea is an attention block."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.attention"
GATED_SIZES = {
    "paper": {},
    "small": {"features": (16, 32, 64, 128), "norm": "instance"},
    "tiny": {"features": (4, 8, 16), "norm": "instance", "reduction": 4},
}

ROWS = (
    Card(
        name="attention-u-net",
        title="Attention U-Net",
        task="semantic",
        dims=(2, 3),
        family="attention",
        paper="arXiv:1804.03999",
        year=2018,
        at=f"{HOME}.attention_u_net:AttentionUNet",
        params=6_400_000,
        params_source="table 2 of the paper",
        params_form={"dims": 3, "in_channels": 1, "classes": 4},
        aliases=("attention-unet", "att-unet"),
        waived={
            "published_count": "the authors' released network has 6.21 M; the paper's U-Net without gates (5.88 M) fits"
        },
        sizes={
            "paper": {},
            "small": {"features": (16, 32, 64, 128), "norm": "instance"},
            "tiny": {"features": (4, 8, 16), "norm": "instance"},
        },
    ),
    Card(
        name="se-u-net",
        title="U-Net with squeeze-and-excitation",
        task="semantic",
        dims=(2, 3),
        family="attention",
        paper="arXiv:1709.01507",
        year=2018,
        at=f"{HOME}.se_u_net:SEUNet",
        aliases=("se-unet",),
        sizes=GATED_SIZES,
    ),
    Card(
        name="cbam-u-net",
        title="U-Net with CBAM",
        task="semantic",
        dims=(2, 3),
        family="attention",
        paper="arXiv:1807.06521",
        year=2018,
        at=f"{HOME}.cbam_u_net:CBAMUNet",
        aliases=("cbam-unet",),
        sizes=GATED_SIZES,
    ),
)
