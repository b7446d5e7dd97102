"""Several models over one cohort: an image is prepared once for all models whose plans ask for the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.config import Plan
from medseg.core.case import Image

if TYPE_CHECKING:
    from medseg.ingest.prepare import PreparedImage

DECIDES = ("dims", "in_channels", "spacing_mm", "spacing_px", "intensity", "crop", "image_order")
"""What of a plan the prepared image depends on."""


class SharedPreparation:
    """Prepares images and keeps the last one until another is asked for, or until `forget`."""

    def __init__(self) -> None:
        self._image: Image | None = None
        self._key = ""
        self._prepared: PreparedImage | None = None

    def __call__(self, image: Image, plan: Plan) -> PreparedImage:
        """As `prepare_image`. The array is shared, so nobody may write into it."""
        from medseg.ingest import prepare

        key = repr([getattr(plan, name) for name in DECIDES])
        if self._prepared is None or image is not self._image or key != self._key:
            self.forget()
            self._prepared = prepare.prepare_image(image, plan)
            self._image, self._key = image, key
        return self._prepared

    def forget(self) -> None:
        """Lets go of the image."""
        self._image = self._prepared = None
