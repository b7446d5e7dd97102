"""What is measured of one result: volumes, flags, numbers of the image inside each class."""

from __future__ import annotations

from typing import Any

import numpy as np

import medseg
from medseg.core.case import Image
from medseg.core.segmentation import Segmentation
from medseg.io.layout import DOUBTS
from medseg.predict.case import Predictor
from medseg.predict.confidence import FIGURES
from medseg.predict.flags import border_flags, cut_off, input_flags, output_flags
from medseg.predict.prompts import notes_of
from medseg.predict.values import values_in


def measured(predictor: Predictor, image: Image, seg: Segmentation) -> dict[str, Any]:
    """Volumes, flags and notes of a result, for the JSON beside its masks.

    The volume of a class that runs into the border of the field of view is not known, so that it is null.
    """
    model = predictor.model
    voxels = voxels_of(seg)
    unknown = cut_off(seg, voxels)
    litre = seg.geometry.voxel_volume_ml
    volumes = {
        name: None if litre is None or name in unknown else round(n * litre, 4) for name, n in voxels.items()
    }
    # A classical method was never trained, so there is nothing that its images could be unlike.
    trained = model.net is not None
    plan = model.plan if trained else model.plan.model_copy(update={"volume_ml": {}, "on_border": {}})
    flags = input_flags(image, plan) if trained else []
    doubts = [note for note in image.notes if any(d in note for d in DOUBTS)]
    prompt, confidence = seg.provenance.get("prompt"), seg.provenance.get("confidence", {})
    return {
        "voxels": voxels,
        "volumes_ml": volumes,
        "flags": [
            *doubts,
            *flags,
            *seg.provenance.get("mirrored", ()),
            *seg.provenance.get("torn", ()),
            *border_flags(unknown, plan),
            *output_flags(seg, voxels, plan),
        ],
        "system": model.system.slug,
        "medseg": medseg.__version__,
        "engine": predictor.engine,
        "engine_facts": None if predictor.choice is None else predictor.choice.as_json(),
        "windows": seg.provenance["windows"],
        "windows_of_air": seg.provenance.get("windows_of_air", 0),
        "prompt": prompt,
        "intensity": values_in(seg, image),
        **{name: confidence.get("case", {}).get(name) for name in FIGURES},
        "confidence": confidence.get("classes", {}),
        "geometry": seg.geometry.as_json(),
        "classes": [info.as_json() for info in seg.classes],
        "notes": [*image.notes, *seg.provenance["notes"], *notes_of(prompt), *unknown.values()],
    }


def voxels_of(seg: Segmentation) -> dict[str, int]:
    """Class -> number of voxels."""
    from medseg.core.label_values import value_counts

    if seg.regions is not None:
        return {info.name: int(np.count_nonzero(region)) for info, region in zip(seg.classes, seg.regions)}
    counts = value_counts(seg.labels)
    return {info.name: counts.get(info.index, 0) for info in seg.classes}
