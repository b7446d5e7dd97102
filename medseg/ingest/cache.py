"""Prepared cases on disk: one folder a case, whole or absent, and never older than what it was made from.

A case's key is made of the bytes of its input, the plan's ingest fields and the code of this room, so touching a
file's time changes nothing and changing a spacing changes everything. Arrays are compressed in small cubes (Blosc2,
zstd level 1, bit shuffle), because training reads patches, and are handed out read-only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.atomic import read_json, writing_failed
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.run import RunFolder
from medseg.ingest.prepare import PreparedImage
from medseg.ingest.targets import IGNORED
from medseg.io.doors import content_hash

Array = npt.NDArray[Any]

PLAN_FIELDS = ("dims", "in_channels", "classes", "overlapping", "background", "ignore", "spacing_mm", "spacing_px",
               "intensity", "crop", "image_order")  # fmt: skip
"""What of a plan decides how a case is prepared."""

FOREGROUND_SAMPLES = 5000
"""Voxels remembered of each class, for patches that are to contain it."""

LARGEST_HALF = 2048.0
"""Above this float16 steps by two: such images are kept in float32."""

CHUNK, BLOCK, FLAT_CHUNK = 64, 32, 256
"""Edges of compressed boxes: volumes in chunks of blocks, flat images in chunks."""


def plan_key(plan: Plan, data_facts: str = "") -> str:
    """Twelve hex digits that change with anything that changes prepared arrays: plan, label mapping, code."""
    facts = {name: plan.model_dump(mode="json")[name] for name in PLAN_FIELDS}
    text = json.dumps([facts, data_facts, code_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def case_key(plan_hash: str, content: str) -> str:
    """The key of one case: what `plan_key` says and the hash of its input's bytes."""
    return hashlib.sha256(f"{plan_hash}:{content}".encode()).hexdigest()[:16]


def content_of(row: Any) -> str:
    """Changes with the bytes of a case's files, and with which of them is which channel and which label column.

    row: a `medseg.data.rows.CaseRow`.
    """
    images = [content_hash([Path(name) for name in channel]) for channel in row.images]
    labels = [f"{column} {content_hash([Path(row.labels[column])])}" for column in sorted(row.labels)]
    return "\n".join([*images, *labels])


@lru_cache(maxsize=1)
def code_version() -> str:
    """A hash of the source files that make prepared arrays."""
    names = ("resample", "intensity", "crop", "targets", "straighten", "prepare", "cache")
    digest = hashlib.sha256()
    for name in names:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A prepared case, read box by box.

    shape: voxels (*S). channels: C of the image. regions: R of the target, 0 when classes exclude each other.
    geometry: the prepared grid; source: the file's. foreground: class position -> (N, ndim) int32 sampled voxels.
    known: names of the classes that were drawn in this case, None when all were.
    """

    path: Path
    shape: tuple[int, ...]
    channels: int
    regions: int
    geometry: Geometry
    source: Geometry
    foreground: Mapping[int, npt.NDArray[np.int32]]
    known: tuple[str, ...] | None
    facts: Mapping[str, Any]
    _image: Any
    _target: Any
    _reading: Any = field(default_factory=threading.Lock)

    def read_image(self, low: Sequence[int], high: Sequence[int]) -> Array:
        """The box [low, high) as (C, *box) float16 (float32 where numbers are large); 0 beyond the edges."""
        return self._box(self._image, 1, low, high, 0)

    def read_target(self, low: Sequence[int], high: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The box [low, high) as (*box) uint8, or (R, *box) where classes overlap.

        Beyond the edges it is background, or ignored where the classes have no background.
        """
        beyond = 0 if self.facts["background"] or self.regions else IGNORED
        return self._box(self._target, 1 if self.regions else 0, low, high, beyond)

    def _box(self, store: Any, lead: int, low: Sequence[int], high: Sequence[int], beyond: int) -> Array:
        inside = tuple(slice(max(0, lo), min(n, hi)) for lo, hi, n in zip(low, high, self.shape))
        if any(part.start >= part.stop for part in inside):
            size = [hi - lo for lo, hi in zip(low, high)]
            return _read_only(np.full((*store.shape[:lead], *size), beyond, store.dtype))
        # A compressed array unpacks through one context: two threads in it at once would mix their blocks.
        with nullcontext() if isinstance(store, np.ndarray) else self._reading:
            values = store[(*(slice(None),) * lead, *inside)]
        margins = [(p.start - lo, hi - p.stop) for p, lo, hi in zip(inside, low, high)]
        if any(m != (0, 0) for m in margins):
            values = np.pad(values, [(0, 0)] * lead + margins, constant_values=beyond)
        return _read_only(values)

    @property
    def nbytes(self) -> int:
        """Bytes of image and target when uncompressed."""
        return int(sum(np.prod(s.shape) * np.dtype(s.dtype).itemsize for s in (self._image, self._target)))


