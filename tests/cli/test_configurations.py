"""Both stages of a cascade in one run, from the command line, on the tiny cohort."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from medseg import two_stages
from medseg.config import Pipeline
from medseg.core.errors import UserError

TINY = "{name: 3d-u-net, size: tiny}"
LOWRES = "{name: 3d-u-net, size: tiny, configuration: lowres}"
SLICES = "{name: u-net, size: tiny, configuration: 2d}"
CASCADE = "{name: 3d-u-net, size: tiny, configuration: cascade}"
QUICK = ("--set", "train.steps=2", "--set", "track.enabled=false", "--set", "train.patch_size=[8,8,8]",
         "--set", "predict.overlap=0", "--set", "data.split.folds=2", "--set", "predict.engine=torch",
         "--set", "score.metrics=[dice]")  # fmt: skip

ALONE = ("--set", "compute.cores=1", "--set", "predict.overlap=0", "--set", "predict.precision=fp32")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def listed(*systems: str) -> tuple[str, str]:
    return "--set", f"system=[{', '.join(systems)}]"


def test_the_plan_says_that_a_coarse_first_stage_may_help_and_how_to_try_it(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, _, err = medseg("plan", journey, "--data", cohort, "--out", tmp_path / "run", *QUICK)
    assert code == 0
    said = (tmp_path / "run" / "run.log").read_text()
    assert "a patch covers 5% of the median case" in said, err
    assert "medseg run PIPELINE.yaml --folds all --set 'system=[" in said
    plan = (tmp_path / "run" / "plan.yaml").read_text()
    assert "covers 5% of the median case" in plan
    code, _, _ = medseg("plan", journey, "--data", cohort, "--out", tmp_path / "large", *QUICK,
                        "--set", "train.patch_size=[24,24,16]")  # fmt: skip
    assert code == 0
    assert "Cross-validation decides" not in (tmp_path / "large" / "run.log").read_text()


def test_one_command_makes_both_stages_and_cross_validation_chooses(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = ("run", journey, "--data", cohort, "--out", out, *QUICK, *listed(CASCADE, TINY, LOWRES))
    code, _, err = medseg(*asked, "--folds", "0")
    assert code == 0, err
    assert "3d-u-net-tiny-cascade waits for fold 1 of 3d-u-net-tiny-lowres" in (out / "run.log").read_text()
    assert not (out / "choice.json").exists()

    code, facts, err = medseg(*asked, "--folds", "all", "--json")
    assert code == 0, err
    assert "waits for" not in err
    names = {"3d-u-net-tiny", "3d-u-net-tiny-lowres", "3d-u-net-tiny-cascade"}
    choice = read(out / "choice.json")
    assert {row["system"] for row in choice["candidates"]} == names == set(facts["systems"])
    assert all(row["n"] == 8 and row["folds"] == 2 for row in choice["candidates"])
    plans = {name: yaml.safe_load((out / "systems" / name / "plan.yaml").read_text()) for name in names}
    full, low, second = (plans[f"3d-u-net-tiny{end}"] for end in ("", "-lowres", "-cascade"))
    assert full["spacing_mm"] == second["spacing_mm"] == [2, 2, 3]
    assert low["spacing_mm"][0] > 2
    assert (full["in_channels"], low["in_channels"], second["in_channels"]) == (1, 1, 3)
    first = read(out / "systems" / "3d-u-net-tiny-lowres" / "model" / "model.json")
    assert first["system"]["configuration"] == "lowres"
    assert second["previous"]["model"] == first["hash"]
    assert "none of a case that its model was trained on" in (out / "run.log").read_text()

    code, _, err = medseg(*asked, "--folds", "all")
    assert code == 0, err
    assert "3d-u-net-tiny-cascade/fold-1 unchanged, not done again" in (out / "run.log").read_text()

    image = cohort / "images" / "case_0.nii.gz"
    model = out / "systems" / "3d-u-net-tiny-cascade"
    code, _, err = medseg("predict", model, "--data", image, "--out", tmp_path / "masks", *ALONE)
    assert code == 0, err
    assert (tmp_path / "masks" / "case_0.nii.gz").exists()


def test_2d_and_3d_are_averaged_and_the_mean_is_chosen_from_too(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", out, *QUICK, "--folds", "all", "--json",
                              *listed(TINY, SLICES), "--set", "score.pairs=true", "--set", "train.patch_size=[16,16,8]")  # fmt: skip
    assert code == 0, err
    both = "3d-u-net-tiny+u-net-tiny-2d"
    rows = {row["system"]: row for row in read(out / "choice.json")["candidates"]}
    assert set(rows) == {"3d-u-net-tiny", "u-net-tiny-2d", both}
    assert (rows[both]["n"], rows[both]["folds"]) == (8, 2)
    assert facts["choice"]["chosen"] in rows
    plan = yaml.safe_load((out / "systems" / "u-net-tiny-2d" / "plan.yaml").read_text())
    assert plan["patch_size"] == [16, 16, 1]
    place = out / "systems" / both
    assert len(read(place / "model" / "model.json")["weights"]["members"]) == 4
    sides = [read(path) for path in sorted((place / "folds" / "fold-0" / "predictions").glob("*.json"))]
    assert all("mean of probabilities of 2 configurations" in side["engine"] for side in sides)
    assert both in (out / "report.html").read_text()

    image = cohort / "images" / "case_1.nii.gz"
    masks = tmp_path / "masks"
    code, _, err = medseg("predict", place, "--data", image, "--out", masks, *ALONE)
    assert code == 0, err
    engine = read(masks / "case_1.json")["engine"]
    assert engine.count("2 members, mean of logits") == 2
    apart = [out / "systems" / name / "model" for name in ("3d-u-net-tiny", "u-net-tiny-2d")]
    code, _, err = medseg("predict", *apart, "--data", image, "--out", tmp_path / "apart", *ALONE)
    assert code == 0, err
    ours, theirs = (nib.load(folder / "case_1.nii.gz").get_fdata() for folder in (masks, tmp_path / "apart"))
    steps = read(place / "postprocessing.json")["steps"]
    assert steps or np.array_equal(ours, theirs)


def test_a_coarse_grid_that_would_not_help_is_refused_before_it_costs_anything(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, _, err = medseg("run", journey, "--data", cohort, "--out", tmp_path / "run", *QUICK, "--folds", "all",
                          "--set", "train.patch_size=[16,16,16]", *listed(LOWRES, CASCADE))  # fmt: skip
    assert code == 2
    assert "a patch covers 38% of the median case" in err
    assert not (tmp_path / "run" / "systems" / "3d-u-net-tiny-lowres" / "model").exists()


@pytest.mark.parametrize(
    ("systems", "sections", "said", "where"),
    [
        (["u-net", "cascade"], {"train": {"folds": "all"}}, "has no first stage", "system.configuration"),
        (["lowres", "cascade"], {}, "needs folds", "system.configuration, train.folds"),
    ],
)
def test_a_cascade_without_a_stage_or_folds_is_refused(
    systems: list, sections: dict, said: str, where: str
) -> None:
    kinds = {"u-net": "u-net", **{c: {"name": "3d-u-net", "configuration": c} for c in ("lowres", "cascade")}}
    pipeline = Pipeline.model_validate({"name": "t", "system": [kinds[s] for s in systems], **sections})
    with pytest.raises(UserError, match=said) as caught:
        two_stages.refuse_alone(pipeline)
    assert caught.value.where == where


def test_a_cascade_may_take_the_masks_of_another_run() -> None:
    one = {"name": "3d-u-net", "configuration": "cascade"}
    pipeline = Pipeline.model_validate({"name": "t", "system": one, "ingest": {"previous": "RUN"}})
    two_stages.refuse_alone(pipeline)
    assert two_stages.first_stage(pipeline, pipeline.systems[0]) is None


def test_a_classical_method_has_no_configurations(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, _, err = medseg("plan", journey, "--data", cohort, "--out", tmp_path / "run",
                          "--set", "system={name: threshold-otsu, configuration: lowres}")  # fmt: skip
    assert code == 2
    assert "has no configuration lowres" in err
