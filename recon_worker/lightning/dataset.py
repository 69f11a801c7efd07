"""What a dataset says once per run: patterns and labels of the fixed patches, positions, and how to stitch.

Items are `(fields, probe, scale)` with `fields` a mapping (or TensorDict) of `images`, `coords_relative`, ... as
PtychoPINN has them.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from recon_worker.snapshot.array_types import Complex64, Float32
from recon_worker.snapshot.choices import StitchWeight
from recon_worker.snapshot.geometry import Geometry, PositionGeometry
from recon_worker.snapshot.records import Scan, SnapshotLayout
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_POSITIONS_S = 120.0
"""How long positions are read from the samples: the training waits."""


class UnusableDataError(RuntimeError):
    """A dataset or loader is not one that can be logged. The message says why, and ends with a full stop."""


class NoSamplesError(UnusableDataError):
    """There is no dataset, or nothing in it."""


def dataset_length(loader: object) -> int:
    """Samples of a loader's dataset.

    Raises:
        UnusableDataError: It has none (`NoSamplesError`), or they are not addressed by index.
    """
    if loader is None:
        raise NoSamplesError("there is none.")
    try:
        dataset: Any = loader.dataset  # type: ignore[attr-defined]
    except Exception as error:  # a property may raise whatever it likes
        raise UnusableDataError(f"a {_name(loader)} has no usable dataset ({_said(error)}).") from error
    if isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__getitem__"):
        raise UnusableDataError(f"samples of a {_name(dataset)} have no index.")
    try:
        length = len(dataset)
    except Exception as error:
        raise UnusableDataError(f"a {_name(dataset)} has no usable length ({_said(error)}).") from error
    if length == 0:
        raise NoSamplesError(f"the {_name(dataset)} has no samples.")
    return length


def read_item(dataset: Any, index: int) -> Any:  # noqa: ANN401
    """A sample.

    Raises:
        UnusableDataError: It cannot be read, or is not (fields, probe, ...).
    """
    try:
        item = dataset[index]
    except Exception as error:
        raise UnusableDataError(f"sample {index} of {_name(dataset)} cannot be read ({_said(error)}).") from error
    if not isinstance(item, Sequence) or len(item) < 2 or not hasattr(item[0], "keys"):
        raise UnusableDataError(
            f"a sample of {_name(dataset)} is a {type(item).__name__}, not (fields, probe, scale) with named fields."
        )
    return item


def _name(thing: object) -> str:
    return type(thing).__name__


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".: ")


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

    Raises:
        UnusableDataError: The samples are not such as are logged.
    """
    items = [read_item(dataset, i) for i in (fixed_indices or (0,))]
    try:
        channels, patch_px = item_field(items[0], "images").shape[-3:-1]
        observed = _stacked(items, "observed_images", "images")[: len(fixed_indices)]
    except Exception as error:  # whatever these fields are
        raise UnusableDataError(f"patterns of {_name(dataset)} cannot be used ({_said(error)}).") from error
    geometry = _geometry(dataset, items[0], max_stitch_samples, stitch_weight) if stitch else None
    scan = Scan(
        fixed_indices=fixed_indices,
        observed_diffraction=observed,
        photon_scale=_photon_scale(items[: len(fixed_indices)]),
        label_amp=_labels(items, "label_amp", fixed_indices),
        label_phase=_labels(items, "label_phase", fixed_indices),
        geometry=geometry,
        ground_truth=_ground_truth(dataset) if geometry is not None else (),
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


def item_field(item: Any, *names: str) -> Tensor:  # noqa: ANN401
    """The first of the named fields that an item has."""
    fields = item[0]
    for name in names:
        if name in fields.keys():  # noqa: SIM118 - a TensorDict has no `in`
            value: Tensor = fields[name]
            return value
    raise KeyError(f"the dataset's items have none of the fields {names}; they have {sorted(fields.keys())}.")


def _stacked(items: Sequence[Any], *names: str) -> Float32:
    """(k, N, N): channel 0 of a field of each item."""
    return np.stack([to_float32(item_field(item, *names)[0]) for item in items])


def _photon_scale(items: Sequence[Any]) -> Float32 | None:
    """(k,) of the fixed patches; None where the dataset has none for all, or it is no scale."""
    try:
        values = [float(item_field(item, "physics_scaling_constant").reshape(-1)[0]) for item in items]
    except Exception:  # absent, or whatever this field is; then the photons are not known
        return None
    scales = np.array(values, np.float32)
    return scales if scales.size and (np.isfinite(scales) & (scales > 0)).all() else None


def _labels(items: Sequence[Any], name: str, fixed_indices: Sequence[int]) -> Float32 | None:
    """Labels of the fixed patches; None where the dataset has none (absent or all zero) that fit the patterns."""
    if not fixed_indices or name not in items[0][0].keys():  # noqa: SIM118
        return None
    try:
        labels = _stacked(items, name)
    except Exception as error:  # whatever this field is
        _log.warning("%s cannot be used (%s): patches are logged without ground truth.", name, _said(error))
        return None
    shape, fitting = item_field(items[0], name).shape, item_field(items[0], "images").shape
    if shape != fitting:
        _log.warning(
            "%s has shape %s, the patterns %s: patches are logged without ground truth.",
            name, tuple(shape), tuple(fitting),
        )  # fmt: skip
        return None
    return labels


def _ground_truth(dataset: Any) -> tuple[Complex64 | None, ...]:  # noqa: ANN401
    """Per object; nothing, after a warning, if it is not what is compared with."""
    try:
        truth = tuple(getattr(dataset, "ground_truth", ()))
        for one in truth:
            if one is not None and (not isinstance(one, np.ndarray) or one.ndim != 2):
                raise TypeError(f"(H, W) arrays are expected, one is a {_name(one)}")
    except Exception as error:  # a property may raise whatever it likes
        _log.warning("ground_truth of %s cannot be used (%s): stitched objects are logged without it.",
            _name(dataset), _said(error),
        )  # fmt: skip
        return ()
    return truth


def to_float32(tensor: Tensor) -> Float32:
    """On the CPU."""
    return tensor.detach().to("cpu", torch.float32).numpy()


def _geometry(dataset: Any, item: Any, max_samples: int, weight: StitchWeight) -> Geometry | None:  # noqa: ANN401
    """How to stitch, or None after one line that says why not."""
    geometry: Geometry | None = None
    try:
        geometry, reason = getattr(dataset, "scan_geometry", None), getattr(dataset, "geometry_skip_reason", None)
        if geometry is None and reason is None and "coords_global" in item[0].keys():  # noqa: SIM118
            geometry = _geometry_from_items(dataset, item, max_samples)
        if geometry is not None and not isinstance(geometry, Geometry):
            raise ValueError(f"scan_geometry of {_name(dataset)} is a {_name(geometry)}")
    except (ValueError, UnusableDataError) as error:
        geometry, reason = None, str(error).rstrip(".")
    except Exception as error:  # a property may raise whatever it likes, and fields may be anything
        geometry, reason = None, f"where the samples of {_name(dataset)} lie is not known ({_said(error)})"
    if geometry is None:
        _log.warning(
            "Stitched pictures are skipped: %s. Patch pictures are logged.",
            reason or "the dataset has neither grid metadata nor absolute positions (coords_global)",
        )
        return None
    return _weighted(geometry, weight) if isinstance(geometry, PositionGeometry) else geometry


def _weighted(geometry: PositionGeometry, weight: StitchWeight) -> PositionGeometry:
    """With the weight that is asked for; the uniform one, after a warning, where the probe is not known."""
    try:
        return replace(geometry, weight=weight)
    except ValueError as error:
        _log.warning("Overlapping patches are averaged equally: %s", error)
        return replace(geometry, weight="uniform")


def _geometry_from_items(dataset: Any, item: Any, max_samples: int) -> PositionGeometry:  # noqa: ANN401
    n_px = item_field(item, "images").shape[-1]
    crop = slice(n_px // 4, n_px // 4 + n_px // 2)
    read = _items_in_time(dataset, min(len(dataset), max_samples))
    positions = np.stack([to_float32(item_field(one, "coords_global")).reshape(-1, 2) for one in read])
    objects = [int(one[0]["experiment_id"]) if "experiment_id" in one[0].keys() else 0 for one in read]  # noqa: SIM118
    intensity = item_probe(item, 1)[0].abs().square().sum(0)[crop, crop]
    return PositionGeometry(
        patch_px=n_px,
        crop_px=n_px // 2,
        positions_px=positions.astype(np.float64),
        object_index=np.unique(objects, return_inverse=True)[1].astype(np.int64),
        probe_intensity=to_float32(intensity),
    )


def _items_in_time(dataset: Any, count: int) -> list[Any]:  # noqa: ANN401
    """The first samples. Raises ValueError if that takes too long."""
    deadline, read = time.monotonic() + _POSITIONS_S, list[Any]()
    for index in range(count):
        if time.monotonic() > deadline:
            raise ValueError(
                f"the positions of {count} samples are not read within {_POSITIONS_S:g} s, but those of {index}; "
                "stitch fewer (max_stitch_samples), or give the dataset a scan_geometry"
            )
        read.append(read_item(dataset, index))
    return read


def item_probe(item: Any, channels: int) -> Tensor:  # noqa: ANN401
    """The probe of an item as (C, P, N, N), from (N, N), (P, N, N) or (C, P, N, N)."""
    probe: Tensor = item[1]
    while probe.ndim < 4:
        probe = probe.unsqueeze(0)
    return probe.expand(channels, *probe.shape[1:]) if probe.shape[0] == 1 else probe
