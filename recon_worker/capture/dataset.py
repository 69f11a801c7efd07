"""Reads the constant data of a run from its dataset: patterns and labels of the fixed patches, positions, true object.

Datasets are user code: any access may raise any exception.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from recon_worker.capture.adapters import Adapter, Sample
from recon_worker.capture.copying import as_tensor
from recon_worker.capture.errors import UnusableDataError, described
from recon_worker.capture.gathering import Ranks
from recon_worker.capture.placement.positions import ItemPosition
from recon_worker.capture.placement.samples import Placement, Samples, place_samples
from recon_worker.capture.placement.unchanged import left_unchanged
from recon_worker.capture.plan import ScanOptions
from recon_worker.snapshot.array_types import Float32
from recon_worker.snapshot.geometry import Geometry, PositionGeometry
from recon_worker.snapshot.records import Scan, SnapshotLayout
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log

_log = message_log(__name__)


def dataset_length(loader: object) -> int:
    """Return the number of samples of a loader's dataset.

    Raises:
        UnusableDataError: There are no samples, they have no index, or their number is unknown.
    """
    try:
        dataset: Any = loader.dataset  # type: ignore[attr-defined]
    except Exception as error:
        raise UnusableDataError(f"a {type(loader).__name__} has no usable dataset ({reason(error)}).") from error
    if isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__"):
        raise UnusableDataError(f"samples of a {type(dataset).__name__} have no index.")
    try:
        length = len(dataset)
    except Exception as error:
        raise UnusableDataError(f"a {type(dataset).__name__} has no usable length ({reason(error)}).") from error
    if length == 0:
        raise UnusableDataError(f"the {type(dataset).__name__} has no samples.")
    return length


def read_item(dataset: Any, index: int) -> Any:  # noqa: ANN401
    """Return a sample's item. Raises UnusableDataError if it cannot be read."""
    try:
        return dataset[index]
    except Exception as error:
        raise UnusableDataError(
            f"sample {index} of {type(dataset).__name__} cannot be read ({reason(error)})."
        ) from error


def read_sample(dataset: Any, adapter: Adapter, index: int) -> Sample:  # noqa: ANN401
    """Return a sample. Raises UnusableDataError if it cannot be read, or is not of the adapter's form."""
    item = read_item(dataset, index)
    try:
        sample = adapter.sample(item)
        values = {field.name: getattr(sample, field.name) for field in fields(Sample)}
        arrays: dict[str, Any] = {
            name: as_tensor(value) for name, value in values.items() if isinstance(value, np.ndarray)
        }
        return replace(sample, **arrays)
    except Exception as error:
        raise UnusableDataError(
            f"{type(adapter).__name__} cannot read sample {index} of {type(dataset).__name__}, which is "
            f"{described(item)} ({reason(error)})."
        ) from error


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Constant data of a run."""

    scan: Scan
    layout: SnapshotLayout
    """Layout of the run's snapshots."""
    intensity: bool
    """Whether predicted diffraction is intensity."""


def start_on_rank_zero(ranks: Ranks, start: Callable[[], RunData]) -> tuple[SnapshotLayout, bool]:
    """Run `start` on rank zero; return, on all ranks, its layout and whether predicted diffraction is intensity.

    All ranks must call this. Raises the same errors as `Ranks.broadcast`.
    """

    def numbers() -> list[int]:
        data = start()
        return [data.intensity, *astuple(data.layout)]

    intensity, *sizes = ranks.broadcast(numbers).tolist()
    names = (field.name for field in fields(SnapshotLayout))
    return SnapshotLayout(**dict(zip(names, sizes, strict=True))), bool(intensity)


