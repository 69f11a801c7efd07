"""Positions of samples in the object: the records, their shapes, and the checks of what the user passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon_worker.capture.errors import WrongSettingError
from recon_worker.capture.placement.nesting import Part, in_rows, to_array
from recon_worker.snapshot.array_types import Float64
from recon_worker.snapshot.geometry import Geometry, GridGeometry
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler


@dataclass(frozen=True, kw_only=True)
class ItemPosition:
    """Position of one sample, as its item states it."""

    position_px: Float64
    """(C, 2), (x, y): absolute patch centres, object pixels."""
    experiment: int = 0
    """Number of the object that the sample shows."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Positions of the leading samples of a dataset."""

    source: str
    """Where they were found, for messages."""
    px: Float64
    """(k, C, 2), (x, y), absolute patch centres."""
    object_id: NDArray[np.int64]
    """(k,) number of the object that each sample shows."""
    stack_index: NDArray[np.int64]
    """(k,) number of this object among those of its own container."""
    ids_known: bool = False
    """Whether the numbers were stated; otherwise all samples of a container are taken to show one object."""
    explicit: bool = False
    """Whether the user passed them."""
    grid: GridGeometry | None = None
    """Grid that the positions belong to."""
    geometry: Geometry | None = None
    """Geometry that holds the samples in this order, ready-made."""


def as_points(value: Any, count: int) -> Float64:  # noqa: ANN401
    """Return (count, C, 2) from (n, 2), (n, C, 2), (n, 2, C), (n, 1, 2, C) or (n, C, 1, 2), with any axes of length 1.

    Raises:
        TypeError: The value does not hold numbers.
        ValueError: It has another shape.
    """
    array = to_array(value)
    points = array
    while points.ndim > 2 and points.shape[0] == 1 != count:
        points = points[0]
    while points.ndim > 4 and points.shape[-1] == 1:
        points = points[..., 0]
    if points.ndim == 2:
        points = points[:, None]
    elif points.ndim == 4 and points.shape[1:3] == (1, 2):
        points = np.moveaxis(points[:, 0], 1, 2)
    elif points.ndim == 4 and points.shape[2:] == (1, 2):
        points = points[:, :, 0]
    elif points.ndim == 3 and points.shape[1] == 2 != points.shape[2]:
        points = points.swapaxes(1, 2)
    if points.ndim != 3 or points.shape[::2] != (count, 2) or not points.shape[1] or points.dtype.kind == "c":
        raise ValueError(f"has shape {array.shape} and type {array.dtype}")
    return points.astype(np.float64)


def explicit_positions(positions: Any, dataset: object, length: int) -> Float64:  # noqa: ANN401
    """Return the (length, C, 2) positions that the user passed, as an array or as a function of the dataset.

    Raises:
        WrongSettingError: They cannot be used.
    """
    allowed = (
        f"allowed for {length} samples: ({length}, 2) or ({length}, C, 2) real numbers, (x, y) last, in pixels. Give "
        "the patch centre of every sample of the logged dataset, in its order."
    )
    if callable(positions):
        try:
            positions = positions(dataset)
        except Exception as error:
            raise WrongSettingError(
                f"positions, called with a {type(dataset).__name__}, raised {reason(error)}; {allowed}"
            ) from error
    try:
        points = as_points(positions, length)
    except ValueError as error:
        raise WrongSettingError(f"positions {error}; {allowed}") from error
    except Exception as error:
        raise WrongSettingError(f"positions cannot be used ({reason(error)}); {allowed}") from error
    bad = np.flatnonzero(~np.isfinite(points).all(axis=(1, 2)))
    if bad.size:
        raise WrongSettingError(
            f"positions of {bad.size} of {length} samples are not finite (first: {bad[0]}); allowed: pixels. Correct "
            "them, or remove these samples from the dataset."
        )
    return points


def explicit_objects(object_index: Any, length: int) -> NDArray[np.int64]:  # noqa: ANN401
    """Return the (length,) object numbers that the user passed.

    Raises:
        WrongSettingError: They cannot be used.
    """
    try:
        numbers = to_array(object_index)
    except Exception as error:
        raise WrongSettingError(
            f"object_index cannot be used ({reason(error)}); allowed: {length} whole numbers, 0 for the first object."
        ) from error
    whole = numbers.astype(np.int64) if numbers.dtype.kind in "biuf" and np.isfinite(numbers).all() else None
    if numbers.shape != (length,) or whole is None or (whole != numbers).any() or (whole < 0).any():
        shown = np.unique(numbers)[:8].tolist()
        raise WrongSettingError(
            f"object_index has shape {numbers.shape} and values {shown}; allowed: ({length},), whole numbers from 0. "
            "Give the number of the object that each sample of the logged dataset shows."
        )
    return whole


def relative_positions(part: Part, count: int) -> Float64 | None:
    """Return the positions within each sample, (count, C, 2), (x, y), sign -(x - mean); None if absent."""
    for name in ("coords_relative", "coords_true", "coords_nominal"):
        if (value := part.read_container(name)) is not None:
            return as_points(value, count)
    return None


def with_channels(px: Float64, parts: Sequence[Part], channels: int | None) -> Float64:
    """Place the patches of each sample around its centre, if only centres are given and the dataset has the offsets."""
    if px.shape[1] != 1 or channels in (None, 1):
        return px
    try:
        relative = [relative_positions(part, len(part.innermost)) for part in parts]
        if any(one is None for one in relative):
            return px
        pieces = [one[part.indices] for part, one in zip(parts, relative, strict=True) if one is not None]
        return px - in_rows(parts, pieces)
    except Exception as error:  # user code: the number of patches is then reported as wrong
        raise_if_from_signal_handler(error)
        return px
