"""Reads the constant data of a run from its dataset: patterns and labels of the fixed patches, and positions.

Items are `(fields, probe, scale)`, where `fields` is a mapping (or TensorDict) of `images`, `coords_relative`, ... as
in PtychoPINN. Datasets are user code: any access may raise any exception.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from recon_worker.capture.plan import ScanOptions
from recon_worker.snapshot.array_types import Complex64, Float32
from recon_worker.snapshot.choices import StitchWeight
from recon_worker.snapshot.geometry import Geometry, PositionGeometry
from recon_worker.snapshot.records import Scan, SnapshotLayout
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_POSITIONS_S = 120.0
"""Timeout for reading positions from the samples; the training waits meanwhile."""


class UnusableDataError(RuntimeError):
    """A dataset or loader cannot be logged. The message gives the reason and ends with a full stop."""


def dataset_length(loader: object) -> int:
    """Return the number of samples of a loader's dataset.

    Raises:
        UnusableDataError: The samples have no index, or their number is unknown.
    """
    try:
        dataset: Any = loader.dataset  # type: ignore[attr-defined]
    except Exception as error:
        raise UnusableDataError(f"a {type(loader).__name__} has no usable dataset ({_reason(error)}).") from error
    if isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__"):
        raise UnusableDataError(f"samples of a {type(dataset).__name__} have no index.")
    try:
        return len(dataset)
    except Exception as error:
        raise UnusableDataError(f"a {type(dataset).__name__} has no usable length ({_reason(error)}).") from error


def read_item(dataset: Any, index: int) -> Any:  # noqa: ANN401
    """Return a sample.

    Raises:
        UnusableDataError: The sample cannot be read, or is not (fields, probe, ...).
    """
    name = type(dataset).__name__
    try:
        item = dataset[index]
    except Exception as error:
        raise UnusableDataError(f"sample {index} of {name} cannot be read ({_reason(error)}).") from error
    if not isinstance(item, Sequence) or len(item) < 2 or not hasattr(item[0], "keys"):
        raise UnusableDataError(
            f"a sample of {name} is a {type(item).__name__}, not (fields, probe, scale) with named fields."
        )
    return item


def item_field(item: Any, *names: str) -> Tensor:  # noqa: ANN401
    """Return the first of the named fields that an item contains. Raises KeyError if it contains none."""
    fields = item[0]
    for name in names:
        if name in fields.keys():  # noqa: SIM118 - a TensorDict has no `in`
            value: Tensor = fields[name]
            return value
    raise KeyError(f"the dataset's items have none of the fields {names}; they have {sorted(fields.keys())}.")


def item_probe(item: Any, channels: int) -> Tensor:  # noqa: ANN401
    """Return the probe of an item as (C, P, N, N), from (N, N), (P, N, N) or (C, P, N, N)."""
    probe: Tensor = item[1]
    while probe.ndim < 4:
        probe = probe.unsqueeze(0)
    return probe.expand(channels, *probe.shape[1:]) if probe.shape[0] == 1 else probe


def item_number(item: Any) -> int:  # noqa: ANN401
    """Return the `experiment_id` of an item; 0 if absent."""
    return int(item[0]["experiment_id"]) if "experiment_id" in item[0].keys() else 0  # noqa: SIM118


def to_float32(tensor: Tensor) -> Float32:
    """Return a tensor as a float32 NumPy array."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def read_scan(
    dataset: Any,  # noqa: ANN401 - anything with __len__ and __getitem__
    fixed_indices: tuple[int, ...],
    options: ScanOptions,
    *,
    reach: int | None = None,
    epoch_digits: int = 2,
) -> tuple[Scan, SnapshotLayout]:
    """Read the data that is constant during a run.

    Args:
        dataset: Map-style dataset. Its attributes `scan_geometry`, `ground_truth` and `geometry_skip_reason` define the
            stitching if present; otherwise the `coords_global` of its items do.
        fixed_indices: Samples whose patches are logged.
        options: What to log.
        reach: Largest number of samples to stitch; None: limited by the options only.
        epoch_digits: Width of the epoch in artifact names.

    Raises:
        UnusableDataError: The samples cannot be logged.
    """
    items = [read_item(dataset, i) for i in (fixed_indices or (0,))]
    fixed = items[: len(fixed_indices)]
    try:
        channels, patch_px = item_field(items[0], "images").shape[-3:-1]
        observed = _first_channels(items, "observed_images", "images")[: len(fixed)]
    except Exception as error:
        raise UnusableDataError(f"patterns of {type(dataset).__name__} cannot be used ({_reason(error)}).") from error
    n_stitch = min(n for n in (len(dataset), options.max_stitch_samples, reach) if n is not None)
    geometry = _geometry(dataset, items[0], n_stitch, options.stitch_weight) if options.log_stitch else None
    scan = Scan(
        fixed_indices=fixed_indices,
        observed_diffraction=observed,
        photon_scale=_photon_scale(fixed),
        label_amp=_labels(fixed, "label_amp"),
        label_phase=_labels(fixed, "label_phase"),
        geometry=geometry,
        ground_truth=_ground_truth(dataset) if geometry is not None else (),
        epoch_digits=epoch_digits,
        remove_ramp=options.remove_ramp,
        pixel_size_m=options.pixel_size_m,
        arrays_format=options.arrays if geometry is not None else "none",
        description=options.description,
    )
    layout = SnapshotLayout(
        n_fixed=len(fixed_indices),
        patch_px=patch_px,
        n_stitch=n_stitch if geometry is not None else 0,
        channels=channels,
        crop_px=geometry.crop_px if geometry is not None else 0,
    )
    return scan, layout


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".: ")


