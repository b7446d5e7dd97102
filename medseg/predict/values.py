"""The image's numbers inside each class: Hounsfield units for CT, as stored for anything else."""

from __future__ import annotations

import numpy as np

from medseg.core.case import Image
from medseg.core.segmentation import Segmentation


def values_in(seg: Segmentation, image: Image) -> dict[str, dict[str, float]]:
    """Class -> mean and sd (population) of the first channel; classes without a voxel are left out.

    Summed plane by plane along the axis that is slowest in memory, in float64: no copy of the image is made. Background
    is passed over before anything is summed.
    """
    array = image.array[0]
    if array.shape != seg.labels.shape:
        return {}
    axis = int(np.argmax(np.abs(array.strides)))
    indices = [info.index for info in seg.classes]
    most = max(indices, default=0) + 1
    sums = np.zeros((3, most if seg.regions is None else len(indices)))
    for number in range(array.shape[axis]):
        plane = array.take(number, axis)
        if seg.regions is None:
            labels = seg.labels.take(number, axis)
            named = labels >= min(indices, default=1)
            values = plane[named].astype(np.float64)
            for row, weights in enumerate((None, values, values * values)):
                sums[row] += np.bincount(labels[named], weights, most)[:most]
        else:
            for position, region in enumerate(seg.regions):
                inside = plane[region.take(number, axis)].astype(np.float64)
                sums[:, position] += inside.size, inside.sum(), np.vdot(inside, inside)
    places = indices if seg.regions is None else range(len(indices))
    found = {}
    for info, place in zip(seg.classes, places):
        count, total, squares = sums[:, place]
        if count:
            mean = total / count
            found[info.name] = {
                "mean": round(mean, 3),
                "sd": round(float(np.sqrt(max(0.0, squares / count - mean * mean))), 3),
            }
    return found
