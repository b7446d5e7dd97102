"""Start-up: help and lists load nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "mlflow", "pandas", "scipy", "SimpleITK", "matplotlib", "pydantic", "skimage")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["list", "--json"], ["run", "--help"], ["completion", "bash"]],
    ids=" ".join,
)
def test_asking_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom medseg.cli import _main\n"
        f"code = _main({arguments!r})\n"
        f"print('\\nLOADED', [m for m in {HEAVY!r} if m in sys.modules], code)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.splitlines()[-1] == "LOADED [] 0", out.stdout[-500:] + out.stderr[-500:]


def test_importing_medseg_loads_nothing_heavy() -> None:
    code = f"import sys, medseg; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
