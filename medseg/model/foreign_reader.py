"""Reads a file of PyTorch weights in a process of its own that may do nothing else.

    python -I foreign_reader.py WEIGHTS OUT.safetensors OUT.json MEGABYTES SECONDS

A script, not a module: nothing of medseg is imported here, and nothing but tensors and plain values leaves it. PyTorch
reads with `weights_only=True`; because that mode has had holes, the process also has limits on memory, time and
files, no network, no children, and may write the two files named to it and no others.
"""

import json
import os
import resource
import sys
from typing import Any

FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "shutil.",
             "ctypes.", "urllib.", "ftplib.", "smtplib.", "webbrowser.", "os.remove", "os.rename", "os.link",
             "os.symlink", "os.chmod", "os.truncate", "os.putenv", "os.kill", "pty.", "mmap.")  # fmt: skip
"""Audit events that end the process."""


def limit(megabytes: int, seconds: int) -> None:
    """Memory beyond what is in use now, processor time, size of files, no core dump."""
    used = _in_use()
    for what, most in (
        (resource.RLIMIT_AS, used + megabytes * 2**20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, megabytes * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):
            continue  # some systems do not let a limit be set; the others still hold


def _in_use() -> int:
    """Bytes of address space now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def watch(writable: tuple[str, ...]) -> None:
    """Ends the process at whatever reading weights has no need of."""
    allowed = {os.path.abspath(path) for path in writable}

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            _stop(event)
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            writes = any(c in str(mode or "") for c in "wxa+") or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if (
                writes
                and os.path.abspath(os.fsdecode(path) if isinstance(path, str | bytes) else "") not in allowed
            ):
                _stop(f"opening {path} for writing")

    sys.addaudithook(look)


def _stop(what: str) -> None:
    os.write(2, f"refused: the file tried {what}\n".encode())
    os._exit(13)


def plain(value: Any, depth: int = 0) -> Any:
    """Numbers, text, lists and dictionaries as they are; everything else is left out as None."""
    if depth > 12:
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value[:10000]]
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    return None


def tensors_of(loaded: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights, and what else the file says: for checkpoints the entry that holds the weights is looked for."""
    import torch

    if not isinstance(loaded, dict):
        raise ValueError(f"holds a {type(loaded).__name__}, expected named weights")
    rest = {}
    for key in ("network_weights", "state_dict", "model_state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            rest = {
                name: plain(value)
                for name, value in loaded.items()
                if name not in (key, "optimizer_state", "logging")
            }
            loaded = loaded[key]
            break
    found = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise ValueError("holds no tensors")
    return found, rest


def main() -> int:
    """Reads SOURCE under limits of MEGABYTES and SECONDS; writes WEIGHTS (safetensors) and FACTS (JSON)."""
    source, weights, facts, megabytes, seconds = sys.argv[1:6]
    import numpy
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    limit(int(megabytes), int(seconds))
    watch((weights, facts))
    # Trainers keep their best score as a number of NumPy; it is read as such and nothing else is let in.
    kinds = [type(numpy.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    scalar = numpy.float64(0).__reduce__()[0]
    safe = [numpy.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *kinds]
    try:
        with torch.serialization.safe_globals(safe):
            loaded = torch.load(source, map_location="cpu", weights_only=True)
        tensors, rest = tensors_of(loaded)
        save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, weights)
        with open(facts, "w", encoding="utf-8") as file:
            json.dump(rest, file, allow_nan=True)
    except Exception as err:
        first = str(err).strip().splitlines()
        print("unreadable: " + (first[0][:300] if first else type(err).__name__), file=sys.stderr)
        return 12
    return 0


if __name__ == "__main__":
    sys.exit(main())
