"""Norms by each image's own statistics in place of those of a batch. Wu, He, ECCV 2018, arXiv:1803.08494."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from medseg.zoo.layers import nd


def group_norms(net: nn.Module) -> None:
    """Puts a group norm of as many channels in the place of every batch norm of `net`, in 2D and 3D.

    For networks that see one image at several scales: where it is noisy, its coarser copy has other means and
    variances, and running ones, which are an average over all scales, fit none of them.
    """
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, nd.make_norm("group", 0, child.num_features))
