"""Training patches: which case and which box of it. Batch n depends on the seed and on n alone.

So a resumed training sees exactly the batches that an uncut one would have seen, whichever thread reads them.
The rules are those of nnU-Net's loader (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), with three
differences: cases come in shuffled rounds, so that each is seen equally often; the share of foreground patches is
met in the mean for any batch size; and a patch never hangs over the border farther than it must.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from medseg.core.errors import about

IGNORED = 255
"""Value of voxels in prepared targets that count nowhere."""


class Prepared(Protocol):
    """What training needs of a prepared case (see medseg.ingest.cache); boxes may hang over its edges."""

    shape: tuple[int, ...]
    foreground: Mapping[int, npt.NDArray[Any]]
    known: tuple[str, ...] | None

    def read_image(self, low: Sequence[int], high: Sequence[int]) -> npt.NDArray[Any]: ...

    def read_target(self, low: Sequence[int], high: Sequence[int]) -> npt.NDArray[np.uint8]: ...


class Patches(NamedTuple):
    """One batch: images (B, C, *S) float32, targets (B, *S) or (B, R, *S) uint8, and the cases they come from."""

    images: npt.NDArray[np.float32]
    targets: npt.NDArray[np.uint8]
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn. foreground: the share that is centred on a voxel of a class.

    rank, processes: of a distributed training each process reads its part of one common batch of
    processes x batch_size patches, so that what is learnt does not depend on how many share the work.
    beyond_image: as `train.beyond_image`. margin: voxels by which a patch may reach beyond its case.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    foreground: float
    seed: int
    rank: int = 0
    processes: int = 1
    beyond_image: str = "background"
    margin: int = 0


class Sampler:
    """Draws batch number `step`: `sampler.batch(step)`. Safe to call from any thread."""

    def __init__(self, cases: Mapping[str, Prepared], sampling: Sampling) -> None:
        self.cases = {case: cases[case] for case in sorted(cases)}
        self.names = tuple(self.cases)
        self.sampling = sampling
        self.reading = ("", 0)  # case and step that are being read now

    def batch(self, step: int) -> Patches:
        """The patches of step 1, 2, ..."""
        rng = np.random.default_rng([self.sampling.seed, step])
        own, size = self.sampling.batch_size, self.sampling.batch_size * self.sampling.processes
        names = [self._case_at((step - 1) * size + place) for place in range(size)]
        first, drawn = own * self.sampling.rank, []
        for place, forced in enumerate(forced_foreground(rng, size, self.sampling.foreground)):
            self.reading = names[place], step
            with about(names[place], "sampling"):
                case = self.cases[names[place]]
                corners = self._corners(
                    rng, case, forced
                )  # drawn for all, so that the others' draws stay the same
                if first <= place < first + own:
                    drawn.append(self._read(case, *corners))
        images = np.stack([image for image, _ in drawn]).astype(np.float32, copy=False)
        return Patches(images, np.stack([target for _, target in drawn]), tuple(names[first : first + own]))

    def in_words(self) -> str:
        """What is being read now, for a wait that takes too long."""
        case, step = self.reading
        return f"reading case {case} for step {step}; does the disk of the prepared cases still answer?"

    def epoch(self, step: int) -> float:
        """How often each case has been seen after `step` steps."""
        return step * self.sampling.batch_size * self.sampling.processes / len(self.names)

    def _case_at(self, position: int) -> str:
        turn, place = divmod(position, len(self.names))
        order = np.random.default_rng([self.sampling.seed, turn, 1]).permutation(len(self.names))
        return self.names[order[place]]

    def _corners(
        self, rng: np.random.Generator, case: Prepared, forced: bool
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
        """The lower corner of a patch, and that of one around a labelled voxel (None without any)."""
        size = self.sampling.patch_size
        margin = self.sampling.margin
        corner = random_corner(rng, case.shape, size, margin)
        voxel = foreground_voxel(rng, case.foreground)
        around = None if voxel is None else corner_around(voxel, case.shape, size, margin)
        return (around if forced and around is not None else corner), around

    def _read(
        self, case: Prepared, corner: npt.NDArray[np.int64], around: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        size = self.sampling.patch_size
        target = self._read_target(case, corner)
        if around is not None and (target == IGNORED).all():
            # Nothing is labelled here; a patch that teaches nothing is exchanged for one around a labelled voxel.
            corner = around
            target = self._read_target(case, corner)
        return case.read_image(corner.tolist(), (corner + size).tolist()), target

    def _read_target(self, case: Prepared, corner: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        high = corner + self.sampling.patch_size
        target = case.read_target(corner.tolist(), high.tolist())
        if self.sampling.beyond_image == "background" or ((corner >= 0) & (high <= case.shape)).all():
            return target
        inside = tuple(slice(max(0, -lo), n - lo) for lo, n in zip(corner.tolist(), case.shape))
        left_out = np.full_like(target, IGNORED)
        left_out[(..., *inside)] = target[(..., *inside)]
        return left_out


def forced_foreground(rng: np.random.Generator, batch_size: int, share: float) -> list[bool]:
    """Which places of a batch get a foreground patch: the last ones, `share` of all places in the mean."""
    wanted = batch_size * share
    count = int(wanted) + bool(rng.random() < wanted - int(wanted))
    return [place >= batch_size - count for place in range(batch_size)]


def foreground_voxel(
    rng: np.random.Generator, foreground: Mapping[int, npt.NDArray[Any]]
) -> npt.NDArray[np.int64] | None:
    """A stored voxel of a class that is drawn evenly among the classes of this case; None when it has none."""
    present = [position for position in sorted(foreground) if len(foreground[position])]
    if not present:
        return None
    voxels = foreground[present[rng.integers(len(present))]]
    return np.asarray(voxels[rng.integers(len(voxels))], dtype=np.int64)


def random_corner(
    rng: np.random.Generator, shape: Sequence[int], size: Sequence[int], margin: int = 0
) -> npt.NDArray[np.int64]:
    """The lower corner of a random patch inside the case and its margin; a smaller case is centred in the patch."""
    lowest, highest = _corner_range(shape, size, margin)
    return rng.integers(lowest, highest + 1)


def corner_around(
    voxel: npt.NDArray[np.int64], shape: Sequence[int], size: Sequence[int], margin: int = 0
) -> npt.NDArray[np.int64]:
    """The lower corner of the patch around a voxel, moved inside the case and its margin where it hangs over."""
    lowest, highest = _corner_range(shape, size, margin)
    return np.clip(voxel - np.asarray(size) // 2, lowest, highest)


def _corner_range(
    shape: Sequence[int], size: Sequence[int], margin: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    room = np.asarray(shape, dtype=np.int64) - np.asarray(size, dtype=np.int64)
    fits = room + 2 * margin >= 0
    return np.where(fits, -margin, room // 2), np.where(fits, room + margin, room // 2)
