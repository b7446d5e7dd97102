"""nnU-Net's plans, equal in every number: patch, batch, strides, kernels, spacing, estimates, cascades."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.core import UserError
from medseg.plan.nnunet import plan_nnunet
from medseg.plan.planned import put_back, sized_on_gpu
from medseg.plan.topology import plan_topology

PLANNERS = {
    "ExperimentPlanner": "nnunet",
    "ResEncUNetPlanner": "nnunet-resenc-old",
    "nnUNetPlannerResEncM": "nnunet-resenc-m",
    "nnUNetPlannerResEncL": "nnunet-resenc-l",
    "nnUNetPlannerResEncXL": "nnunet-resenc-xl",
}
SMALL = json.loads((Path(__file__).parents[1] / "oracles" / "nnunet_plans_small.json").read_text())


def _differences(table, plan):
    expected, fingerprint = plan["out"], table["fingerprints"][plan["fingerprint"]]
    ours = plan_nnunet(fingerprint, PLANNERS[plan["planner"]], plan["gpu_memory_target_gb"])
    assert list(ours["configurations"]) == sorted(
        ours["configurations"], key=list(expected["configurations"]).index
    )
    found = [key for key in expected if key != "configurations" and ours[key] != expected[key]]
    for name, facts in expected["configurations"].items():
        mine = ours["configurations"][name]
        assert set(mine) == set(facts)
        found += [f"{name}.{k}" for k, v in facts.items() if k != "spacing" and mine[k] != v]
        if "spacing" in facts and mine["spacing"] != pytest.approx(facts["spacing"], rel=1e-9):
            found.append(f"{name}.spacing")
    return found


@pytest.mark.parametrize(
    "plan", SMALL["plans"], ids=lambda p: f"{p['fingerprint']}-{p['planner']}-{p['gpu_memory_target_gb']}"
)
def test_a_sample_of_plans_is_equal(plan):
    assert _differences(SMALL, plan) == []


def test_all_1226_configurations_are_equal(shared_data):
    path = shared_data.parent / "oracles" / "nnunet_plans.json"
    if not path.exists():
        pytest.skip("the oracle tables are not beside the real images")
    table = json.loads(path.read_text())
    counted = sum(
        name != "3d_cascade_fullres" for plan in table["plans"] for name in plan["out"]["configurations"]
    )
    assert counted == 1226
    wrong = {i: d for i, plan in enumerate(table["plans"]) if (d := _differences(table, plan))}
    assert wrong == {}


def test_our_axes_get_the_same_patch_as_nnunets():
    sized, order, reason = sized_on_gpu("nnunet-plain", (1.0, 1.0, 1.0), (35, 50, 36), 200, 3, 24)
    assert put_back(sized.topology.patch, order) == [40, 56, 40]
    assert sized.batch == 7
    assert reason == "nnU-Net's planner nnunet for 8 GB"
    flat, order, _ = sized_on_gpu("nnunet-plain", (0.6, 0.6, 5.0), (400, 320, 30), 100, 3, 24)
    assert order == [2, 1, 0]
    assert put_back(flat.topology.strides[1], order) == [2, 2, 1]


def test_a_larger_card_gets_a_larger_residual_plan():
    chosen = [sized_on_gpu("nnunet-resenc", (1, 1, 1), (300, 300, 300), 50, 5, gb)[2] for gb in (10, 24, 80)]
    assert chosen == [
        "nnU-Net's planner nnunet-resenc-m for 8 GB",
        "nnU-Net's planner nnunet-resenc-l for 24 GB",
        "nnU-Net's planner nnunet-resenc-xl for 40 GB",
    ]


def test_an_unknown_planner_is_named_with_the_nearest():
    with pytest.raises(UserError, match="no planner 'nnunet-resenk-m', did you mean nnunet-resenc-m"):
        plan_nnunet({}, "nnunet-resenk-m")


def test_coarse_axes_wait_until_the_others_have_caught_up():
    topology = plan_topology((0.6, 0.6, 5.0), (320, 256, 16))
    assert topology.strides[:4] == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert topology.kernels[0] == (3, 3, 1)
    assert topology.kernels[-1] == (3, 3, 3)
    assert topology.patch == (320, 256, 16)
    assert all(n % d == 0 for n, d in zip(topology.patch, topology.divisor))


def test_a_patch_is_padded_up_to_what_the_poolings_need():
    topology = plan_topology((1, 1, 1), (35, 50.5, 36))
    assert topology.patch == (40, 56, 40)
    assert plan_topology((1, 1, 1), (35, 50, 36), most_stages=3).divisor == (4, 4, 4)
