"""benchmarks/time_to_dice.py: what it runs, what it writes, and the table from the files that are there."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("time_to_dice")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("time_to_dice_table")


def entry(
    side: str = "ours", fold: int = 0, minutes: float = 15.0, seed: int = 17, dice: float = 0.9
) -> dict:
    return {
        "side": side, "fold": fold, "minutes": minutes, "seed": seed, "threads": 2, "steps": 1300, "seconds": 899.0,
        "seconds_per_step": 0.69, "precision": "bf16", "cpu_seconds": 1750.0, "dice": {"anterior": dice, "posterior": dice - 0.02},
        "curve": [{"seconds": 90.0, "step": 130, "dice": {"anterior": 0.8, "posterior": 0.7}}],
        "machine": {"cpu": "A CPU", "bf16": ["avx512_bf16"], "cores": 2, "versions": {"torch": "2.13"}},
    }  # fmt: skip


def write(folder: Path, *entries: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    for number, one in enumerate(entries):
        (folder / f"{number}.json").write_text(json.dumps(one))


def test_a_run_of_every_side_has_a_pipeline_that_loads_with_its_settings(bench: ModuleType) -> None:
    from medseg.config_file import load_pipeline

    expected = {
        "ours": ("auto", 2),
        "fp32-batch9": ("fp32", 9),
        "fp32-batch2": ("fp32", 2),
        "bf16-batch2": ("bf16", 2),
    }
    for side, (precision, batch) in expected.items():
        one = bench.Entry(side, 3, 20.0, 18, 2)
        pipeline = load_pipeline(one.pipeline, one.overrides)
        assert (pipeline.train.precision, pipeline.train.batch_size) == (precision, batch), side
        assert (pipeline.train.minutes, pipeline.train.steps) == (20.0, None), (
            "the budget alone ends the training"
        )
        assert (pipeline.data.split.fold, pipeline.compute.seed, pipeline.compute.cores) == (3, 18, 2)
        assert pipeline.train.patch_size == [40, 56, 40]


def test_controls_are_three_runs_and_all_folds_are_five(bench: ModuleType) -> None:
    asked = SimpleNamespace(
        side="controls", fold="0", minutes=20.0, seed=17, threads=2, variant="", changes=[]
    )
    assert [e.side for e in bench.entries_of(asked)] == ["fp32-batch9", "fp32-batch2", "bf16-batch2"]
    asked = SimpleNamespace(side="ours", fold="all", minutes=15.0, seed=17, threads=2, variant="", changes=[])
    assert [e.name for e in bench.entries_of(asked)] == [f"ours-fold{f}-15min-seed17" for f in range(5)]


def test_a_run_whose_file_is_there_is_not_done_again(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measured(one: Any, data: Path, work: Path) -> dict[str, Any]:
        calls.append(one.name)
        return {"steps": 3, "dice": {"anterior": 0.5}}

    monkeypatch.setattr(bench, "measure_ours", measured)
    options = SimpleNamespace(out=tmp_path, again=False, data=tmp_path, work=tmp_path, nnunet_python=None)
    one = bench.Entry("ours", 0, 15.0, 17, 2)
    first = bench.take(one, options)
    assert bench.take(one, options) == first
    assert calls == [one.name]
    options.again = True
    bench.take(one, options)
    assert len(calls) == 2


def test_the_peers_figures_are_the_last_line_that_its_python_prints(
    bench: ModuleType, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "chatter"\necho "{\\"steps\\": 220, \\"asked\\": \\"$*\\"}"\n')
    fake.chmod(0o755)
    found = bench.measure_peer(bench.Entry("nnunet", 2, 20.0, 17, 2), tmp_path, tmp_path, fake)
    assert found["steps"] == 220
    assert "--fold 2 --minutes 20.0 --seed 17 --threads 2" in found["asked"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--side", "ours"], "--data FOLDER"),
        (["--side", "nnunet", "--data", "."], "--data FOLDER"),
    ],
)
def test_what_is_missing_is_named(
    bench: ModuleType, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        bench.main([*arguments, "--out", str(tmp_path)])
    assert sentence in capsys.readouterr().err


def test_a_variant_has_its_own_file_and_its_settings(bench: ModuleType) -> None:
    from medseg.config_file import load_pipeline

    one = bench.Entry("ours", 0, 15.0, 17, 2, "no-ema", ("train.ema=null",))
    assert one.name == "ours-no-ema-fold0-15min-seed17"
    assert load_pipeline(one.pipeline, one.overrides).train.ema is None


@pytest.mark.parametrize("said", [["--variant", "x"], ["--set", "train.ema=null"]])
def test_a_variant_without_a_change_or_a_name_is_refused(
    bench: ModuleType, said: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "splits.csv").write_text("case,fold\n")
    with pytest.raises(SystemExit):
        bench.main(["--data", str(tmp_path), *said])
    assert "belong together" in capsys.readouterr().err


def test_a_variant_stands_apart_with_its_difference(table: ModuleType, tmp_path: Path) -> None:
    changed = {"variant": "no-ema", "changes": ["train.ema=null"]}
    other = {**entry(fold=1, dice=0.91), **changed}
    other["machine"] = {**other["machine"], "cpu": "Other(R) Processor @ 1 GHz"}
    write(tmp_path / "files", entry(dice=0.9), entry(fold=1), {**entry(dice=0.89), **changed}, other)
    text = table.section_text(table.load_entries(tmp_path / "files"))
    cpu = entry()["machine"]["cpu"]
    assert f"| `train.ema=null` | 0 | 15 | {cpu}, bf16 | 1300 | 0.890 / 0.870 | -0.010 / -0.010 |" in text
    assert "| `train.ema=null` | 1 | 15 | Other @ 1 GHz, bf16 | 1300 | 0.910 / 0.890 | - |" in text
    assert "but `train.ema=null` | 15 | 0, 1 | 0.900 / 0.880 |" in text
    assert text.count("| medseg, `configs/recipes/fast.yaml` | 0 | 15 |") == 1


def test_nnunets_side_needs_its_python(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "splits.csv").write_text("case,fold\n")
    with pytest.raises(SystemExit):
        bench.main(["--side", "nnunet", "--data", str(tmp_path)])
    assert "--nnunet-python PYTHON" in capsys.readouterr().err


def test_the_table_has_mean_and_spread_over_folds_and_names_what_was_not_run(
    table: ModuleType, tmp_path: Path
) -> None:
    write(
        tmp_path / "files",
        entry(fold=0, dice=0.90),
        entry(fold=1, dice=0.88),
        entry("nnunet", minutes=20.0, dice=0.5),
    )
    text = table.section_text(table.load_entries(tmp_path / "files"))
    assert "| medseg, `configs/recipes/fast.yaml` | 15 | 0, 1 | 0.890 / 0.870 | 0.014 / 0.014 |" in text
    assert "90: 0.800 / 0.700" in text, "the curve"
    missing = text.partition("Not run: ")[2]
    assert "ours fold 2 15 min" in missing
    assert "nnunet fold 0 60 min" in missing
    assert "bf16-batch2" in missing
    assert "ours fold 0 15 min," not in missing
    assert "nnunet fold 0 20 min" not in missing
    assert "ours fold 0 15 min seed 18" in missing


def test_writing_the_section_again_leaves_the_rest_of_the_page_as_it_is(
    table: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\n## Start-up\n\nfast\n\n## Time to Dice\n\nstale\n\n## Last\n\nkept\n")
    write(tmp_path / "files", entry())
    table.write_section(tmp_path / "files", page)
    once = page.read_text()
    assert "stale" not in once
    assert "fast" in once
    assert once.endswith("## Last\n\nkept\n")
    assert "0.900 / 0.880" in once
    table.write_section(tmp_path / "files", page)
    assert page.read_text() == once


def test_without_any_run_the_section_says_so(table: ModuleType) -> None:
    text = table.section_text([])
    assert "Not run: ours fold 0 15 min" in text
    assert "|---" not in text


@pytest.fixture(autouse=True)
def _forget_modules() -> Any:
    yield
    for name in ("time_to_dice", "time_to_dice_table"):
        sys.modules.pop(name, None)
