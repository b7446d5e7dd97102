"""Rows of the networks with a graphical model on top."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.graphical"
VOC = {"dims": 2, "in_channels": 3, "classes": 21}
VGG_TINY = {"widths": (4, 6, 8, 8, 8)}
VGG_SMALL = {"widths": (16, 32, 64, 128, 128)}
NARROW = {"theta": (10.0, 40.0, 1.0)}
"""Kernel widths for images of about 100 voxels an axis with noise; the papers' are for photographs of 500 pixels."""

ROWS = (
    Card(
        name="cnn-dense-crf",
        title="DeepLab with a dense CRF",
        task="semantic",
        dims=(2, 3),
        family="graphical",
        paper="arXiv:1412.7062",
        year=2015,
        at=f"{HOME}.cnn_dense_crf:CNNDenseCRF",
        params=20_510_000,
        params_source="counted by the layer list of the authors' model; the field has no trained weights",
        params_form=VOC,
        aliases=("deeplab-crf",),
        sizes={
            "paper": {},
            "small": {**VGG_SMALL, "hidden": 128, "weights": (1.0, 1.0), **NARROW},
            "tiny": {**VGG_TINY, "hidden": 8, **NARROW},
        },
    ),
    Card(
        name="fcdsn",
        title="Fully connected deep structured network",
        task="semantic",
        dims=(2, 3),
        family="graphical",
        paper="arXiv:1503.02351",
        year=2015,
        at=f"{HOME}.fcdsn:FCDSN",
        sizes={
            "paper": {},
            "small": {**VGG_SMALL, "fc_channels": 128, "fc_kernel": 3, **NARROW},
            "tiny": {**VGG_TINY, "fc_channels": 8, "fc_kernel": 3, **NARROW},
        },
    ),
    Card(
        name="crf-rnn",
        title="CRF-RNN",
        task="semantic",
        dims=(2, 3),
        family="graphical",
        paper="arXiv:1502.03240",
        year=2015,
        at=f"{HOME}.crf_rnn:CRFRNN",
        params=134_500_000,
        params_source="counted by the layer list of FCN-8s; the field adds three K x K matrices",
        params_form=VOC,
        aliases=("crfasrnn", "crf-as-rnn"),
        sizes={
            "paper": {},
            "small": {**VGG_SMALL, "fc_channels": 256, "fc_kernel": 3, **NARROW},
            "tiny": {**VGG_TINY, "fc_channels": 16, "fc_kernel": 3, **NARROW},
        },
    ),
)
