"""The whole road from the command line, on a tiny cohort."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

STEPS = ["check", "plan", "ingest", "train", "predict", "score", "report"]


def test_a_run_leaves_everything_the_house_promises(finished: Path) -> None:
    for name in ("pipeline.yaml", "check.json", "plan.yaml", "cases.parquet", "model/model.safetensors", "model/model.json",
                 "predictions", "scores.parquet", "scores.json", "report.html", "journal.sqlite", "run.log"):  # fmt: skip
        assert (finished / name).exists(), name
    assert list(json.loads((finished / "steps.json").read_text())) == STEPS
    assert not list(finished.rglob(".part-*"))


def test_predictions_lie_on_the_grid_of_their_image(finished: Path, cohort: Path) -> None:
    masks = sorted((finished / "predictions").glob("*.nii.gz"))
    assert len(masks) == 2
    for mask in masks:
        image = nib.load(cohort / "images" / mask.name)
        result = nib.load(mask)
        assert result.shape == image.shape
        assert np.array_equal(result.affine, image.affine)
        assert set(np.unique(result.dataobj)) <= {0, 1, 2}


def test_the_tiny_network_learnt_the_large_blob(finished: Path) -> None:
    scores = json.loads((finished / "scores.json").read_text())
    assert scores["per_class"]["large"]["dice"] > 0.7


def test_scripts_get_one_object_with_the_promised_keys(
    medseg: Callable, journey: Path, cohort: Path, finished: Path
) -> None:
    code, facts, _ = medseg("run", journey, "--data", cohort, "--out", finished, "--json")
    assert code == 0
    assert set(facts) == {"run", "mlflow_run_id", "scores", "seconds", "peak_ram_gb", "cases"}
    assert {"dice", "iou", "hd95_mm"} <= set(facts["scores"]["mean"])
    assert set(facts["scores"]["per_class"]) == {"large", "small"}
    assert facts["cases"] == {"done": 8, "failed": 0, "skipped": 0, "review": facts["cases"]["review"]}
    assert len(facts["mlflow_run_id"]) == 32


def test_nothing_is_done_twice_when_nothing_changed(
    medseg: Callable, journey: Path, cohort: Path, finished: Path
) -> None:
    before = {s: (finished / "steps.json").stat().st_mtime_ns for s in STEPS}
    code, facts, _ = medseg("run", journey, "--data", cohort, "--out", finished, "--json")
    assert code == 0
    assert facts["seconds"].keys() == {"total"}
    assert before == {s: (finished / "steps.json").stat().st_mtime_ns for s in STEPS}


def test_touching_a_file_trains_nothing_again(
    medseg: Callable, journey: Path, cohort: Path, finished: Path
) -> None:
    os.utime(next((cohort / "images").iterdir()))
    _, facts, _ = medseg("run", journey, "--data", cohort, "--out", finished, "--json")
    assert "train" not in facts["seconds"]


def test_another_scoring_scores_again_but_does_not_train(medseg: Callable, journey: Path, cohort: Path, finished: Path, tmp_path: Path) -> None:  # fmt: skip
    copy = tmp_path / "copy-1"
    shutil.copytree(finished, copy)
    code, facts, _ = medseg("run", journey, "--data", cohort, "--out", copy, "--set", "score.tolerance_mm=5", "--set", "track.enabled=false", "--json")  # fmt: skip
    assert code == 0
    assert {"score", "report"} <= facts["seconds"].keys()
    assert not {"train", "ingest", "predict"} & facts["seconds"].keys()


def test_the_page_is_one_file_that_loads_nothing_from_outside(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "large" in page
    assert 'src="http' not in page
    assert "<link" not in page
    assert 'name="viewport"' in page


def test_a_person_reads_what_happened(medseg: Callable, journey: Path, cohort: Path, finished: Path) -> None:
    code, text, _ = medseg("run", journey, "--data", cohort, "--out", finished)
    assert code == 0
    for word in ("8 cases done", "Dice", "HD95 mm", "large", "results", "report.html", "medseg ui"):
        assert word in text, word


def test_the_status_names_the_finished_steps(medseg: Callable, finished: Path) -> None:
    code, facts, _ = medseg("status", finished, "--json")
    assert code == 0
    assert list(facts["steps"][""]) == STEPS


def test_a_model_segments_a_folder_and_masks_are_named_after_their_cases(medseg: Callable, finished: Path, cohort: Path, tmp_path: Path) -> None:  # fmt: skip
    code, facts, _ = medseg(
        "predict", finished / "model", "--data", cohort / "images", "--out", tmp_path / "masks", "--json"
    )
    assert code == 0, facts
    assert facts["cases"]["done"] == 8
    assert {p.name for p in (tmp_path / "masks").glob("*.nii.gz")} == {f"case_{n}.nii.gz" for n in range(8)}
    code, facts, _ = medseg("score", tmp_path / "masks", cohort / "labels", "--json")
    assert code == 0
    assert facts["cases"]["done"] == 8
    assert facts["mean"]["dice"] > 0.4


def test_predicting_the_same_case_twice_from_python_gives_the_same_mask(finished: Path, cohort: Path) -> None:
    import medseg

    image = cohort / "images" / "case_3.nii.gz"
    first, second = (medseg.predict(finished / "model", image) for _ in range(2))
    assert np.array_equal(first.labels, second.labels)
    assert first.geometry.shape == nib.load(image).shape
    assert first.volume_ml(0) > 0
    rows = medseg.score(first, first)
    assert {row["dice"] for row in rows} == {1.0}


def test_without_labels_a_model_predicts_and_reports(medseg: Callable, journey: Path, finished: Path, cohort: Path, tmp_path: Path) -> None:  # fmt: skip
    data = tmp_path / "unlabelled"
    shutil.copytree(cohort / "images", data)
    code, facts, err = medseg("run", journey, "--data", data, "--model", finished, "--out", tmp_path / "run", "--json", "--set", "track.enabled=false")  # fmt: skip
    assert code == 0, err
    assert facts["cases"]["done"] == 8
    assert (tmp_path / "run" / "report.html").exists()
    assert len(list((tmp_path / "run" / "predictions").glob("*.nii.gz"))) == 8


def test_one_bad_case_fails_alone_and_counts_add_up(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    data = tmp_path / "damaged"
    shutil.copytree(cohort, data)
    whole = (data / "images" / "case_2.nii.gz").read_bytes()
    (data / "images" / "case_2.nii.gz").write_bytes(whole[: len(whole) // 2])
    (data / "images" / "case_4.nii.gz").write_bytes(b"")
    code, facts, _ = medseg("run", journey, "--data", data, "--out", tmp_path / "run", "--json", "--set", "train.steps=3",
                            "--set", "track.enabled=false")  # fmt: skip
    assert code == 3
    assert facts["cases"]["failed"] == 2
    assert sum(facts["cases"][k] for k in ("done", "failed", "skipped")) == 8
    _, status, _ = medseg("status", tmp_path / "run", "--json")
    assert {c["case"] for c in status["cases"] if c["state"] == "failed"} == {"case_2", "case_4"}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("system.name=3d-unet", "did you mean 3d-u-net"),
        ("train.loss=dise", "did you mean dice"),
        ("score.metrics=[dicee]", "did you mean dice"),
        ("train.stepz=3", "did you mean steps"),
        ("system.size=tinny", "did you mean tiny"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(medseg: Callable, journey: Path, cohort: Path, tmp_path: Path, setting: str, words: str) -> None:  # fmt: skip
    code, _, err = medseg("run", journey, "--data", cohort, "--out", tmp_path / "run", "--set", setting)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_several_mistyped_names_come_at_once(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, _, err = medseg("run", journey, "--data", cohort, "--out", tmp_path, "--set", "system.name=3d-unet", "--set", "train.loss=dise")  # fmt: skip
    assert code == 2
    assert "3d-u-net" in err
    assert "dice" in err


def test_a_folder_that_is_not_there_is_said(medseg: Callable, journey: Path, tmp_path: Path) -> None:
    code, _, err = medseg("run", journey, "--data", tmp_path / "absent", "--out", tmp_path / "run")
    assert code == 2
    assert "no such data folder" in err


def test_a_folder_without_images_is_said(medseg: Callable, journey: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = medseg("run", journey, "--data", tmp_path / "empty", "--out", tmp_path / "run")
    assert code == 2
    assert "Traceback" not in err


def test_errors_reach_scripts_as_json(medseg: Callable, tmp_path: Path) -> None:
    code, facts, _ = medseg("run", tmp_path / "absent.yaml", "--json")
    assert code == 2
    assert facts["error"]["what"] == "no such pipeline file"


def test_a_folder_that_may_not_be_written_is_said(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the run folder should be")
    code, _, err = medseg("run", journey, "--data", cohort, "--out", blocked / "run")
    assert code == 2
    assert "Traceback" not in err


def test_several_systems_are_compared_on_the_same_cases(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", tmp_path / "both", "--json", "--set", "train.steps=3",
                              "--set", "system=[{name: 3d-u-net, size: tiny}, {name: threshold-otsu}]")  # fmt: skip
    assert code == 0, err
    assert set(facts["systems"]) == {"3d-u-net-tiny", "threshold-otsu"}
    page = (tmp_path / "both" / "report.html").read_text()
    assert "3d-u-net-tiny" in page
    assert "threshold-otsu" in page


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_can_be_continued(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path, stop: int
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "medseg.cli", "run", str(journey), "--data", str(cohort), "--out", str(out),
               "--set", "train.steps=100000", "--set", "track.enabled=false", "--set", "train.checkpoint_minutes=0.001"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    under_way = out / "checkpoints"  # there are steps behind it
    while time.monotonic() < deadline and process.poll() is None and not any(under_way.glob("*")):
        time.sleep(0.1)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if stop == signal.SIGINT else 75), err
    assert "what was finished is kept" in err
    assert "Traceback" not in err
    assert list(under_way.iterdir())
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", out, "--set", "train.steps=5", "--set", "track.enabled=false", "--json")  # fmt: skip
    assert code == 0, err
    assert "check" not in facts["seconds"]


def test_the_model_in_mlflow_predicts(finished: Path) -> None:
    import mlflow

    tracking = json.loads((finished / "tracking.json").read_text())
    mlflow.set_tracking_uri(tracking["uri"])
    run = mlflow.get_run(tracking["."])
    assert run.data.params["system.name"] == "3d-u-net"
    assert run.data.metrics["score/mean/dice"] > 0.3
    assert run.data.metrics["ram_peak_gb/train"] > 0.1
    assert "train/loss" in run.data.metrics
    model = mlflow.pyfunc.load_model(f"runs:/{tracking['.']}/model")
    assert model.metadata.signature is not None
    labels = model.predict(np.zeros((1, 1, 16, 16, 16), dtype=np.float32))
    assert labels.shape == (1, 16, 16, 16)


def test_a_first_pipeline_file_is_written_for_a_folder(
    medseg: Callable, cohort: Path, tmp_path: Path
) -> None:
    code, _, err = medseg("init", cohort, "--out", tmp_path / "mine.yaml")
    assert code == 0, err
    from medseg.config_file import load_pipeline

    assert set(load_pipeline(tmp_path / "mine.yaml").data.classes)
    code, _, err = medseg("init", cohort, "--out", tmp_path / "mine.yaml")
    assert code == 2
    assert "exists already" in err


def test_a_bare_folder_is_checked(medseg: Callable, cohort: Path) -> None:
    code, facts, _ = medseg("check", cohort, "--json")
    assert code == 0
    assert facts["cases"]["done"] == 8


def test_the_schema_is_one_that_editors_take(medseg: Callable) -> None:
    code, schema, _ = medseg("schema", "--json")
    assert code == 0
    assert set(schema["properties"]) >= {"data", "system", "train"}


def test_a_mistyped_verb_is_answered_with_the_nearest(medseg: Callable) -> None:
    code, _, err = medseg("trian")
    assert code == 2
    assert "did you mean train" in err
