"""WHAT is logged: predictions, labels and diffraction, from a dataset and a network to the arrays of a snapshot.

Which sample goes to which row (`CapturePlan`, `Shard`) is kept apart from copying it (`Capture`). Items are
`(fields, probe, scale)` with `fields` a mapping (or TensorDict) of `images`, `coords_relative`, ... as PtychoPINN has
them; a module predicts through `forward` and `forward_predict`. Imports only torch, Lightning, numpy, recon_worker.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from recon_worker.snapshot import (
    Float32,
    Geometry,
    PositionGeometry,
    Scan,
    SnapshotArrays,
    SnapshotLayout,
    StitchWeight,
)
from recon_worker.stitching import crop_start_px

from .gathering import Place, Ranks, Rows

_log = logging.getLogger(__name__)

_EXTRA_PASS_BATCH = 32


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
            Route(place, slice(len(self._rows(indices))), self._fixed(indices))
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


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a snapshot."""

    routes: tuple[Route, ...]
    """Of each batch of its validation."""
    numbers: NDArray[np.int64]
    """Its rows' numbers in the whole snapshot."""
    layout: SnapshotLayout
    """Of its own arrays."""


def choose_indices(length: int, num_patches: int, given: Sequence[int] | None) -> tuple[int, ...]:
    """The fixed samples: `given`, or `num_patches` of them, `length // num_patches` apart.

    Raises:
        ValueError: An index is out of range, negative or repeated.
    """
    if given is None:
        count = min(num_patches, length)
        return tuple(i * (length // count) for i in range(count))
    outside = [i for i in given if not 0 <= i < length]
    if outside:
        raise ValueError(
            f"fixed_indices has {outside}, but the logged dataset has {length} samples; allowed: 0 to {length - 1}."
        )
    repeated = sorted({i for i in given if list(given).count(i) > 1})
    if repeated:
        raise ValueError(
            f"fixed_indices has {repeated} more than once, for a dataset of {length} samples; name each sample once."
        )
    return tuple(given)


def read_scan(
    dataset: Any,  # noqa: ANN401 - anything with __len__ and __getitem__
    fixed_indices: tuple[int, ...],
    *,
    stitch: bool,
    max_stitch_samples: int,
    stitch_weight: StitchWeight,
    epoch_digits: int,
) -> tuple[Scan, SnapshotLayout]:
    """Read, once per run, everything about the dataset that does not change.

    Args:
        dataset: Map-style dataset. If it has `scan_geometry`, `ground_truth` and `geometry_skip_reason` they say how
            to stitch; else its items' `coords_global` do.
        fixed_indices: Samples that get patch pictures.
        stitch: Whether to stitch at all.
        max_stitch_samples: Stitch only the first this many samples.
        stitch_weight: How overlapping patches are averaged.
        epoch_digits: Width of the epoch in artifact names.
    """
    items = [dataset[i] for i in (fixed_indices or (0,))]
    channels, patch_px = _field(items[0], "images").shape[-3:-1]
    geometry = _geometry(dataset, items[0], max_stitch_samples, stitch_weight) if stitch else None
    scan = Scan(
        fixed_indices=fixed_indices,
        observed_diffraction=_stacked(items, "observed_images", "images")[: len(fixed_indices)],
        label_amp=_labels(items, "label_amp", fixed_indices),
        label_phase=_labels(items, "label_phase", fixed_indices),
        geometry=geometry,
        ground_truth=tuple(getattr(dataset, "ground_truth", ())) if geometry is not None else (),
        epoch_digits=epoch_digits,
    )
    layout = SnapshotLayout(
        n_fixed=len(fixed_indices),
        patch_px=patch_px,
        n_stitch=min(len(dataset), max_stitch_samples) if geometry is not None else 0,
        channels=channels,
        crop_px=geometry.crop_px if geometry is not None else 0,
    )
    return scan, layout


def _field(item: Any, *names: str) -> Tensor:  # noqa: ANN401
    """The first of the named fields that an item has."""
    fields = item[0]
    for name in names:
        if name in fields.keys():  # noqa: SIM118 - a TensorDict has no `in`
            value: Tensor = fields[name]
            return value
    raise KeyError(f"the dataset's items have none of the fields {names}; they have {sorted(fields.keys())}.")


def _stacked(items: Sequence[Any], *names: str) -> Float32:
    """(k, N, N): channel 0 of a field of each item."""
    return np.stack([_to_float32(_field(item, *names)[0]) for item in items])


def _labels(items: Sequence[Any], name: str, fixed_indices: Sequence[int]) -> Float32 | None:
    """Labels of the fixed patches; None where the dataset has none (absent or all zero) that fit the patterns."""
    if not fixed_indices or name not in items[0][0].keys():  # noqa: SIM118
        return None
    shape, fitting = _field(items[0], name).shape, _field(items[0], "images").shape
    if shape != fitting:
        _log.warning(
            "%s has shape %s, the patterns %s: patches are logged without ground truth.",
            name, tuple(shape), tuple(fitting),
        )  # fmt: skip
        return None
    return _stacked(items, name)


def _to_float32(tensor: Tensor) -> Float32:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _geometry(dataset: Any, item: Any, max_samples: int, weight: StitchWeight) -> Geometry | None:  # noqa: ANN401
    """How to stitch, or None after one line that says why not."""
    geometry: Geometry | None = getattr(dataset, "scan_geometry", None)
    reason = getattr(dataset, "geometry_skip_reason", None)
    if geometry is None and reason is None and "coords_global" in item[0].keys():  # noqa: SIM118
        try:
            geometry = _geometry_from_items(dataset, item, max_samples)
        except ValueError as error:
            reason = str(error).rstrip(".")
    if geometry is None:
        _log.warning(
            "Stitched pictures are skipped: %s. Patch pictures are logged.",
            reason or "the dataset has neither grid metadata nor absolute positions (coords_global)",
        )
        return None
    return replace(geometry, weight=weight) if isinstance(geometry, PositionGeometry) else geometry


def _geometry_from_items(dataset: Any, item: Any, max_samples: int) -> PositionGeometry:  # noqa: ANN401
    n_px = _field(item, "images").shape[-1]
    crop = slice(n_px // 4, n_px // 4 + n_px // 2)
    count = min(len(dataset), max_samples)
    read = [dataset[i] for i in range(count)]
    positions = np.stack([_to_float32(_field(one, "coords_global")).reshape(-1, 2) for one in read])
    objects = [int(one[0]["experiment_id"]) if "experiment_id" in one[0].keys() else 0 for one in read]  # noqa: SIM118
    intensity = item_probe(item, 1)[0].abs().square().sum(0)[crop, crop]
    return PositionGeometry(
        patch_px=n_px,
        crop_px=n_px // 2,
        positions_px=positions.astype(np.float64),
        object_index=np.unique(objects, return_inverse=True)[1].astype(np.int64),
        probe_intensity=_to_float32(intensity),
    )


def item_probe(item: Any, channels: int) -> Tensor:  # noqa: ANN401
    """The probe of an item as (C, P, N, N), from (N, N), (P, N, N) or (C, P, N, N)."""
    probe: Tensor = item[1]
    while probe.ndim < 4:
        probe = probe.unsqueeze(0)
    return probe.expand(channels, *probe.shape[1:]) if probe.shape[0] == 1 else probe


def batch_indices(loader: object, rank: int = 0, size: int = 1) -> list[range]:
    """Dataset indices of each of a loader's batches, in order; empty if they are not known.

    Without the padding of a DistributedSampler. Of ranks that all go through the whole dataset only rank zero counts.
    """
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return []
    sampler, in_batch = loader.batch_sampler.sampler, loader.batch_sampler.batch_size
    if type(sampler) is SequentialSampler and rank == 0:
        first, step = 0, 1
    elif isinstance(sampler, DistributedSampler) and not sampler.shuffle and sampler.num_replicas == size:
        first, step = sampler.rank, sampler.num_replicas
    else:
        return []
    length = len(loader.dataset)  # type: ignore[arg-type]
    starts = range(first, first + len(loader) * in_batch * step, in_batch * step)
    return [range(start, max(start, min(start + in_batch * step, length)), step) for start in starts]


Part = tuple[slice | int, ...]
"""Index of the part of a batch's (B, C, N, N) prediction that is copied."""


class HostCopier:
    """Copies predictions into a snapshot at once."""

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Nothing to prepare."""

    def copy(self, target: Float32, source: Tensor, part: Part) -> None:
        """Copy `source[part]`, converting to float32."""
        if source.dtype is torch.float32:
            target[...] = source.detach().numpy()[part]  # with cold caches half the time that torch's own copy takes
        else:
            torch.from_numpy(target).copy_(source[part])

    def wait(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing to give back."""


class SideStreamCopier:
    """Copies predictions out of a GPU on a stream of its own, beside the computing, into page-locked memory.

    Args:
        device: The GPU.
        cuda: `torch.cuda`, or what behaves like it.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:  # noqa: ANN401 - a module
        self._cuda, self._device, self._stream = cuda, device, cuda.Stream(device)
        self._locked: dict[int, SnapshotArrays] = {}

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Lock the pages of a snapshot's memory, once: else CUDA copies through a buffer of its own, and waits."""
        address = arrays.fixed_amp.ctypes.data
        if address in self._locked:
            return
        error = int(self._cuda.cudart().cudaHostRegister(address, nbytes, 0))
        if error:
            _log.info("Memory of the queue cannot be page-locked (CUDA error %d): copies take longer.", error)
        else:
            self._locked[address] = arrays  # keeps the memory while it is locked

    def copy(self, target: Float32, source: Tensor, part: Part) -> None:
        """Copy `source[part]`, converting to float32; done when `wait` returns."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))  # the prediction must be there
        with self._cuda.stream(self._stream):
            torch.from_numpy(target).copy_(source[part].to(torch.float32), non_blocking=True)
        source.record_stream(self._stream)  # its memory is not reused before the copy is done

    def wait(self) -> None:
        """Wait for all copies."""
        self._stream.synchronize()

    def close(self) -> None:
        """Unlock the pages."""
        for address in self._locked:
            self._cuda.cudart().cudaHostUnregister(address)
        self._locked.clear()


Copier = HostCopier | SideStreamCopier


def copier_for(device: torch.device) -> Copier:
    """What copies predictions from a device."""
    return SideStreamCopier(device) if device.type == "cuda" else HostCopier()


class Capture:
    """Fills the arrays of one snapshot, or of one rank's shard of it, from predictions, batch by batch.

    What runs between two batches finds cold caches, where each line of Python costs: views are made beforehand.

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
            (arrays.stitch_amp[route.rows], arrays.stitch_phase[route.rows], (route.samples, *crop))
            for route in shard.routes
        ]
        self._done: list[slice] = []

    def add_outputs(self, batch_idx: int, outputs: object) -> None:
        """Copy what a validation step returned; ignores what holds no predictions, each (B, C, N, N)."""
        if not isinstance(outputs, Mapping):
            return
        amp, phase, route = outputs.get("amp"), outputs.get("phase"), self._shard.routes[batch_idx]
        if not isinstance(amp, Tensor) or not isinstance(phase, Tensor):
            return
        if route.samples.stop:
            amp_rows, phase_rows, part = self._targets[batch_idx]
            self._copy(amp_rows, amp, part)
            self._copy(phase_rows, phase, part)
            self._done.append(route.rows)
        if route.fixed:
            self._copy_fixed(route.fixed, amp, phase, outputs.get("pred_diffraction"))

    def _copy_fixed(self, fixed: FixedRows, amp: Tensor, phase: Tensor, diffraction: Tensor | None) -> None:
        for row, sample in fixed:
            self._copy(self.arrays.fixed_amp[row], amp, (sample, 0))
            self._copy(self.arrays.fixed_phase[row], phase, (sample, 0))
            if diffraction is not None:
                self._copy(self.arrays.fixed_diffraction[row], diffraction, (sample, 0))
                self._has_diffraction[row] = True
            self.arrays.fixed_filled[row] = True

    def finish(self) -> None:
        """Wait until all copies have arrived, and mark the rows that they filled."""
        self._wait()
        for rows in self._done:
            self.arrays.stitch_filled[rows] = True
        self._done.clear()

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


@dataclass(frozen=True)
class Precision:
    """How the Trainer runs a validation step: its autocast context and its conversion of inputs."""

    context: Callable[[], AbstractContextManager[None]]
    convert: Callable[[Any], Any]


def fill_missing(
    capture: Capture,
    plan: CapturePlan,
    module: LightningModule,
    dataset: Any,  # noqa: ANN401
    precision: Precision,
    ranks: Ranks,
) -> None:
    """One extra pass over the samples that validation did not deliver, shared among the ranks.

    In eval mode, without gradients; modes of all submodules and all random states are as before afterwards.
    """
    missing = ranks.from_zero(capture.missing)
    extra_pass = _ExtraPass(plan, capture.places, module, dataset, precision)
    n_fixed = plan.layout.n_fixed
    with random_state_kept(), evaluating(module), torch.no_grad(), precision.context():
        for rows in _shares(missing[missing < n_fixed], ranks):
            ranks.gather(partial(extra_pass.patches, rows))
        for rows in _shares(missing[missing >= n_fixed] - n_fixed, ranks):
            ranks.gather(partial(extra_pass.objects, rows))


def _shares(rows: NDArray[np.int64], ranks: Ranks) -> Iterator[NDArray[np.int64]]:
    """This rank's batches, equally many on all ranks; the last may be empty."""
    for start in range(0, len(rows), _EXTRA_PASS_BATCH * ranks.size):
        first = start + _EXTRA_PASS_BATCH * ranks.rank
        yield rows[first : first + _EXTRA_PASS_BATCH]


@dataclass(frozen=True)
class _ExtraPass:
    """Predictions of samples by their rows."""

    plan: CapturePlan
    places: tuple[Place, Place, Place]
    module: LightningModule
    dataset: Any
    precision: Precision

    def patches(self, rows: NDArray[np.int64]) -> list[tuple[Place, Rows]]:
        """Of fixed patches: object and, if the network predicts it, diffraction."""
        objects, diffraction, _ = self.places
        if rows.size == 0:
            return [(objects, objects.no_rows()), (diffraction, diffraction.no_rows())]
        first, amp, phase = _forward(self.module, self._inputs([self.plan.fixed_indices[row] for row in rows]))
        found = Rows(rows, (_to_float32(amp[:, 0]), _to_float32(phase[:, 0])))
        is_object = first.is_complex()
        predicted = diffraction.no_rows() if is_object else Rows(rows, (_to_float32(first[:, 0]),))
        return [(objects, found), (diffraction, predicted)]

    def objects(self, rows: NDArray[np.int64]) -> list[tuple[Place, Rows]]:
        """Centre crops of the object."""
        stitch = self.places[2]
        if rows.size == 0:
            return [(stitch, stitch.no_rows())]
        predicted = _forward_predict(self.module, self._inputs(rows.tolist()))
        crops = predicted[slice(None), *crop_of(self.plan.layout)]
        return [(stitch, Rows(rows, (_to_float32(crops.abs()), _to_float32(crops.angle()))))]

    def _inputs(self, indices: Sequence[int]) -> "_Inputs":
        return _collate(self.dataset, indices, self.module, self.precision)


@dataclass(frozen=True)
class _Inputs:
    images: Tensor
    positions: Tensor
    probe: Tensor
    scale: Tensor
    experiment_ids: Tensor


def _collate(dataset: Any, indices: Sequence[int], module: LightningModule, precision: Precision) -> _Inputs:  # noqa: ANN401
    items = [dataset[i] for i in indices]
    images = torch.stack([_field(item, "images") for item in items])
    scale_names = ("rms_scaling_constant", "rms_input_scale")
    ids = [item[0]["experiment_id"] if "experiment_id" in item[0].keys() else 0 for item in items]  # noqa: SIM118
    tensors = (
        images,
        torch.stack([_field(item, "coords_relative") for item in items]),
        torch.stack([item_probe(item, images.shape[1]) for item in items]),
        torch.stack([_field(item, *scale_names).reshape(1, 1, 1) for item in items]),
        torch.tensor([int(i) for i in ids]),
    )
    return _Inputs(*(precision.convert(t.to(module.device)) for t in tensors))


def _forward(module: LightningModule, x: _Inputs) -> tuple[Tensor, Tensor, Tensor]:
    first, amp, phase = module(x.images, x.positions, x.probe, x.scale, x.scale, x.experiment_ids)
    return first, amp, phase


def _forward_predict(module: LightningModule, x: _Inputs) -> Tensor:
    predict: Callable[..., Tensor] | None = getattr(module, "forward_predict", None)
    if predict is not None:
        return predict(x.images, x.positions, x.probe, x.scale)
    _, amp, phase = _forward(module, x)
    return torch.complex(amp.float() * phase.float().cos(), amp.float() * phase.float().sin())


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has its own mode back."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever happens inside, Python's, NumPy's and torch's generators (all devices) are as before afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
