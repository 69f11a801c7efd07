"""Selects the samples to log, and assigns them to the rows of a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from recon_worker.capture.errors import WrongSettingError
from recon_worker.snapshot.choices import TILES_FROM_PX, ArraysFormat, StitchWeight
from recon_worker.snapshot.records import SnapshotLayout
from recon_worker.system.arguments import check_fields
from recon_worker.system.handler_errors import raise_if_from_signal_handler

FixedRows = tuple[tuple[int, int], ...]
"""(row of the fixed arrays, sample of the batch), for each fixed patch in a batch."""


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """Options that define what to log from a dataset. Raises ValueError if an option is out of range."""

    num_patches: int = 4
    """Number of fixed sample patches, spread evenly over the dataset."""
    fixed_indices: Sequence[int] | None = None
    """Dataset indices of the patches; None: an even spread."""
    log_stitch: bool = False
    """Whether to also stitch and log the whole object."""
    max_stitch_samples: int | None = None
    """Number of leading samples to stitch; None: all."""
    stitch_weight: StitchWeight = "probe"
    """Weighting of overlapping patches when they are averaged; "probe" has no effect if the probe is unknown."""
    remove_ramp: bool = True
    """Whether to remove a linear phase ramp from the stitched object before comparing it with the truth."""
    pixel_size_m: float | None = None
    """Side of an object pixel, metres; None: unknown."""
    arrays: ArraysFormat = "none"
    """File format for logging the stitched object as numeric arrays, or "none"."""
    tiles_from_px: int = TILES_FROM_PX
    """Longer side from which stitched objects are also logged as tiles, pixels; 0: never."""
    description: bool | None = None
    """Whether to show the latest summary in the run's description; None: only where the user has written no text."""
    intensity: bool | None = None
    """Whether diffraction is intensity instead of amplitude; None: as the adapter recognises it."""
    positions: Any = None
    """(n, 2) or (n, C, 2) patch centres, (x, y), object pixels, or a function of the dataset that returns them; None:
    from the dataset."""
    ground_truth: Any = None
    """True object, complex (H, W), or the path of an NPZ file that contains it; None: from the dataset."""
    object_index: Any = None
    """(n,) object index of each sample, from 0; None: from the dataset, or a single object."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_patches < 0:
            raise ValueError(f"num_patches is {self.num_patches}; it must be at least 0.")
        if self.max_stitch_samples is not None and self.max_stitch_samples < 1:
            raise ValueError(
                f"max_stitch_samples is {self.max_stitch_samples}; it must be at least 1, or None for all."
            )
        if self.pixel_size_m is not None and not 0 < self.pixel_size_m < 1:
            raise ValueError(f"pixel_size_m is {self.pixel_size_m}; it must be above 0 and below 1 metre, or None.")
        if self.tiles_from_px < 0:
            raise ValueError(f"tiles_from_px is {self.tiles_from_px}; it must be at least 0. 0: no tiles.")
        if self.arrays != "none" and not self.log_stitch:
            raise ValueError(f"arrays is {self.arrays!r}, but no stitched object is logged; add log_stitch=True.")
        if self.arrays == "h5" and find_spec("h5py") is None:
            raise ValueError("arrays is 'h5', which needs h5py: pip install h5py. Or choose 'npz'.")


@dataclass
class Interval:
    """Selects the epochs to log."""

    every_n_epochs: int
    first_epoch: int = 0
    """Completed epochs at the start; above 0 if training was resumed."""
    last_logged: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("every_n_epochs", 1), ("first_epoch", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    def is_due(self, epoch: int, last_epoch: int | None) -> bool:
        """Return whether an epoch is due: every `every_n_epochs`, and the last one."""
        next_due = (max(self.first_epoch, self.last_logged) // self.every_n_epochs + 1) * self.every_n_epochs
        return epoch > self.last_logged and (epoch >= next_due or epoch == last_epoch)


@dataclass(frozen=True)
class Route:
    """Destination of one batch's samples in a snapshot."""

    rows: slice | NDArray[np.int64]
    """Rows of the stitch arrays that `samples` fill."""
    samples: slice | NDArray[np.int64]
    """Samples of the batch that fill `rows`."""
    fixed: FixedRows
    size: int
    """Number of samples of the batch, without the padding of a DistributedSampler."""


