"""benchmarks/train_gpu.py on a CPU, with tiny sizes; and what it writes where there is no GPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("train_gpu")
    sys.modules.pop("train_gpu", None)


@pytest.mark.parametrize("name", ["medseg", "MONAI's plain loop"])
def test_each_loop_gives_the_same_figures(bench: ModuleType, name: str, tmp_path: Path) -> None:
    facts = bench.LOOPS[name](bench.SMALL, "cpu", tmp_path)
    assert facts["seconds_per_step"] > 0
    assert 0 <= facts["data_wait_percent"] <= 100
    assert facts["peak_memory_gb"] > 0.1
    assert facts["gpu_busy_percent"] is None, "there is no GPU to be busy"
    assert facts["precision"] in ("fp32", "bf16")


def test_the_peak_and_the_operations_of_a_step_are_counted(bench: ModuleType) -> None:
    assert bench.matrix_peak(bench.SMALL, "cpu") > 1e7
    twice = bench.Sizes(16, (4, 8, 8), 4)
    assert bench.step_flops(twice) == pytest.approx(2 * bench.step_flops(bench.SMALL))


def test_without_a_gpu_it_says_so_and_measures_nothing(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\n## Training on a GPU\n\nstale\n\n## Last\n\nkept\n")
    bench.main(["--page", str(page)])
    assert capsys.readouterr().out.strip() == bench.NONE
    text = page.read_text()
    assert bench.NONE in text
    assert "stale" not in text
    assert text.endswith("## Last\n\nkept\n")


def test_the_table_carries_the_cards_name_and_one_row_a_loop(bench: ModuleType) -> None:
    row = {
        "steps_per_second": 5.25, "data_wait_percent": 0.4, "gpu_busy_percent": 97.0, "matrix_peak_percent": 31.0,
        "peak_memory_gb": 7.31,
    }  # fmt: skip
    facts = {
        "card": "A Card 9000", "torch": "2.13", "peak_tflops": 700.0, "step_gflop": 2000.0, "sizes": vars(bench.Sizes()),
        "loops": {"medseg": row, "nnU-Net's trainer, its step alone": {**row, "data_wait_percent": None}},
    }  # fmt: skip
    text = bench.section(facts)
    assert "A Card 9000, torch 2.13: 700.0 TFLOP/s" in text
    assert "| medseg | 5.25 | 0.4 % | 97 % | 31.0 % | 7.3 GB |" in text
    assert "| nnU-Net's trainer, its step alone | 5.25 | none loaded |" in text
