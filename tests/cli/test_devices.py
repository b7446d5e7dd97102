"""One training shared by two CPU processes, from the command line and by hand as torchrun starts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from medseg.train.several import free_port

QUICK = (
    *("--set", "train.steps=3", "--set", "train.loss=ce", "--set", "train.optimizer.name=sgd"),
    *("--set", "track.enabled=false"),
)


@pytest.fixture(scope="module", autouse=True)
def _ports() -> None:
    try:
        free_port()
    except Exception as err:
        pytest.skip(f"no port can be opened here: {err}")


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(next((run / "model").glob("*.safetensors")))


def test_two_devices_learn_what_one_learns_from_the_same_batch(
    medseg: Callable, cohort: Path, journey: Path, tmp_path: Path
) -> None:
    for name, devices in (("one", 1), ("two", 2)):
        code, _, err = medseg(
            "train",
            journey,
            "--data",
            cohort,
            "--out",
            tmp_path / name,
            *QUICK,
            "--set",
            f"compute.devices={devices}",
        )
        assert code == 0, err
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=2e-4, err_msg=name)
    facts = [json.loads((tmp_path / name / "model" / "model.json").read_text()) for name in ("one", "two")]
    assert facts[0]["plan"]["batch_size"] == facts[1]["plan"]["batch_size"] == 2
    assert not (tmp_path / "two" / "several").exists()
    assert len((tmp_path / "one" / "history.jsonl").read_text().splitlines()) == len(
        (tmp_path / "two" / "history.jsonl").read_text().splitlines()
    )


def test_a_training_by_torchrun_is_taken_over_by_the_next_run(
    medseg: Callable, cohort: Path, journey: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    common = ("run", journey, "--data", cohort, "--out", out, *QUICK)
    assert medseg(*common, "--until", "ingest")[0] == 0
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command = [
        sys.executable,
        *launcher,
        "--master-port",
        str(free_port()),
        "-m",
        "medseg.train.worker",
        str(out),
    ]
    root = str(Path(__file__).parents[2])
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        timeout=500,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )
    before = (out / "model" / "model.json").read_text()
    code, facts, err = medseg(*common, "--until", "train", "--json")
    assert code == 0, err
    assert (out / "model" / "model.json").read_text() == before, "nothing is trained again"
    steps = json.loads((out / "steps.json").read_text())
    assert steps["train"]["line"].startswith("3 steps in"), facts
