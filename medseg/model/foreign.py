"""Weights of other programs: read in a limited process with `weights_only=True`, given on as safetensors.

That mode is no border by itself: CVE-2025-32434 (PyTorch up to 2.5.1) and CVE-2026-24747 (up to 2.9.1) ran code with
it. So an old PyTorch is refused unless the person says that the file is trusted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SAFE_TORCH = (2, 10)
"""The first PyTorch whose `weights_only=True` has no known hole."""

LIMIT_SECONDS = 300
LIMIT_BYTES = 20 * 2**30


@dataclass(frozen=True)
class Foreign:
    """tensors: name -> weights, on the CPU. facts: plain values that the file held beside them."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def read_foreign(path: Path, trust: bool = False) -> Foreign:
    """The weights of a PyTorch file (.pth, .pt, .ckpt, .bin), or of a safetensors file as it is.

    trust: the person's word for the file, which an old PyTorch needs. Raises UserError for everything else that the
    file holds, for TorchScript (a program), and when the reading process broke a limit.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("no such file", str(path), "give the file of the weights")
    if path.suffix == ".safetensors":
        return Foreign(_load(path), {})
    require_safe_torch(trust, path)
    _refuse_programs(path)
    with tempfile.TemporaryDirectory(prefix="medseg-import-") as folder:
        weights, facts = Path(folder) / "weights.safetensors", Path(folder) / "facts.json"
        _run(path, weights, facts)
        tensors = {name: tensor.clone() for name, tensor in _load(weights).items()}
        return Foreign(tensors, json.loads(facts.read_text(encoding="utf-8")))


def require_safe_torch(trust: bool, path: Path) -> None:
    """Raises UserError for a PyTorch whose weights_only mode has known holes, unless the file is trusted."""
    import torch

    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < SAFE_TORCH and not trust:
        raise UserError(
            f"PyTorch {torch.__version__} has known holes in reading weights safely; 2.10 is the first without",
            str(path),
            "update PyTorch, or say --trust if you know who made the file",
        )


def _refuse_programs(path: Path) -> None:
    """TorchScript is a program, whatever the file is called."""
    import zipfile

    if path.stat().st_size > LIMIT_BYTES:
        raise UserError(f"has {path.stat().st_size} bytes, at most {LIMIT_BYTES} are read", str(path))
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise UserError(
            "is TorchScript, a program; only weights are read",
            str(path),
            "save the weights alone: torch.save(net.state_dict(), ...)",
        )


def _run(path: Path, weights: Path, facts: Path) -> None:
    reader = Path(__file__).with_name("foreign_reader.py")
    # What the file says it needs, four times over: PyTorch's own start takes most of it.
    megabytes = 4096 + 6 * path.stat().st_size // 2**20
    command = [sys.executable, "-I", str(reader), str(path.resolve()), str(weights), str(facts), str(megabytes),
               str(LIMIT_SECONDS)]  # fmt: skip
    environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(command, env=environment, cwd=weights.parent, capture_output=True, text=True,
                              timeout=2 * LIMIT_SECONDS, check=False)  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise UserError(f"could not be read in {2 * LIMIT_SECONDS} s", str(path)) from err
    if done.returncode == 0 and weights.is_file():
        return
    said = [line for line in done.stderr.splitlines() if line.startswith(("refused: ", "unreadable: "))]
    if said and said[-1].startswith("refused: "):
        raise UserError(
            f"was refused: {said[-1].removeprefix('refused: ')}",
            str(path),
            "this file does more than hold weights: do not use it, and tell whoever gave it to you",
        )
    reason = said[-1].removeprefix("unreadable: ") if said else f"the reader ended with {done.returncode}"
    raise UserError(
        f"cannot be read as weights: {reason}",
        str(path),
        "only tensors and plain values are read; ask for a file that torch.load(weights_only=True) takes",
    )


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path), device="cpu")
    except (SafetensorError, OSError) as err:
        raise UserError(f"is no safetensors file ({err})", str(path)) from err