def read_scan(
    dataset: Any,  # noqa: ANN401 - anything with __len__ and __getitem__
    adapter: Adapter,
    fixed_indices: tuple[int, ...],
    options: ScanOptions,
    *,
    reach: int | None = None,
    patch_px: int | None = None,
    epoch_digits: int = 2,
) -> RunData:
    """Read the data that is constant during a run, from a map-style dataset.

    Args:
        reach: Largest number of samples to stitch; None: limited by the options only.
        patch_px: Side of a patch; None: that of the patterns.
        epoch_digits: Width of the epoch in artifact names.

    Raises:
        UnusableDataError: The samples cannot be logged.
        WrongSettingError: Positions or ground truth are given explicitly, but wrong.
    """
    with left_unchanged(dataset):
        samples = [read_sample(dataset, adapter, i) for i in (fixed_indices or (0,))]
        fixed = samples[: len(fixed_indices)]
        observed, n_px = _patterns(dataset, samples, patch_px)
        n_stitch = min(n for n in (len(dataset), options.max_stitch_samples, reach) if n is not None)
        placement = _place(dataset, adapter, samples[0], n_stitch, n_px, options)
        label_amp, label_phase = _true_patches(fixed, placement, fixed_indices, n_px)
    intensity = samples[0].intensity if options.intensity is None else options.intensity
    if observed is not None and intensity:
        observed = np.sqrt(np.maximum(observed, 0))
    geometry = placement.geometry
    scan = Scan(
        fixed_indices=fixed_indices,
        observed_diffraction=None if observed is None else observed[: len(fixed)],
        photon_scale=_photon_scale(fixed),
        label_amp=label_amp,
        label_phase=label_phase,
        geometry=geometry,
        ground_truth=placement.ground_truth if geometry is not None else (),
        epoch_digits=epoch_digits,
        remove_ramp=options.remove_ramp,
        pixel_size_m=options.pixel_size_m,
        arrays_format=options.arrays if geometry is not None else "none",
        tiles_from_px=options.tiles_from_px,
        description=options.description,
    )
    return RunData(scan=scan, layout=_layout(len(fixed_indices), n_px, n_stitch, geometry), intensity=intensity)


def _layout(n_fixed: int, n_px: int, n_stitch: int, geometry: Geometry | None) -> SnapshotLayout:
    layout = SnapshotLayout(n_fixed=n_fixed, patch_px=n_px)
    if geometry is None:
        return layout
    return replace(layout, n_stitch=n_stitch, channels=channels_of(geometry), crop_px=geometry.crop_px)