@dataclass(frozen=True, kw_only=True)
class CapturePlan:
    """Which samples of the dataset are logged, and their rows in a snapshot."""

    fixed_indices: tuple[int, ...]
    """Dataset indices of the fixed patches, in row order."""
    layout: SnapshotLayout
    """Layout of the snapshot. Row i of the stitch arrays holds sample i of the dataset."""
    intensity: bool = False
    """Whether measured and predicted diffraction are intensities."""

    def route(self, indices: Sequence[int] | NDArray[np.int64]) -> Route:
        """Return the destination of a batch with these dataset indices. If an index repeats, its last sample counts."""
        numbers = np.asarray(indices, np.int64)
        last = len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]
        single = np.sort(last)
        samples = single[numbers[single] < self.layout.n_stitch]
        found = dict(zip(numbers[single].tolist(), single.tolist(), strict=True))
        fixed = tuple((row, found[i]) for row, i in enumerate(self.fixed_indices) if i in found)
        return Route(as_slice(numbers[samples]), as_slice(samples), fixed, len(numbers))


def as_slice(numbers: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return evenly spaced ascending numbers as a slice, others unchanged."""
    if len(numbers) == 0:
        return slice(0)
    steps = np.unique(np.diff(numbers))
    if len(steps) > 1 or (len(steps) == 1 and steps[0] < 1):
        return numbers
    step = int(steps[0]) if len(steps) else 1
    return slice(int(numbers[0]), int(numbers[-1]) + 1, step)


def choose_indices(length: int, options: ScanOptions) -> tuple[int, ...]:
    """Return the dataset indices of the fixed patches.

    Args:
        length: Number of samples in the dataset.
        options: Contains the indices, or their number for an even spread.

    Raises:
        WrongSettingError: An index is out of range, negative or repeated.
    """
    given = options.fixed_indices
    if given is None:
        count = min(options.num_patches, length)
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
    return tuple(map(int, given))


def batch_indices(loader: object, rank: int = 0, size: int = 1) -> list[range]:
    """Return the dataset indices of each batch of a loader, in order; empty if unknown.

    Excludes samples that a DistributedSampler drops or adds as padding. If all ranks iterate over the whole dataset,
    only the batches of rank zero count.
    """
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler or _may_reorder(loader):
        return []
    sampler: Any = loader.batch_sampler.sampler
    in_batch = loader.batch_sampler.batch_size
    try:
        length, batches = len(loader.dataset), len(loader)  # type: ignore[arg-type]
    except Exception as error:  # user code: a dataset or loader class may raise anything
        raise_if_from_signal_handler(error)
        return []
    if type(sampler) is SequentialSampler and rank == 0:
        first, step = 0, 1
    # Only the exact class distributes the dataset in order: Lightning's wrapper of other samplers is a subclass.
    elif type(sampler) is DistributedSampler and not sampler.shuffle and sampler.num_replicas == size:
        first, step = sampler.rank, sampler.num_replicas
        length = min(length, sampler.total_size)
    else:
        return []
    starts = range(first, first + batches * in_batch * step, in_batch * step)
    return [range(start, max(start, min(start + in_batch * step, length)), step) for start in starts]


def _may_reorder(loader: DataLoader[Any]) -> bool:
    """Return whether a loader may return batches in another order than that of its sampler."""
    any_order = loader.num_workers > 0 and not getattr(loader, "in_order", True)  # since PyTorch 2.6
    return any_order or type(loader).__iter__ is not DataLoader.__iter__
