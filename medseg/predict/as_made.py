"""Settings of a prediction that are left out are those that the model was made with."""

from __future__ import annotations

from typing import Any

from medseg.config import Plan, Predict
from medseg.config_types import GuidedFilter


def guided_filter(settings: Predict, plan: Plan) -> GuidedFilter | None:
    """The filter of borders that a prediction uses."""
    if settings.guided_filter == "auto":
        return plan.guided_filter
    return None if settings.guided_filter == "none" else settings.guided_filter


def kept_background(settings: Predict, plan: Plan) -> float:
    """How likely background has to be to stay; one half unless borders are moved afterwards."""
    setting = guided_filter(settings, plan)
    return 0.5 if setting is None else setting.background


def rule_of_parts(settings: Predict, plan: Plan, name: str) -> dict[str, Any]:
    """`smallest_part_ml` or `part_median`: class -> what its parts have to be."""
    said: dict[str, Any] | str = getattr(settings, name)
    rule: dict[str, Any] = getattr(plan, name) if isinstance(said, str) else said
    return rule
