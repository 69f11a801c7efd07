"""WHAT is logged: predictions of a network, from the batches of a validation to the arrays of a snapshot.

Which sample goes to which row (`CapturePlan`, `Shard`) is kept apart from copying it (`Capture`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from recon_worker.capture.copying import Copier, Part
from recon_worker.capture.gathering import Place, Rows
from recon_worker.reconstruction.stitching import crop_start_px
from recon_worker.snapshot.records import SnapshotArrays, SnapshotLayout

FixedRows = tuple[tuple[int, int], ...]
"""(row of the fixed arrays, sample of the batch), for each fixed patch in a batch."""


@dataclass(frozen=True, kw_only=True)
class CapturePlan:
    """Which samples of the dataset are logged, and where they go."""

    fixed_indices: tuple[int, ...]
    """Dataset indices of the fixed patches, in row order."""
    layout: SnapshotLayout
    """Rows 0 ... n_stitch - 1 of the stitch arrays hold the samples of the same indices."""

    def whole(self, batches: Sequence[range]) -> "Shard":
        """For the rank that has the arrays of all samples. `batches`: its samples, ascending and evenly spaced."""
        rows = [self._rows(indices) for indices in batches]
        places = [slice(one.start, one.stop, one.step) for one in rows]
        return self._shard(batches, places, np.arange(self.layout.n_stitch), self.layout)

    def part(self, batches: Sequence[range]) -> "Shard":
        """For a rank that has arrays of its own samples only, side by side."""
        rows = [self._rows(indices) for indices in batches]
        ends = np.cumsum([0, *map(len, rows)]).tolist()
        places = [slice(first, end) for first, end in pairwise(ends)]
        return self._shard(
            batches, places, np.array([*chain(*rows)], np.int64), replace(self.layout, n_stitch=ends[-1])
        )

    def _rows(self, indices: range) -> range:
        return range(indices.start, min(indices.stop, self.layout.n_stitch), indices.step)

    def _shard(
        self, batches: Sequence[range], places: Sequence[slice], numbers: NDArray[np.int64], layout: SnapshotLayout
    ) -> "Shard":
        routes = [
            Route(place, slice(len(self._rows(indices))), self._fixed(indices), len(indices))
            for indices, place in zip(batches, places, strict=True)
        ]
        return Shard(tuple(routes), numbers, layout)

    def _fixed(self, indices: range) -> FixedRows:
        return tuple((row, indices.index(i)) for row, i in enumerate(self.fixed_indices) if i in indices)


@dataclass(frozen=True)
class Route:
    """Which samples of a batch go where in a snapshot."""

    rows: slice
    """Rows of the stitch arrays that the batch's first samples fill."""
    samples: slice
    """Those samples of the batch."""
    fixed: FixedRows
    size: int
    """Samples of the batch, at least."""


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a snapshot."""

    routes: tuple[Route, ...]
    """Of each batch of its validation."""
    numbers: NDArray[np.int64]
    """Its rows' numbers in the whole snapshot."""
    layout: SnapshotLayout
    """Of its own arrays."""


class WrongSettingError(ValueError):
    """A setting does not fit the data. The message says what is allowed."""


