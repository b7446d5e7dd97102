"""Rows of the dilated networks and the DeepLab family."""

from medseg.zoo.card import Card

HOME = "medseg.zoo.dilated"
VGG_TINY = (4, 6, 8, 8, 8)
VGG_SMALL = (16, 32, 64, 128, 128)
VOC = {"dims": 2, "in_channels": 3, "classes": 21}


def _row(name: str, title: str, year: int, paper: str, at: str, **more: object) -> Card:
    return Card(name, title, "semantic", (2, 3), "dilated", paper, year, f"{HOME}.{at}", **more)  # type: ignore[arg-type]


ROWS = (
    _row(
        "dilated-context",
        "Dilated convolutions with context module",
        2016,
        "arXiv:1511.07122",
        "dilated_context:DilatedContext",
        aliases=("dilation8", "dilated-net"),
        sizes={
            "paper": {},
            "large": {"large": True},
            "small": {"widths": VGG_SMALL, "hidden": 256, "fc_kernel": 3},
            "tiny": {"widths": VGG_TINY, "hidden": 16, "fc_kernel": 3},
        },
    ),
    _row(
        "duc-hdc",
        "Dense upsampling and hybrid dilated convolution",
        2018,
        "arXiv:1702.08502",
        "duc_hdc:DucHdc",
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "factor": 2},
            "tiny": {"backbone": "resnet-tiny-bottleneck", "factor": 2},
        },
    ),
    _row(
        "deeplab-v1",
        "DeepLab, LargeFOV",
        2015,
        "arXiv:1412.7062",
        "deeplab_v1:DeepLabV1",
        params=20_510_000,
        params_source="counted by the layer list of the authors' model",
        params_form=VOC,
        aliases=("deeplab", "deeplab-largefov"),
        sizes={
            "paper": {},
            "small": {"widths": VGG_SMALL, "hidden": 128},
            "tiny": {"widths": VGG_TINY, "hidden": 8},
        },
    ),
    _row(
        "deeplab-v2",
        "DeepLab v2",
        2018,
        "arXiv:1606.00915",
        "deeplab_v2:DeepLabV2",
        params=44_050_000,
        params_source="counted by the layer list of the authors' model",
        params_form=VOC,
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small"},
            "tiny": {"backbone": "resnet-tiny"},
        },
    ),
    _row(
        "deeplab-v3",
        "DeepLab v3",
        2017,
        "arXiv:1706.05587",
        "deeplab_v3:DeepLabV3",
        params=58_040_000,
        params_source="counted by the paper's layers: torchvision's 58.63 M less the 3x3 convolution it adds",
        params_form=VOC,
        sizes={
            "paper": {},
            "resnet50": {"backbone": "resnet50"},
            "small": {"backbone": "resnet-small", "channels": 64, "output_stride": 8},
            "tiny": {"backbone": "resnet-tiny", "channels": 8},
        },
    ),
    _row(
        "deeplab-v3-bicubic9",
        "DeepLab v3 with nine-point bicubic upsampling",
        2019,
        "url:https://www.arocmag.cn",
        "deeplab_v3_bicubic9:DeepLabV3Bicubic9",
        params=58_040_000,
        params_source="that of DeepLab v3: the layer it changes has no weights",
        params_form=VOC,
        aliases=("deeplab-v3-bicubic",),
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "channels": 64, "output_stride": 8},
            "tiny": {"backbone": "resnet-tiny", "channels": 8},
        },
    ),
    _row(
        "deeplab-v3-smoke",
        "DeepLab v3 for smoke",
        2019,
        "doi:10.19665/j.issn1001-2400.2019.06.008",
        "deeplab_v3_smoke:DeepLabV3Smoke",
        sizes={
            "paper": {},
            "small": {"backbone": "resnet-small", "channels": 32},
            "tiny": {"backbone": "resnet-tiny", "channels": 8, "output_stride": 8},
        },
    ),
    _row(
        "deeplab-v3plus",
        "DeepLab v3+",
        2018,
        "arXiv:1802.02611",
        "deeplab_v3plus:DeepLabV3Plus",
        params=41_050_000,
        params_source="counted in segmentation-models-pytorch with timm's Xception-65",
        params_form=VOC,
        aliases=("deeplab-v3+", "deeplabv3plus"),
        sizes={
            "paper": {},
            "resnet101": {"backbone": "resnet101"},
            "small": {"backbone": "resnet-small", "channels": 64},
            "tiny": {"backbone": "xception-tiny", "channels": 16},
        },
    ),
    _row(
        "dense-aspp",
        "DenseASPP",
        2018,
        "doi:10.1109/CVPR.2018.00388",
        "dense_aspp:DenseASPP",
        params=8_280_000,
        params_source="counted in the authors' code with DenseNet-121",
        params_form={"dims": 2, "in_channels": 3, "classes": 19},
        sizes={
            "paper": {},
            "densenet161": {"backbone": "densenet161", "widths": (512, 128)},
            "small": {"backbone": "densenet-small", "widths": (64, 32)},
            "tiny": {"backbone": "densenet-tiny", "widths": (8, 4)},
        },
    ),
    _row(
        "enet",
        "ENet",
        2016,
        "arXiv:1606.02147",
        "enet:ENet",
        params=370_000,
        params_source="section 5 of the paper, rounded",
        params_form={"dims": 2, "in_channels": 3, "classes": 19},
        aliases=("e-net",),
        waived={
            "published_count": "the layers of the paper's table 1 add up to 0.36 M, which it gives as 0.37 M"
        },
        sizes={"paper": {}, "small": {}, "tiny": {"widths": (6, 8, 16)}},
    ),
    _row(
        "wide-resnet",
        "Wide ResNet-38 FCN",
        2016,
        "arXiv:1611.10080",
        "wide_resnet:WideResNetFCN",
        params=124_040_000,
        params_source="counted by the layers of the authors' code",
        params_form={"dims": 2, "in_channels": 3, "classes": 21},
        aliases=("wrn-38", "wideresnet"),
        sizes={
            "paper": {},
            "released": {"pools": False},
            "small": {"width": 8, "units": (1, 1, 2, 1, 1, 1), "rate": 2},
            "tiny": {"width": 1, "units": (1, 1, 2, 1, 1, 1), "rate": 2},
        },
    ),
)
