"""The waist: the four types that every step shares, and the error a person can act on."""

from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.prompt import Prompt
from medseg.core.segmentation import ClassInfo, Segmentation

__all__ = ["Case", "ClassInfo", "Geometry", "Image", "Prompt", "Segmentation", "UserError"]
