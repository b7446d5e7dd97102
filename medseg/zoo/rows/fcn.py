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
    Card(
        name="fcn-skin-jaccard",
        title="FCN with Jaccard distance",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="doi:10.1109/TMI.2017.2695227",
        year=2017,
        at=f"{HOME}.fcn_skin_jaccard:JaccardFCN",
        aliases=("fcn-jaccard",),
        sizes={
            "paper": {},
            "small": {"first": (8, 16), "features": (32, 64, 128)},
            "tiny": {"first": (4, 4), "features": (4, 6, 8)},
        },
    ),
    Card(
        name="fcn-iris",
        title="Multi-scale FCN for irises (MFCN)",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="doi:10.1109/ICB.2016.7550055",
        year=2016,
        at=f"{HOME}.fcn_iris:IrisFCN",
        aliases=("mfcn", "iris-mfcn"),
        sizes={"paper": {}, "small": SMALL, "tiny": TINY},
    ),
    Card(
        name="fcn-cascade-aniso",
        title="Cascaded anisotropic networks (WNet, TNet, ENet)",
        task="semantic",
        dims=(3,),
        family="fcn",
        paper="arXiv:1709.00382",
        year=2017,
        at=f"{HOME}.fcn_cascade_aniso:AnisotropicCascade",
        params=1_900_008,
        params_source="counted by the layer list of the authors' code: three regions in three views",
        params_form={"dims": 3, "in_channels": 4, "classes": 4},
        aliases=("anisotropic-cascade", "ms-net-cascade"),
        sizes={
            "paper": {},
            "one-view": {"views": (2,)},
            "small": {"widths": (12, 12, 12, 12), "views": (2,), "checkpoint": False},
            "tiny": {"widths": (4, 4, 6, 6), "views": (2, 0), "checkpoint": False},
        },
    ),
    Card(
        name="lenet-patch",
        title="LeNet-5 as a sliding patch classifier",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="doi:10.1109/5.726791",
        year=1998,
        at=f"{HOME}.lenet_patch:LeNetPatch",
        params=60_000,
        params_source="section II.B of the paper, its trainable weights",
        params_form={"dims": 2, "in_channels": 1, "classes": 10},
        aliases=("lenet", "lenet-5"),
        sizes={"paper": {}, "small": {"patches": 64}, "tiny": {"patches": 4}},
    ),
    Card(
        name="deeplab-inception-rs",
        title="DeepLab with an Inception front end for remote sensing",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="url:http://ckjs.ijournals.cn",
        year=2018,
        at=f"{HOME}.deeplab_inception_rs:DeepLabInception",
        aliases=("deeplab-inception",),
        sizes={
            "paper": {},
            "small": {"backbone": "googlenet-small", "hidden": 128},
            "tiny": {"backbone": "googlenet-tiny", "hidden": 8},
        },
    ),
    Card(
        name="adobe-portrait-net",
        title="PortraitFCN+",
        task="semantic",
        dims=(2, 3),
        family="fcn",
        paper="doi:10.1111/cgf.12814",
        year=2016,
        at=f"{HOME}.portrait_fcn:PortraitFCN",
        aliases=("portrait-fcn-plus", "portrait-fcn"),
        sizes={"paper": {}, "small": SMALL, "tiny": {**TINY, "grid": 16}},
    ),
)
