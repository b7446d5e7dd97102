"""The recipe of `medseg bench classical`: which images, which rule makes their foreground, which settings."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medseg.config import Section
from medseg.config_file import find_file, read_yaml, validate
from medseg.core.errors import UserError, did_you_mean

RECIPE = Path("configs/bench/classical.yaml")
"""The shipped recipe."""

Reader = Literal["bsds", "strokes", "masks", "volumes", "film", "photograph", "phantom"]
Rule = Literal["own", "minority", "darkest", "dark_inside"]


class ImageSet(Section):
    """One set of images and what is measured on it."""

    title: str = Field(description="what it shows, in one line")
    reader: Reader = Field(description="how its folder is laid out; photograph and phantom need none")
    folder: str | None = Field(None, description="its folder below --data; default: the name of the set")
    cases: int = Field(4, ge=1, description="images, evenly spaced in the order of their names")
    names: list[str] | None = Field(None, description="these images instead")
    shrink: list[int] | None = Field(None, description="means over so many voxels along each axis")
    clip: tuple[float, float] | None = Field(None, description="intensities are cut to this range")
    zscore: bool = Field(False, description="intensities less their mean, by their standard deviation")
    label_values: dict[str, list[int]] = Field(
        default_factory=dict,
        description="name of an image -> label values that are the object; default: all above 0",
    )
    rule: Rule = Field(
        "minority", description="which of a method's labels are the object when it has no prompt"
    )
    prompts: Literal["none", "drawn", "seeds", "seeds_and_boxes"] = Field(
        "none",
        description="what methods that need a prompt are given; drawn: by people, to all that take one, and to no others",
    )
    gives: list[str] = Field(
        default_factory=list, description="needs of methods that it meets: hu, geometry, frames"
    )
    systems: list[str] | None = Field(
        None, description="names or patterns of the methods that make sense on it"
    )
    arguments: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="name or pattern of methods -> arguments over their defaults"
    )
    sweeps: dict[str, dict[str, list[Any]]] = Field(
        default_factory=dict, description="name or pattern of methods -> argument -> values, all tried"
    )
    remark: str = Field("", description="what the page says below the table")

    def settings_of(self, method: str) -> list[dict[str, Any]]:
        """The arguments that a method is run with, one a setting; the first pattern that fits counts."""
        fixed = next((v for pattern, v in self.arguments.items() if fnmatch(method, pattern)), {})
        swept = next((v for pattern, v in self.sweeps.items() if fnmatch(method, pattern)), {})
        for argument, values in swept.items():
            return [{**fixed, argument: value} for value in values]
        return [dict(fixed)]

    @property
    def measures(self) -> Literal["regions", "object", "speed"]:
        """What kind of figures this set gives."""
        kinds: Mapping[str, Literal["regions", "speed"]] = {
            "bsds": "regions",
            "photograph": "speed",
            "phantom": "speed",
        }
        return kinds.get(self.reader, "object")

    @property
    def dims(self) -> int:
        """Axes of its images; a film has its frames as the third."""
        return 3 if self.reader in ("volumes", "film", "phantom") else 2


class ClassicalRecipe(Section):
    """The whole benchmark: what `configs/bench/classical.yaml` holds."""

    name: str = Field(description="name of the benchmark", pattern=r"^[\w.-]+$")
    cpu_seconds: int = Field(
        300, ge=1, description="processor time an entry may take before its process is ended"
    )
    data_sets: dict[str, ImageSet] = Field(description="name -> set of images", min_length=1)

    def data_set(self, name: str) -> ImageSet:
        """One set; UserError offers the nearest name."""
        if name not in self.data_sets:
            raise UserError(
                f"no data set {name!r} in the recipe{did_you_mean(name, self.data_sets)}",
                "--data-sets",
                f"there are {', '.join(self.data_sets)}",
            )
        return self.data_sets[name]


def load_recipe(path: Path | None = None) -> ClassicalRecipe:
    """Reads a recipe (default: the shipped one). Raises UserError with file and line for what does not fit."""
    found = find_file(path or RECIPE)
    recipe: ClassicalRecipe = validate(ClassicalRecipe, read_yaml(found), str(found))
    return recipe
