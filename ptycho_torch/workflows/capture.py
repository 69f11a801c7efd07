"""WHAT is logged: predictions, labels and diffraction, from a dataset and a network to the arrays of a snapshot.

Which sample goes to which row (`CapturePlan`, `Route`) is kept apart from copying it (`Capture`). Items are
`(fields, probe, scale)` with `fields` a mapping (or TensorDict) of `images`, `coords_relative`, ... as PtychoPINN has
them; a module predicts through `forward` and `forward_predict`. Imports only torch, Lightning, numpy, recon_worker.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
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

    def route(self, indices: range) -> "Route":
        """Where a batch of the samples `indices`, ascending and evenly spaced, goes."""
        rows = range(indices.start, min(indices.stop, self.layout.n_stitch), indices.step)
        return Route(slice(rows.start, rows.stop, rows.step), slice(len(rows)), self.route_fixed(indices))

    def route_fixed(self, indices: Sequence[int]) -> FixedRows:
        """Where the fixed patches among `indices` go."""
        return tuple((row, indices.index(i)) for row, i in enumerate(self.fixed_indices) if i in indices)


@dataclass(frozen=True)
class Route:
    """Which samples of a batch go where in a snapshot."""

    rows: slice
    """Rows of the stitch arrays that the batch's first samples fill."""
    samples: slice
    """Those samples of the batch."""
    fixed: FixedRows


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
) -> tuple[Scan, CapturePlan]:
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
    return scan, CapturePlan(fixed_indices=fixed_indices, layout=layout)


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


def batch_indices(loader: object) -> list[range]:
    """Dataset indices of each of a loader's batches, in order; empty if they are not known."""
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return []
    sampler, size = loader.batch_sampler.sampler, loader.batch_sampler.batch_size
    if type(sampler) is SequentialSampler:
        first, step = 0, 1
    elif isinstance(sampler, DistributedSampler) and not sampler.shuffle:
        first, step = sampler.rank, sampler.num_replicas
    else:
        return []
    length = len(loader.dataset)  # type: ignore[arg-type]
    starts = range(first, first + len(loader) * size * step, size * step)
    return [range(start, max(start, min(start + size * step, length)), step) for start in starts]