def choose_indices(length: int, num_patches: int, given: Sequence[int] | None) -> tuple[int, ...]:
    """The fixed samples: `given`, or `num_patches` of them, `length // num_patches` apart.

    Raises:
        WrongSettingError: An index is out of range, negative or repeated.
    """
    if given is None:
        count = min(num_patches, length)
        return tuple(i * (length // count) for i in range(count))
    outside = [i for i in given if not 0 <= i < length]
    if outside:
        raise WrongSettingError(
            f"fixed_indices has {outside}, but the logged dataset has {length} samples; allowed: 0 to {length - 1}."
        )
    repeated = sorted({i for i in given if list(given).count(i) > 1})
    if repeated:
        raise WrongSettingError(
            f"fixed_indices has {repeated} more than once, for a dataset of {length} samples; name each sample once."
        )
    return tuple(given)


def batch_indices(loader: object, rank: int = 0, size: int = 1) -> list[range]:
    """Dataset indices of each of a loader's batches, in order; empty if they are not known.

    Without the padding of a DistributedSampler, and without what it drops. Of ranks that all go through the whole
    dataset only rank zero counts.
    """
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return []
    sampler, in_batch = loader.batch_sampler.sampler, loader.batch_sampler.batch_size
    try:
        length, batches = len(loader.dataset), len(loader)  # type: ignore[arg-type]
    except Exception:  # a dataset, or a loader of another class, may raise whatever it likes
        return []
    if type(sampler) is SequentialSampler and rank == 0:
        first, step = 0, 1
    elif _goes_in_order(sampler) and sampler.num_replicas == size:
        first, step = sampler.rank, sampler.num_replicas
        length = min(length, sampler.total_size)
    else:
        return []
    starts = range(first, first + batches * in_batch * step, in_batch * step)
    return [range(start, max(start, min(start + in_batch * step, length)), step) for start in starts]


def _goes_in_order(sampler: object) -> TypeGuard[DistributedSampler[Any]]:
    """Whether it deals out the dataset in order; Lightning's wrapper of another sampler inherits from this class."""
    return type(sampler) is DistributedSampler and not sampler.shuffle


class _Target(NamedTuple):
    """Where the predictions of a batch go."""

    amp: Tensor
    """Its rows of the stitch arrays; shares their memory."""
    phase: Tensor
    part: Part | None
    """What of the predictions goes there; None: nothing."""
    fixed: FixedRows
    size: int


class Capture:
    """Fills the arrays of one snapshot, or of one rank's shard of it, from predictions, batch by batch.

    What runs between two batches finds cold caches, where each line of Python costs: views are made beforehand, and
    once for each memory. To give tensors back costs too: other threads may take the interpreter's lock meanwhile.

    Args:
        shard: Which samples go where.
        arrays: Of the shard's layout.
        copier: How a prediction gets into them.
    """

    def __init__(self, shard: Shard, arrays: SnapshotArrays, copier: Copier) -> None:
        self.arrays = arrays
        self._shard, self._copy, self._wait = shard, copier.copy, copier.wait
        self._has_diffraction = np.zeros(len(arrays.fixed_filled), bool)
        crop = crop_of(shard.layout)
        self._targets = [
            _Target(
                amp=from_numpy(arrays.stitch_amp[route.rows]),
                phase=from_numpy(arrays.stitch_phase[route.rows]),
                part=(route.samples, *crop) if route.samples.stop else None,
                fixed=route.fixed,
                size=route.size,
            )
            for route in shard.routes
        ]
        self._copied: list[int] = []

    def forget(self) -> None:
        """Begin anew in the same arrays, whose rows are marked as not filled."""
        self._has_diffraction[:] = False
        self._copied.clear()

    def add_outputs(self, batch_idx: int, outputs: object) -> None:
        """Copy what a validation step returned; ignores what holds no predictions, each (B, C, N, N).

        And batches that have lost samples on the way (a collate function may leave out bad ones), or that the dataset
        had no samples for: which sample is which is not known.
        """
        if not isinstance(outputs, Mapping):
            return
        amp, phase = outputs.get("amp"), outputs.get("phase")
        if not isinstance(amp, Tensor) or not isinstance(phase, Tensor):
            return
        if batch_idx >= len(self._targets):
            return
        amp_rows, phase_rows, part, fixed, size = self._targets[batch_idx]
        if min(len(amp), len(phase)) < size:
            return
        if part is not None:
            self._copy(amp_rows, amp, part)
            self._copy(phase_rows, phase, part)
            self._copied.append(batch_idx)
        if fixed:
            self._copy_fixed(fixed, amp, phase, outputs.get("pred_diffraction"))

    def _copy_fixed(self, fixed: FixedRows, amp: Tensor, phase: Tensor, diffraction: Tensor | None) -> None:
        arrays = self.arrays
        for row, sample in fixed:
            self._copy(from_numpy(arrays.fixed_amp[row]), amp, (sample, 0))
            self._copy(from_numpy(arrays.fixed_phase[row]), phase, (sample, 0))
            if diffraction is not None:
                self._copy(from_numpy(arrays.fixed_diffraction[row]), diffraction, (sample, 0))
                self._has_diffraction[row] = True
            arrays.fixed_filled[row] = True

    def finish(self) -> None:
        """Wait until all copies have arrived, and mark the rows that they filled."""
        self._wait()
        for batch_idx in self._copied:
            self.arrays.stitch_filled[self._shard.routes[batch_idx].rows] = True
        self._copied.clear()

    @property
    def has_diffraction(self) -> bool:
        """Whether the network predicts diffraction."""
        return bool(self._has_diffraction.any())

    @property
    def places(self) -> tuple[Place, Place, Place]:
        """Where rows go: objects of the fixed patches, their diffraction, centre crops."""
        arrays = self.arrays
        return (
            Place((arrays.fixed_amp, arrays.fixed_phase), arrays.fixed_filled),
            Place((arrays.fixed_diffraction,), self._has_diffraction),
            Place((arrays.stitch_amp, arrays.stitch_phase), arrays.stitch_filled),
        )

    def rows(self) -> Iterator[tuple[Place, Rows]]:
        """What has arrived, by its row in the whole snapshot, for each of `places`."""
        fixed, diffraction, stitch = self.places
        yield fixed, fixed.rows()
        yield diffraction, diffraction.rows()
        yield stitch, stitch.rows(self._shard.numbers)

    def missing(self) -> NDArray[np.int64]:
        """Rows without a prediction: of the fixed patches and, after them, counted on, of the stitch arrays."""
        return np.flatnonzero(~np.concatenate([self.arrays.fixed_filled, self.arrays.stitch_filled]))


def crop_of(layout: SnapshotLayout) -> tuple[slice, slice, slice]:
    """Of a sample's (C, N, N), the centre crops (C, m, m)."""
    start = crop_start_px(layout.patch_px, layout.crop_px)
    inside = slice(start, start + layout.crop_px)
    return slice(None), inside, inside