def to_float32(tensor: Tensor) -> Float32:
    """Return a tensor as a float32 NumPy array."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def _patterns(dataset: object, samples: Sequence[Sample], patch_px: int | None) -> tuple[Float32 | None, int]:
    """Return channel 0 of the patterns, (k, N, N), None if the samples have none; and the side of a patch."""
    if any(one.diffraction is None for one in samples):
        if patch_px is None:
            raise UnusableDataError(
                f"samples of {type(dataset).__name__} have no diffraction: the patch size is unknown."
            )
        return None, patch_px
    try:
        patterns = np.stack([to_float32(one.diffraction[0]) for one in samples])  # type: ignore[index]
        _, n_px, width = patterns.shape
    except Exception as error:
        raise UnusableDataError(f"patterns of {type(dataset).__name__} cannot be used ({reason(error)}).") from error
    if n_px != width:
        raise UnusableDataError(f"patterns of {type(dataset).__name__} have {n_px} x {width} px; they must be square.")
    return patterns, patch_px or n_px


def _photon_scale(samples: Sequence[Sample]) -> Float32 | None:
    """Return (k,) factors to sqrt(photons); None unless every sample has a positive one."""
    scales = np.array([one.photon_scale or 0 for one in samples], np.float32)
    return scales if scales.size and (np.isfinite(scales) & (scales > 0)).all() else None


def _labels(samples: Sequence[Sample], name: str, n_px: int) -> Float32 | None:
    """Return the (k, N, N) labels; None if absent or, with a warning, if they do not match the patterns."""
    labels = [getattr(one, name) for one in samples]
    if not labels or any(one is None for one in labels):
        return None
    why: str
    try:
        found = np.stack([to_float32(one[0]) for one in labels])
        if found.shape[1:] == (n_px, n_px):
            return found
        why = f"one has {found.shape[1]} x {found.shape[2]} px, a pattern {n_px} x {n_px}"
    except Exception as error:
        why = reason(error)
    _log.warning("%s cannot be used (%s): patches are logged without ground truth.", name, why)
    return None


def _true_patches(
    samples: Sequence[Sample], placement: Placement, indices: Sequence[int], n_px: int
) -> tuple[Float32 | None, Float32 | None]:
    """Return amplitude and phase of the true patches, (k, N, N) each, zero where unknown; None if all are unknown.

    They are the labels or, if these are absent or zero, cut from the true object.
    """
    labels = [_labels(samples, name, n_px) for name in ("label_amp", "label_phase")]
    if any(one is not None and one.any() for one in labels):
        return labels[0], labels[1]
    patches = np.zeros((2, len(indices), n_px, n_px), np.float32)
    for row, index in enumerate(indices):
        if (patch := placement.true_patch(index)) is not None:
            patches[:, row] = patch
    return (patches[0], patches[1]) if patches.any() else (None, None)


def channels_of(geometry: Geometry) -> int:
    """Return the number of patches of a sample, as stitched."""
    if isinstance(geometry, PositionGeometry):
        return int(geometry.positions_px.shape[1])
    return 1 if geometry.coords_relative_px is None else geometry.coords_relative_px.shape[1]


def _place(
    dataset: Any,  # noqa: ANN401
    adapter: Adapter,
    first: Sample,
    n_stitch: int,
    n_px: int,
    options: ScanOptions,
) -> Placement:
    """Find where the samples lie, and the true object; no geometry, with a warning, if they cannot be stitched."""
    item_position: Callable[[int], ItemPosition | None] | None = None
    if first.position_px is not None:
        item_position = partial(_item_position, dataset, adapter)
    placement = place_samples(
        Samples(
            dataset=dataset,
            length=len(dataset),
            count=n_stitch if options.log_stitch else 1,  # reading all positions takes long
            n_px=n_px,
            channels=_patches_per_sample(first),
            item_position=item_position,
            probe_intensity=_probe_intensity(first, n_px),
            weight="uniform" if first.probe is None else options.stitch_weight,
        ),
        options,
    )
    if not options.log_stitch:
        return replace(placement, geometry=None)
    if placement.geometry is None:
        _log.warning("Stitched pictures are skipped: %s. Patch pictures are logged.", placement.skip_reason)
    return placement


def _patches_per_sample(sample: Sample) -> int | None:
    """Return the number C of patches that the network predicts for a sample; None if unknown."""
    known = (one for one in (sample.label_amp, sample.diffraction) if one is not None)
    return next((one.shape[0] for one in known if isinstance(one, Tensor) and one.ndim == 3), None)


def _item_position(dataset: object, adapter: Adapter, index: int) -> ItemPosition | None:
    try:
        sample = read_sample(dataset, adapter, index)
    except UnusableDataError as error:
        raise ValueError(str(error).rstrip(".")) from error
    if sample.position_px is None:
        return None
    position = sample.position_px.detach().to("cpu", torch.float64).numpy().reshape(-1, 2)
    return ItemPosition(position_px=position, experiment=sample.experiment)


def _probe_intensity(sample: Sample, n_px: int) -> Float32 | None:
    """Return the intensity of the probe, summed over its modes, (N, N); None if unknown."""
    try:
        assert sample.probe is not None
        probe = sample.probe.detach().cpu()
        modes = probe.reshape(-1, n_px, n_px) if probe.ndim < 4 else probe[0].reshape(-1, n_px, n_px)
        return to_float32(modes.abs().square().sum(0))
    except Exception as error:  # absent or unusable: overlapping patches are averaged equally
        raise_if_from_signal_handler(error)
        return None
