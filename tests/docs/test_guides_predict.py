"""Every command of the guides on prediction is run as it stands, on a tiny export folder and a tiny model."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medseg.cli import _main
from medseg.config import IntensityPlan, Plan, System
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series
from medseg.jobs.executor import InProcess
from medseg.model.folder import build_system, save_model

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
CLASSES = (ClassInfo("right lung", 1, (62, 138, 255)), ClassInfo("left lung", 2, (255, 140, 66)))
ELSEWHERE = ("sbatch medseg.sh", "kubectl apply -f medseg.yaml")
"""Commands of other programs; the files that they are given are tested below."""


def commands(page: str) -> list[str]:
    """The indented lines of a page, outside its blocks of files."""
    text = re.sub(r"^```.*?^```$", "", (GUIDES / page).read_text(), flags=re.M | re.S)
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def block(kind: str, page: str = "cluster.md", number: int = 0) -> str:
    return re.findall(rf"^```{kind}\n(.*?)^```$", (GUIDES / page).read_text(), flags=re.M | re.S)[number]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names of the guides exist: EXPORT, ARCHIVE, MODEL, MODEL_B, pipelines."""
    import torch

    folder = tmp_path_factory.mktemp("desk")
    grid = Geometry((28, 24, 16), np.diag([-6.0, -6.0, 8.0, 1.0]))
    rng = np.random.default_rng(0)
    for number in range(2):
        array = rng.normal(-400, 300, grid.shape).astype(np.int16)
        facts = SeriesFacts(study=str(number), series=str(number), patient_name=f"Canary^{number}")
        write_ct_series(array, grid, folder / "EXPORT" / f"patient {number}", facts=facts)
    plan = Plan(dims=3, in_channels=1, classes=[info.as_json() for info in CLASSES], out_channels=3,
                spacing_mm=[8.0] * 3, intensity=[IntensityPlan(scheme="window", low=-1000, high=400)],
                image_order=1, patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    for seed, name in enumerate(("MODEL", "MODEL_B")):
        torch.manual_seed(seed)
        save_model(folder / name, build_system(system, plan), system=system, plan=plan)
    shutil.copytree(folder / "EXPORT", folder / "ARCHIVE")
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    (folder / "lungs.yaml").write_text(block("yaml", number=1))
    return folder


@pytest.fixture
def desk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with its inputs, without what other pages made; a Dask cluster is stood in for by this process."""
    for name in ("EXPORT", "ARCHIVE", "MODEL", "MODEL_B", "pipelines", "lungs.yaml"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medseg.predict.spread.open_workers", lambda *_: InProcess())
    monkeypatch.setenv("MEDSEG_DATA", "")
    return tmp_path


def run(command: str) -> int:
    words = shlex.split(command)
    assert words[0] == "medseg", command
    words = words[1:]
    if words[0] == "run":
        words += ["--set", "track.enabled=false", "--set", "compute.cores=1"]
    return _main(words)


@pytest.mark.parametrize("page", ["workstation.md", "dicom.md"])
def test_every_command_of_a_page_ends_well(page: str, desk: Path, capfd: pytest.CaptureFixture) -> None:
    found = commands(page)
    assert len(found) >= 4
    for command in found:
        if "--only failed" in command:
            continue  # nothing failed; the page on batches has its own test of it
        assert run(command) == 0, (command, capfd.readouterr().err[-2000:])
        capfd.readouterr()
    if page == "dicom.md":
        assert {path.suffix for path in (desk / "MASKS").glob("case-*")} >= {".json", ".gz"}
        assert list((desk / "CHANCES" / "probabilities").rglob("*.nii.gz"))
    else:
        assert "<th>certainty</th>" in (desk / "PAGE" / "report.html").read_text()
        assert "Canary" not in (desk / "RESULTS" / "manifest" / "manifest.csv").read_text()
        assert "Canary" not in (desk / "PAGE" / "report.html").read_text()
        assert len((desk / "RESULTS" / "private" / "cases.csv").read_text().splitlines()) == 3


def test_every_command_for_batches_does_what_the_page_says(desk: Path, capfd: pytest.CaptureFixture) -> None:
    found = commands("batch.md")
    (desk / "ARCHIVE").unlink()
    shutil.copytree(desk / "EXPORT", desk / "ARCHIVE")
    one_slice = sorted((desk / "ARCHIVE" / "patient 1").rglob("*.dcm"))[7]
    sound = one_slice.read_bytes()
    codes = []
    for command in found:
        if "--trial" in command or command.endswith("--out RUN"):
            one_slice.unlink()  # the case with a missing slice fails
        if "--only failed" in command:
            one_slice.write_bytes(sound)
        codes.append(run(command))
        errors = capfd.readouterr().err[-2000:]
        assert codes[-1] in (0, 3), (command, errors)
    failed = [command for command, code in zip(found, codes) if code == 3]
    assert failed == [found[0], found[1], found[-2]], (codes, errors)
    assert (desk / "BOTH" / "MODEL_B" / "manifest" / "manifest.parquet").is_file()
    assert (desk / "RUN" / "predictions" / "manifest" / "manifest.csv").is_file()


def test_every_command_for_clusters_is_run_or_has_its_file_tested(
    desk: Path, capfd: pytest.CaptureFixture
) -> None:
    for command in commands("cluster.md"):
        if command not in ELSEWHERE:
            assert run(command) == 0, (command, capfd.readouterr().err[-2000:])
    capfd.readouterr()


def inner(text: str, variable: str, value: int, shape: Callable[[str], str]) -> list[str]:
    """The command of a job's file with the number of the job put in."""
    line = next(line for line in text.splitlines() if "exec medseg" in line)
    return shlex.split(shape(line).replace(variable, str(value)))[1:]


def test_the_jobs_of_the_array_and_of_kubernetes_meet_every_case_once(
    desk: Path, capfd: pytest.CaptureFixture
) -> None:
    from ruamel.yaml import YAML

    array, pods = block("sh"), YAML(typ="safe").load(block("yaml", number=0))
    assert "--array=1-4" in array
    assert pods["spec"]["completions"] == 4
    assert pods["spec"]["completionMode"] == "Indexed"
    args = pods["spec"]["template"]["spec"]["containers"][0]["args"][0]
    made = {"array": [], "pods": []}
    for number in (1, 2, 3, 4):
        made["array"].append(inner(array, "$SLURM_ARRAY_TASK_ID", number, str.strip))
        made["pods"].append(inner(args, "$((JOB_COMPLETION_INDEX + 1))", number, str.strip))
    for name, calls in made.items():
        out = desk / f"MASKS-{name}"
        for number, words in enumerate(calls, 1):
            assert words[words.index("--shard") + 1] == f"{number}/4"
            assert run(shlex.join([*words[:words.index("--out")], "--out", str(out), *words[words.index("--out") + 2:]])) == 0  # fmt: skip
        capfd.readouterr()
        assert len(list(out.glob("case-*.json"))) == 2


def test_the_guides_name_no_option_that_does_not_exist() -> None:
    from medseg.cli import cli

    known = {name for verb in cli.commands.values() for p in verb.params for name in p.opts}
    for page in ("workstation.md", "batch.md", "dicom.md", "cluster.md"):
        for command in commands(page):
            used = {word for word in shlex.split(command) if word.startswith("--")}
            assert command in ELSEWHERE or used <= known, command