def open_prepared(path: Path, keep: bool = False) -> PreparedCase:
    """Opens a prepared case; with `keep` its arrays are held in memory, else read and unpacked box by box.

    Raises UserError when the case is absent or damaged.
    """
    import blosc2

    blosc2.set_nthreads(1)
    facts = read_json(path / "case.json")
    try:
        # Not mapped: several threads may read one case, and a plain file handle is safe for that.
        image = blosc2.open(str(path / "image.b2nd"), mode="r")
        target = blosc2.open(str(path / "target.b2nd"), mode="r")
        with np.load(path / "foreground.npz", allow_pickle=False) as stored:
            foreground = {int(name): _read_only(stored[name]) for name in stored.files}
    except (OSError, RuntimeError, ValueError, KeyError) as err:
        raise UserError(
            "the prepared case is damaged", f"case {path.name}", "delete the run's prepared folder and resume"
        ) from err
    return PreparedCase(
        path,
        tuple(facts["geometry"]["shape"]),
        int(image.shape[0]),
        int(facts["regions"]),
        Geometry.from_json(facts["geometry"]),
        Geometry.from_json(facts["source"]),
        foreground,
        None if facts["known"] is None else tuple(facts["known"]),
        facts,
        _read_only(image[:]) if keep else image,
        _read_only(target[:]) if keep else target,
    )


def store_case(
    path: Path, prepared: PreparedImage, target: npt.NDArray[np.uint8], facts: Mapping[str, Any]
) -> None:
    """Writes a case as folder `path`: whole under its name, or not at all.

    facts: at least key (str), background (bool) and known (names or None); goes into case.json with both grids.
    """
    regions = len(target) if target.ndim > len(prepared.geometry.shape) else 0
    positions = foreground_voxels(target, bool(facts["background"]), regions, seed_of(path.name))
    described = {
        **facts,
        "geometry": prepared.geometry.as_json(),
        "source": prepared.source.as_json(),
        "box": [list(prepared.low), list(prepared.high)],
        "regions": regions,
    }
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
        ndim = len(prepared.geometry.shape)
        _pack(_small(prepared.array), part / "image.b2nd", ndim)
        _pack(target, part / "target.b2nd", ndim)
        np.savez(part / "foreground.npz", **{str(k): v for k, v in positions.items()})
        (part / "case.json").write_text(json.dumps(described, allow_nan=False), encoding="utf-8")
        _flush(part)
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
    except OSError as err:
        raise writing_failed(err, path) from err
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def is_current(path: Path, key: str) -> bool:
    """Whether the case at `path` is whole and was made from the same input, plan and code."""
    try:
        return bool(read_json(path / "case.json")["key"] == key)
    except (UserError, KeyError, TypeError):
        return False


def remove_leftovers(place: Path) -> None:
    """Removes what a killed run left half done under temporary names."""
    for part in place.glob(".part-*"):
        shutil.rmtree(part, ignore_errors=True)


def prepared_folder(folder: RunFolder, key: str) -> Path:
    """Where the cases of one plan lie."""
    return folder.prepared / key


def prepared_cases(folder: RunFolder) -> dict[str, Path]:
    """Case -> folder of every case prepared for this run's plan, sorted by name."""
    listing = folder.path / "prepared.json"
    if not listing.exists():
        return {}
    facts = read_json(listing)
    place = prepared_folder(folder, facts["key"])
    return {case: place / case for case in sorted(facts["cases"]) if (place / case / "case.json").exists()}


def foreground_voxels(
    target: npt.NDArray[np.uint8], background: bool, regions: int, seed: int
) -> dict[int, npt.NDArray[np.int32]]:
    """Class position -> at most FOREGROUND_SAMPLES voxels (N, ndim) of it, drawn without replacement."""
    rng = np.random.default_rng(seed)
    if regions:
        places = {k: np.flatnonzero(channel == 1) for k, channel in enumerate(target)}
        grid: tuple[int, ...] = target.shape[1:]
    else:
        places, grid = _places_by_value(target, int(background)), target.shape
    out = {}
    for position, flat in places.items():
        if len(flat) == 0:
            continue
        if len(flat) > FOREGROUND_SAMPLES:
            flat = np.sort(rng.choice(flat, FOREGROUND_SAMPLES, replace=False))
        out[position] = np.stack(np.unravel_index(flat, grid), axis=1).astype(np.int32)
    return out


def _places_by_value(target: npt.NDArray[np.uint8], first: int) -> dict[int, npt.NDArray[np.int64]]:
    flat = np.flatnonzero((target >= first) & (target != IGNORED))
    values = target.ravel()[flat]
    by_value = np.argsort(values, kind="stable")
    counts = np.bincount(values, minlength=1)
    parts = np.split(flat[by_value], np.cumsum(counts)[:-1])
    return {value - first: part for value, part in enumerate(parts) if len(part)}


def seed_of(name: str) -> int:
    """A seed that depends on the case's name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _small(array: npt.NDArray[np.float32]) -> Array:
    return array if array.size and float(np.abs(array).max()) > LARGEST_HALF else array.astype(np.float16)


def _pack(array: Array, path: Path, ndim: int) -> None:
    import blosc2

    lead = array.ndim - ndim
    chunk, block = (CHUNK, BLOCK) if ndim == 3 else (FLAT_CHUNK, FLAT_CHUNK)
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(path),
        mode="w",
        chunks=(1,) * lead + tuple(min(chunk, n) for n in array.shape[lead:]),
        blocks=(1,) * lead + tuple(min(block, n) for n in array.shape[lead:]),
        cparams={
            "codec": blosc2.Codec.ZSTD,
            "clevel": 1,
            "filters": [blosc2.Filter.BITSHUFFLE],
            "nthreads": 1,
        },
    )


def _flush(part: Path) -> None:
    for file in part.iterdir():
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read_only(array: Array) -> Array:
    array.setflags(write=False)
    return array
