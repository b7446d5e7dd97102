"""A row of the catalog: what a system is, who published it, where its code lies. Data only; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, eq=False)
class Card:
    """One system.

    name: the slug by which pipelines call it. title: what people call it. task: semantic, instance, ...
    dims: numbers of axes it works on. family: the surveys' family. paper: arXiv id or DOI. year: of publication.
    params: published parameter count (None: none published), `params_source` where the figure stands and
    `params_form` the dims, channels, classes and arguments at which it holds.
    at: "module:object". needs: what a person must give beside image and label (prompt, hu, depth ...); takes: what a
    person may give. search: argument -> values that `train.search` tries, for classical methods.
    aliases: other spellings. sizes: name of a size -> arguments ("tiny" for tests, "paper" as published ...).
    waived: contract -> reason. kind: whether it is a torch network or a classical method.
    """

    name: str
    title: str
    task: str
    dims: tuple[int, ...]
    family: str
    paper: str
    year: int
    at: str
    params: int | None = None
    params_source: str = ""
    params_form: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"paper": {}, "tiny": {}})
    waived: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["network", "classical"] = "network"
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The card as `medseg list --json` prints it."""
        return {
            "name": self.name,
            "title": self.title,
            "task": self.task,
            "dims": list(self.dims),
            "family": self.family,
            "paper": self.paper,
            "year": self.year,
            "params": self.params,
            "at": self.at,
            "needs": list(self.needs),
            "aliases": list(self.aliases),
        }