class HostCopier:
    """Copies predictions into a snapshot at once."""

    def prepare(self, arrays: SnapshotArrays, nbytes: int) -> None:
        """Nothing to prepare."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy, converting to float32."""
        target.copy_(source)

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

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy, converting to float32; done when `wait` returns."""
        self._stream.wait_stream(self._cuda.current_stream(self._device))  # the prediction must be there
        with self._cuda.stream(self._stream):
            target.copy_(source.to(target.dtype), non_blocking=True)
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
    """Fills the arrays of one snapshot from predictions, batch by batch.

    What runs between two batches finds cold caches, where each line of Python costs: views are made beforehand.

    Args:
        plan: Which samples go where.
        routes: Where the samples of each batch of a validation go.
        arrays: The snapshot's arrays.
        copier: How a prediction gets into them.
    """

    def __init__(self, plan: CapturePlan, routes: Sequence[Route], arrays: SnapshotArrays, copier: Copier) -> None:
        self.arrays = arrays
        self.has_diffraction = False
        self._plan, self._routes, self._copy, self._wait = plan, routes, copier.copy, copier.wait
        self._amp, self._phase = torch.from_numpy(arrays.stitch_amp), torch.from_numpy(arrays.stitch_phase)
        self._targets = [(self._amp[route.rows], self._phase[route.rows]) for route in routes]
        self._start_px, self._size_px = crop_start_px(plan.layout.patch_px, plan.layout.crop_px), plan.layout.crop_px
        self._done: list[slice] = []

    def add_outputs(self, batch_idx: int, outputs: object) -> None:
        """Copy what a validation step returned; ignores what holds no predictions, each (B, C, N, N)."""
        if not isinstance(outputs, Mapping):
            return
        amp, phase, route = outputs.get("amp"), outputs.get("phase"), self._routes[batch_idx]
        if not isinstance(amp, Tensor) or not isinstance(phase, Tensor):
            return
        if route.samples.stop:
            amp_rows, phase_rows = self._targets[batch_idx]
            self._copy(amp_rows, self._crop(amp, route.samples))
            self._copy(phase_rows, self._crop(phase, route.samples))
            self._done.append(route.rows)
        if route.fixed:
            self._copy_fixed(route.fixed, amp, phase, outputs.get("pred_diffraction"))

    def add_objects(self, indices: Sequence[int], amp: Tensor, phase: Tensor) -> None:
        """Copy the centre crops that are stitched, of any samples; amp, phase: (b, C, N, N)."""
        for sample, index in enumerate(indices):
            rows = slice(index, index + 1)
            self._copy(self._amp[rows], self._crop(amp, slice(sample, sample + 1)))
            self._copy(self._phase[rows], self._crop(phase, slice(sample, sample + 1)))
            self._done.append(rows)

    def add_patches(self, indices: Sequence[int], amp: Tensor, phase: Tensor, diffraction: Tensor | None) -> None:
        """Copy channel 0 of the fixed patches among `indices`; all (b, C, N, N)."""
        self._copy_fixed(self._plan.route_fixed(indices), amp, phase, diffraction)

    def _crop(self, patches: Tensor, samples: slice) -> Tensor:
        start, size = self._start_px, self._size_px
        return patches.narrow(2, start, size).narrow(3, start, size)[samples]

    def _copy_fixed(self, fixed: FixedRows, amp: Tensor, phase: Tensor, diffraction: Tensor | None) -> None:
        for row, sample in fixed:
            self._copy(torch.from_numpy(self.arrays.fixed_amp[row]), amp[sample, 0])
            self._copy(torch.from_numpy(self.arrays.fixed_phase[row]), phase[sample, 0])
            if diffraction is not None:
                self._copy(torch.from_numpy(self.arrays.fixed_diffraction[row]), diffraction[sample, 0])
                self.has_diffraction = True
            self.arrays.fixed_filled[row] = True

    def finish(self) -> None:
        """Wait until all copies have arrived, and mark the rows that they filled."""
        self._wait()
        for rows in self._done:
            self.arrays.stitch_filled[rows] = True
        self._done.clear()

    @property
    def missing_fixed(self) -> list[int]:
        """Dataset indices of fixed patches without a prediction yet."""
        return [i for i, done in zip(self._plan.fixed_indices, self.arrays.fixed_filled, strict=True) if not done]

    @property
    def missing_rows(self) -> NDArray[np.intp]:
        """Rows of the stitch arrays without a prediction, as `finish` left them."""
        return np.flatnonzero(~self.arrays.stitch_filled)


@dataclass(frozen=True)
class Precision:
    """How the Trainer runs a validation step: its autocast context and its conversion of inputs."""

    context: Callable[[], AbstractContextManager[None]]
    convert: Callable[[Any], Any]


def fill_missing(capture: Capture, module: LightningModule, dataset: Any, precision: Precision) -> None:  # noqa: ANN401
    """One extra pass over the samples that validation did not deliver.

    In eval mode, without gradients; modes of all submodules and all random states are as before afterwards.
    """
    missing = capture.missing_rows
    if not capture.missing_fixed and missing.size == 0:
        return
    with random_state_kept(), evaluating(module), torch.no_grad(), precision.context():
        for indices in _batches(capture.missing_fixed):
            first, amp, phase = _forward(module, _collate(dataset, indices, module, precision))
            capture.add_patches(indices, amp, phase, None if first.is_complex() else first)
        for indices in _batches(missing.tolist()):
            patches = _forward_predict(module, _collate(dataset, indices, module, precision))
            capture.add_objects(indices, patches.abs(), patches.angle())
    capture.finish()


def _batches(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), _EXTRA_PASS_BATCH):
        yield indices[start : start + _EXTRA_PASS_BATCH]


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
