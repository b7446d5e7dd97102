"""The recipe of a benchmark: which data sets, which settings for all, what counts as having learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from medseg.config import Pipeline, Section, System
from medseg.config_file import Source, apply_overrides, find_file, read_yaml, validate
from medseg.core.errors import UserError, did_you_mean
from medseg.zoo.build import find
from medseg.zoo.card import Card

RECIPE = Path("configs/bench/zoo.yaml")
"""The shipped recipe."""


class BenchSet(Section):
    """One data set of a benchmark."""

    title: str = Field(description="what it shows, in one line")
    folder: str | None = Field(None, description="its folder below --data; default: the name of the set")
    cases: int = Field(
        20, ge=1, description="cases that are predicted and scored, evenly spaced over the held-out ones"
    )
    pipeline: dict[str, Any] = Field(default_factory=dict, description="settings over the common ones")
    systems: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="system -> settings of its own over those; the page names them"
    )


class Recipe(Section):
    """A whole benchmark: what `configs/bench/zoo.yaml` holds."""

    name: str = Field(description="name of the benchmark and of its experiment", pattern=r"^[\w.-]+$")
    minutes: float = Field(2.0, gt=0, description="training time of a system on a data set")
    more_rates: list[float] = Field(
        default_factory=list,
        description="learning rates that a system which does not learn gets as well, one after the other",
    )
    more_minutes: float | None = Field(
        None,
        gt=0,
        description="training time of a system that learns at none of the rates in `minutes`, at each again; more than `minutes`",
    )
    margin: float = Field(
        0.02, ge=0, lt=1, description="Dice and mIoU above the better baseline that count as learning"
    )
    sizes: list[str] = Field(description="the first of these that a system has is taken", min_length=1)
    reference: str = Field(description="the network whose plan the baselines take")
    common: dict[str, Any] = Field(default_factory=dict, description="pipeline settings of all data sets")
    data_sets: dict[str, BenchSet] = Field(description="name -> data set", min_length=1)

    @model_validator(mode="after")
    def _check_that_more_is_more(self) -> Recipe:
        if self.more_minutes is not None and self.more_minutes <= self.minutes:
            raise ValueError(
                f"more_minutes {self.more_minutes:g} has to be more than minutes {self.minutes:g}"
            )
        return self

    def data_set(self, name: str) -> BenchSet:
        """One data set; UserError offers the nearest name."""
        if name not in self.data_sets:
            raise UserError(
                f"no data set {name!r} in the recipe{did_you_mean(name, self.data_sets)}",
                "--data-sets",
                f"there are {', '.join(self.data_sets)}",
            )
        return self.data_sets[name]

    def at_rate(self, rate: float) -> Recipe:
        """The same with another learning rate."""
        faster = {"train": {"optimizer": {"rate": rate}}}
        return self.model_copy(update={"common": merge(self.common, faster)})

    def trials(self) -> Iterator[tuple[dict[str, float], Recipe]]:
        """What a system gets one after the other until it learns, and what is other than in the first of these."""
        for minutes in (self.minutes, *([self.more_minutes] if self.more_minutes else [])):
            longer = self.model_copy(update={"minutes": minutes, "more_minutes": None})
            yield {"minutes": minutes}, longer
            for rate in self.more_rates:
                yield {"minutes": minutes, "rate": rate}, longer.at_rate(rate)

    def size_of(self, card: Card) -> str:
        """The size in which a system is trained."""
        return next((size for size in self.sizes if size in card.sizes), next(iter(card.sizes)))

    def settings(self, data_set: str, system: str = "") -> dict[str, Any]:
        """The pipeline settings of a data set, without system and data root: what an entry's key is made of.

        With the name of a system, those of its own are on top.
        """
        facts = self.data_set(data_set)
        merged = merge(merge(self.common, facts.pipeline), facts.systems.get(system, {}))
        merged["train"] = {**merged.get("train", {}), "minutes": self.minutes}
        return merged

    def pipeline(self, data_set: str, system: System, root: Path | None) -> Pipeline:
        """The pipeline of one system on one data set. Raises UserError for settings that do not exist."""
        values = merge(self.settings(data_set, system.name), {"data": {"root": str(root)}} if root else {})
        values |= {"name": f"bench-{self.name}-{data_set}", "system": system.model_dump()}
        made: Pipeline = validate(Pipeline, Source(values), f"recipe {self.name}, {data_set}")
        return made


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with those of `over` on top; lists and plain values are replaced."""
    out = dict(base)
    for key, value in over.items():
        held = out.get(key)
        out[key] = merge(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return out


def load_recipe(
    path: Path | None = None, minutes: float | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """Reads a recipe (default: the shipped one); `minutes` and `overrides` (KEY=VALUE of a pipeline) win.

    With `minutes` no system gets more than those: they are the bound that was asked for.
    """
    found = find_file(path or RECIPE)
    source = read_yaml(found)
    if minutes is not None:
        source.values |= {"minutes": minutes, "more_minutes": None}
    if overrides:
        source.values["common"] = _overridden(source.values.get("common", {}), overrides)
        for values in source.values.get("data_sets", {}).values():
            values["pipeline"] = _overridden(values.get("pipeline", {}), overrides)
    recipe: Recipe = validate(Recipe, source, str(found))
    for facts in recipe.data_sets.values():
        for name in facts.systems:
            _check_slug(name, found)
    return recipe


def _check_slug(name: str, path: Path) -> None:
    """Entries are kept by a system's own name, so an alias would be overlooked."""
    slug = find(name).name
    if slug != name:
        raise UserError(f"settings are named for {name!r}, which is {slug!r}", str(path), f"write {slug}")


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    source = Source(merge({}, values))
    apply_overrides(source, overrides)
    return source.values
