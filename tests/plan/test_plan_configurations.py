"""A first stage on a coarse grid: when it is planned, on which grid, and what the plan says of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from medseg.config import System
from medseg.core import UserError
from medseg.plan.configurations import advice, coarser_grid, patch_share, require_coarser
from medseg.plan.nnunet import resampled_shape, target_spacing
from medseg.plan.nnunet_size import PLANNERS, size_patch

SMALL = json.loads((Path(__file__).parents[1] / "oracles" / "nnunet_plans_small.json").read_text())
NAMES = {
    "ExperimentPlanner": "nnunet",
    "ResEncUNetPlanner": "nnunet-resenc-old",
    "nnUNetPlannerResEncM": "nnunet-resenc-m",
    "nnUNetPlannerResEncL": "nnunet-resenc-l",
    "nnUNetPlannerResEncXL": "nnunet-resenc-xl",
}


def cube(edge: int):
    """A planner that takes the same patch on every grid."""
    return lambda spacing, shape: [edge] * 3


def test_a_patch_on_the_coarse_grid_covers_a_quarter_of_the_case():
    coarse = coarser_grid([1, 1, 1], [256, 256, 256], cube(64))
    assert coarse is not None
    assert coarse[0] == coarse[1] == coarse[2]
    seen = np.array([256] * 3) / coarse
    assert 0.25 <= patch_share([64] * 3, seen) < 0.25 * 1.03**3


def test_fine_axes_are_widened_first_until_they_are_half_as_coarse_as_the_coarsest():
    coarse = coarser_grid([0.5, 0.5, 5.0], [512, 512, 40], lambda s, n: [128, 128, 16])
    assert coarse is not None
    assert coarse[2] == 5.0
    assert coarse[0] == coarse[1] > 0.5


VOLUMES = [
    number for number, plan in enumerate(SMALL["plans"]) if "3d_fullres" in plan["out"]["configurations"]
]


@pytest.mark.parametrize("number", VOLUMES)
def test_the_grid_is_that_of_nnunets_planner(number):
    plan = SMALL["plans"][number]
    fingerprint, memory = SMALL["fingerprints"][plan["fingerprint"]], plan["gpu_memory_target_gb"]
    planner = PLANNERS[NAMES[plan["planner"]]]
    made = plan["out"]["configurations"]
    spacings, shapes = (np.array(fingerprint[key], float) for key in ("spacings", "shapes_after_crop"))
    forward, target = plan["out"]["transpose_forward"], target_spacing(spacings, shapes)
    median = np.median(resampled_shape(shapes, spacings, target), axis=0)[forward]
    cases, classes = fingerprint["numTraining"], len(fingerprint["labels"])

    def patch_of(spacing, shape):
        voxels = float(np.prod(shape)) * cases  # the patch does not depend on it, the batch does
        return size_patch(np.array(spacing), shape, voxels, classes, planner, memory).topology.patch

    ours = coarser_grid(target[forward].tolist(), median.tolist(), patch_of)
    theirs = made.get("3d_lowres", {}).get("spacing")
    assert ours == (theirs if theirs is None else pytest.approx(theirs, abs=1e-4))


@pytest.mark.parametrize("edge", [200, 160])
def test_no_stage_is_planned_where_a_patch_covers_enough(edge):
    assert coarser_grid([1, 1, 1], [256, 256, 256], cube(edge)) is None


def test_no_stage_is_planned_whose_grid_has_more_than_half_the_voxels():
    # 152^3 is 21 % of the case: widened by a few percent, a patch covers a quarter.
    assert patch_share([152] * 3, [256] * 3) < 0.25
    assert coarser_grid([1, 1, 1], [256, 256, 256], cube(152)) is None


def test_asking_for_a_stage_that_is_not_worth_it_is_refused_with_the_share():
    with pytest.raises(UserError, match="a patch covers 48% of the median case") as caught:
        require_coarser([1, 1, 1], [256, 256, 256], cube(200))
    assert caught.value.where == "system.configuration"
    with pytest.raises(UserError, match="flat images have no first stage"):
        require_coarser(None, [256, 256], cube(200))


def test_the_advice_is_a_command_whose_system_can_be_pasted():
    system = System(name="3d-u-net", size="tiny")
    first, command = advice(system, {"patch_share": 0.0431, "lowres_spacing_mm": [3.1234, 3.1234, 4.0]})
    assert "covers 4% of the median case" in first
    assert "3.12x3.12x4 mm" in first
    words = shlex.split(command.strip())
    assert words[:2] == ["medseg", "run"]
    assert words[words.index("--folds") + 1] == "all"
    listed = json.loads(words[words.index("--set") + 1].removeprefix("system="))
    assert listed == [
        {"name": "3d-u-net", "size": "tiny"},
        {"name": "3d-u-net", "size": "tiny", "configuration": "lowres"},
        {"name": "3d-u-net", "size": "tiny", "configuration": "cascade"},
    ]
    assert (
        '["3d-u-net", {'
        in advice(System(name="3d-u-net"), {"patch_share": 0.1, "lowres_spacing_mm": [2, 2, 2]})[1]
    )
    assert advice(system, {"patch_share": 0.5, "lowres_spacing_mm": None}) == []
    assert advice(system, {}) == []