def _first_channels(items: Sequence[Any], *names: str) -> Float32:
    """Return (k, N, N): channel 0 of a field of each item."""
    return np.stack([to_float32(item_field(item, *names)[0]) for item in items])


def _photon_scale(items: Sequence[Any]) -> Float32 | None:
    """Return (k,) factors to sqrt(photons); None unless every item has a positive one."""
    try:
        values = [float(item_field(item, "physics_scaling_constant").reshape(-1)[0]) for item in items]
    except Exception:  # absent or unusable: the number of photons is unknown
        return None
    scales = np.array(values, np.float32)
    return scales if scales.size and (np.isfinite(scales) & (scales > 0)).all() else None


def _labels(items: Sequence[Any], name: str) -> Float32 | None:
    """Return the (k, N, N) labels; None if absent or, with a warning, if they do not match the patterns."""
    if not items or name not in items[0][0].keys():  # noqa: SIM118
        return None
    try:
        labels = _first_channels(items, name)
    except Exception as error:
        _log.warning("%s cannot be used (%s): patches are logged without ground truth.", name, _reason(error))
        return None
    shape, expected = item_field(items[0], name).shape, item_field(items[0], "images").shape
    if shape != expected:
        _log.warning(
            "%s has shape %s, the patterns %s: patches are logged without ground truth.",
            name, tuple(shape), tuple(expected),
        )  # fmt: skip
        return None
    return labels


def _ground_truth(dataset: Any) -> tuple[Complex64 | None, ...]:  # noqa: ANN401
    """Return the ground-truth objects; empty, with a warning, if unusable."""
    try:
        truth = tuple(getattr(dataset, "ground_truth", ()))
        for one in truth:
            if one is not None and (not isinstance(one, np.ndarray) or one.ndim != 2):
                raise TypeError(f"(H, W) arrays are expected, one is a {type(one).__name__}")
    except Exception as error:
        _log.warning("ground_truth of %s cannot be used (%s): stitched objects are logged without it.",
            type(dataset).__name__, _reason(error),
        )  # fmt: skip
        return ()
    return truth


def _geometry(dataset: Any, item: Any, n_stitch: int, weight: StitchWeight) -> Geometry | None:  # noqa: ANN401
    """Return the stitching geometry; None, with a warning that gives the reason, if stitching is impossible."""
    geometry: Geometry | None = None
    try:
        geometry, reason = getattr(dataset, "scan_geometry", None), getattr(dataset, "geometry_skip_reason", None)
        if geometry is None and reason is None and "coords_global" in item[0].keys():  # noqa: SIM118
            geometry = _geometry_from_items(dataset, item, n_stitch)
        if geometry is not None and not isinstance(geometry, Geometry):
            raise ValueError(f"scan_geometry of {type(dataset).__name__} is a {type(geometry).__name__}")
    except (ValueError, UnusableDataError) as error:
        geometry, reason = None, str(error).rstrip(".")
    except Exception as error:
        geometry, reason = None, f"the sample positions of {type(dataset).__name__} are unknown ({_reason(error)})"
    if geometry is None:
        _log.warning(
            "Stitched pictures are skipped: %s. Patch pictures are logged.",
            reason or "the dataset has neither grid metadata nor absolute positions (coords_global)",
        )
        return None
    if not isinstance(geometry, PositionGeometry):
        return geometry
    try:
        return replace(geometry, weight=weight)
    except ValueError as error:  # the probe is unknown
        _log.warning("Overlapping patches are averaged equally: %s", error)
        return replace(geometry, weight="uniform")


def _geometry_from_items(dataset: Any, item: Any, count: int) -> PositionGeometry:  # noqa: ANN401
    """Read the positions of the first `count` samples. Raises ValueError if that takes too long."""
    deadline, items = time.monotonic() + _POSITIONS_S, list[Any]()
    for index in range(count):
        if time.monotonic() > deadline:
            raise ValueError(
                f"only {index} of {count} sample positions were read within {_POSITIONS_S:g} s; "
                "stitch fewer (max_stitch_samples), or give the dataset a scan_geometry"
            )
        items.append(read_item(dataset, index))
    n_px = item_field(item, "images").shape[-1]
    crop = slice(n_px // 4, n_px // 4 + n_px // 2)
    positions = np.stack([to_float32(item_field(one, "coords_global")).reshape(-1, 2) for one in items])
    return PositionGeometry(
        patch_px=n_px,
        crop_px=n_px // 2,
        positions_px=positions.astype(np.float64),
        object_index=np.unique([item_number(one) for one in items], return_inverse=True)[1].astype(np.int64),
        probe_intensity=to_float32(item_probe(item, 1)[0].abs().square().sum(0)[crop, crop]),
    )
