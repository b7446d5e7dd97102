"""Every command of the guide on training is run as it stands, on a tiny cohort."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from medseg.cli import _main
from medseg.core.errors import UserError

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "train.md"
SMALL = {
    "system": {"name": "3d-u-net", "size": "tiny"},
    "ingest": {"spacing_mm": [2, 2, 2]},
    "train": {
        "steps": 2,
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "augment": "light",
        "precision": "fp32",
    },
    "predict": {"overlap": 0.25, "engine": "torch"},
    "score": {"metrics": ["dice"]},
    "compute": {"device": "cpu", "cores": 1},
    "track": {"enabled": False},
}
"""Settings that make the reader's file quick."""


def commands() -> list[str]:
    """The indented lines, outside the blocks of files."""
    text = re.sub(r"^```.*?^```$", "", GUIDE.read_text(), flags=re.M | re.S)
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which FOLDER and configs/ exist."""
    rng = np.random.default_rng(0)
    for number in range(5):
        label = np.zeros((20, 22, 18), np.uint8)
        label[4 : 10 + number, 5:14, 4:12] = 1
        image = (rng.normal(0, 10, label.shape) + 80 * label).astype(np.int16)
        for name, array in (("images", image), ("labels", label)):
            path = tmp_path / "FOLDER" / name / f"case_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSEG_DATA", "")
    return tmp_path


def torchrun(words: list[str]) -> int:
    from medseg.train.several import free_port

    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *place, *words]
    return subprocess.run(command, env=environment, capture_output=True, timeout=500, check=False).returncode


def make_quick(path: Path) -> None:
    """The file that `init` wrote, with the recipe of the guide and tiny settings."""
    found = yaml.safe_load(path.read_text())
    assert found["train"]["minutes"] > 0
    include = re.search(r"^include: .*$", GUIDE.read_text(), flags=re.M)
    assert include is not None
    small = {
        key: {**found.get(key, {}), **value} if key == "train" else value for key, value in SMALL.items()
    }
    small["train"].update(minutes=None)
    path.write_text(
        f"{include[0]}\n{yaml.safe_dump({**found, 'data': {**found['data'], 'split': {'folds': 2}}, **small})}"
    )


def write_stages(path: Path) -> None:
    """The file of the guide's comparison of stages, with tiny networks and patches that a coarse grid helps."""
    block = re.search(r"^```yaml\n(include: pipeline.yaml\n.*?)^```$", GUIDE.read_text(), flags=re.M | re.S)
    assert block is not None
    found = yaml.safe_load(block[1])
    tiny = [{**system, "size": "tiny"} for system in found["system"]]
    path.write_text(yaml.safe_dump({**found, "system": tiny, "train": {"patch_size": [8, 8, 8]}}))


def test_every_command_of_the_guide_ends_well(desk: Path, capfd: pytest.CaptureFixture) -> None:
    from medseg.train.several import free_port

    try:
        free_port()
    except UserError as err:
        pytest.skip(str(err))
    found = commands()
    assert len(found) >= 12
    for command in found:
        words = shlex.split(command)
        if "stages.yaml" in words:
            write_stages(desk / "stages.yaml")
        code = torchrun(words[1:]) if words[0] == "torchrun" else _main(words[1:])
        assert words[0] in ("medseg", "torchrun")
        assert code == 0, (command, capfd.readouterr().err[-2000:])
        if words[1] == "init":
            make_quick(desk / "pipeline.yaml")
        if "--measure" in words:
            assert (
                json.loads((desk / "PLANNED" / "measured.json").read_text())["3d-u-net-tiny"]["largest_batch"]
                >= 4
            )
        if "MASKS" in words:
            assert len(list((desk / "MASKS").glob("*.nii.gz"))) == 5
        if "FINE_MASKS" in words:
            assert len(list((desk / "FINE_MASKS").glob("*.nii.gz"))) == 5
            assert (desk / "FINE" / "model" / "previous" / "model.json").is_file()
    compared = json.loads((desk / "STAGES" / "choice.json").read_text())["candidates"]
    stages = {"3d-u-net-tiny", "3d-u-net-tiny-lowres", "3d-u-net-tiny-cascade"}
    assert {row["system"] for row in compared} == stages
    for name in ("RUN", "CROSSED", "TUNED", "FINE", "SHARED", "WIDE"):
        assert (desk / name / "report.html").is_file(), name
        assert (desk / name / "model" / "model.json").is_file(), name
    again = (desk / "RUN" / "run.log").read_text()
    assert "unchanged, not done again" in again


def test_the_guide_names_the_recipes_that_there_are() -> None:
    text = GUIDE.read_text()
    for recipe in (ROOT / "configs" / "recipes").glob("*.yaml"):
        assert f"configs/recipes/{recipe.name}" in text
    assert "guides/train.md" in (ROOT / "README.md").read_text()


def test_the_slurm_file_of_the_guide_is_a_script_that_bash_can_read() -> None:
    script = re.findall(r"^```bash\n(.*?)^```$", GUIDE.read_text(), flags=re.M | re.S)[0]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "medseg.train.worker WIDE" in script
