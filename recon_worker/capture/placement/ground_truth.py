"""Finds the true objects of a dataset: passed explicitly, or in its container; and cuts true patches from them.

A container, or an NPZ file, has `YY_full` or `objectGuess` (whole objects) or `YY_ground_truth` (the stitched area of
the first object of a grid), and `norm_Y_I`, the factor from the network's amplitude to theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon_worker.capture.errors import WrongSettingError
from recon_worker.capture.placement.nesting import Part, member, to_array
from recon_worker.capture.placement.positions import ItemPosition
from recon_worker.reconstruction.patches import cut_patch
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.snapshot.array_types import Complex64, Float32, Float64
from recon_worker.snapshot.geometry import Geometry, GridGeometry
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_NAMES = ("YY_full", "objectGuess", "YY_ground_truth")
_CLIPPED = "YY_ground_truth"
_ALLOWED = (
    "allowed: complex arrays, (H, W) or (K, H, W) for K objects, or an NPZ file with one of them. Give the true "
    "object on the pixel grid of the positions, as amplitude * exp(1j * phase)."
)


@dataclass(frozen=True, kw_only=True)
class TrueObjects:
    """The true objects of a scan."""

    source: str
    """Where they were found, for messages."""
    objects: tuple[Complex64 | None, ...]
    """(H, W) each, NaN where unknown."""
    explicit: bool = False
    """Whether the user passed them."""
    clipped: bool = False
    """Whether they show only the stitched area of a grid."""
    amplitude_scale: float | None = None
    """Factor from the network's amplitude to theirs; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class TruePatches:
    """Cuts the true patch of channel 0 of a sample."""

    objects: Mapping[int, Complex64]
    """Whole objects by their number."""
    positions_px: Float64
    """(k, 2), (x, y): patch centres of the leading samples."""
    object_id: NDArray[np.int64]
    """(k,) object number of each of these samples."""
    item_position: Callable[[int], ItemPosition | None] | None
    """Reads the position of any later sample; None: later positions are unknown."""
    n_px: int
    amplitude_scale: float

    def __call__(self, index: int) -> tuple[Float32, Float32] | None:
        """Return amplitude, in the network's units, and phase, each (N, N); None if unknown."""
        if index < len(self.positions_px):
            centre, number = self.positions_px[index], int(self.object_id[index])
        else:
            try:
                item = self.item_position(index) if self.item_position is not None else None
            except Exception as error:  # user code; reading the item for its pattern reports the failure
                raise_if_from_signal_handler(error)
                item = None
            if item is None:
                return None
            centre, number = np.asarray(item.position_px, np.float64)[0], item.experiment
        if number not in self.objects or not np.isfinite(centre).all():
            return None
        patch = cut_patch(self.objects[number], centre, self.n_px)
        if patch is None or not np.isfinite(patch).all():
            return None
        return (np.abs(patch) / self.amplitude_scale).astype(np.float32), np.angle(patch)


def object_stack(value: Any) -> tuple[Complex64, ...]:  # noqa: ANN401
    """Return the objects of an array with any axes of length 1, or of a sequence of arrays; none if all are zero.

    Raises:
        TypeError: The value does not hold numbers.
        ValueError: It is not complex, has another shape, or is nowhere finite.
    """
    if isinstance(value, (list, tuple)):
        return tuple(one for entry in value for one in object_stack(entry))
    array = to_array(value)
    stack = array
    while stack.ndim > 2 and stack.shape[-1] == 1:
        stack = stack[..., 0]
    while stack.ndim > 3 and stack.shape[0] == 1:
        stack = stack[0]
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim != 3 or not stack.size:
        raise ValueError(f"has shape {array.shape}")
    if stack.dtype.kind != "c":
        raise ValueError(f"is real ({array.dtype}), without a phase")
    with np.errstate(over="ignore"):
        stack = stack.astype(np.complex64)
    finite = np.isfinite(stack)
    if not finite.any(axis=(1, 2)).all():
        raise ValueError("is nowhere finite")
    if not stack.any():
        return ()
    return tuple(np.where(finite, stack, np.complex64(np.nan + 1j * np.nan)))


def explicit_truth(ground_truth: Any) -> TrueObjects:  # noqa: ANN401
    """Return the true objects that the user passed, as arrays or as the path of an NPZ file.

    Raises:
        WrongSettingError: They cannot be used.
    """
    found = "ground_truth"
    try:
        if isinstance(ground_truth, (str, PathLike)):
            found = f"ground_truth {ground_truth}"
            truth = _read_file(ground_truth)
        else:
            truth = TrueObjects(source="", objects=object_stack(ground_truth))
        if not truth.objects:
            raise ValueError("is zero everywhere")
    except ValueError as error:
        raise WrongSettingError(f"{found} {error}; {_ALLOWED}") from error
    except Exception as error:
        raise WrongSettingError(f"{found} cannot be used ({reason(error)}); {_ALLOWED}") from error
    return replace(truth, source=f"{found} ({truth.source})" if truth.source else found, explicit=True)


def container_truth(part: Part) -> TrueObjects | None:
    """Return the true objects in the container of a dataset, or in the dataset; None, with a warning, if unusable."""
    try:
        container = part.read("container")
        return _read_truth(lambda name: part.read(name) if container is None else member(container, name))
    except Exception as error:  # user code
        raise_if_from_signal_handler(error)
        text = str(error) if type(error) is ValueError else f"cannot be used ({reason(error)})"
        _log.warning("The true object of %s %s: pictures are logged without it.", part.name, text)
        return None


def container_factor(part: Part) -> float | None:
    """Return `norm_Y_I` of a container without a true object; None if absent or unusable."""
    try:
        return _amplitude_factor(part.read_container("norm_Y_I"))
    except Exception as error:  # user code
        raise_if_from_signal_handler(error)
        return None


def own_truth(dataset: Any, geometry: Geometry | None = None) -> tuple[Complex64 | None, ...]:  # noqa: ANN401
    """Return the objects of a dataset's `ground_truth`; empty if there are none or, with a warning, if unusable.

    With a geometry, whole objects are cropped to its footprint.
    """
    try:
        truth = tuple(getattr(dataset, "ground_truth", ()))
        for one in truth:
            if one is not None and (not isinstance(one, np.ndarray) or one.ndim != 2):
                raise TypeError(f"(H, W) arrays are expected, one is a {type(one).__name__}")
        if geometry is not None:
            truth = tuple(
                one if one is None or one.shape == geometry.footprint(i)[2] else crop_to_footprint(geometry, one, i)
                for i, one in enumerate(truth[: geometry.n_objects])
            )
    except Exception as error:  # user code
        raise_if_from_signal_handler(error)
        _log.warning("ground_truth of %s cannot be used (%s): stitched objects are logged without it.",
            type(dataset).__name__, reason(error),
        )  # fmt: skip
        return ()
    return truth


def assign(truth: TrueObjects, numbers: Sequence[tuple[int, int]], *, known: bool) -> dict[int, Complex64]:
    """Assign true objects to object numbers.

    Args:
        truth: The true objects of a scan.
        numbers: Distinct (number of an object, index of its truth).
        known: Whether the samples state which object they show.

    Raises:
        WrongSettingError: Explicit true objects do not match the objects of the samples.
    """
    count, problem = len(truth.objects), ""
    if len(numbers) == 1 and count == 1:
        numbers = [(numbers[0][0], 0)]
    elif not known and count > 1:
        problem = (
            f"{truth.source} holds {count} objects, but the samples do not say which one they show; allowed: one "
            "object, or the number of the object of every sample (object_index)."
        )
        numbers = []
    elif any(index >= count for _, index in numbers):
        problem = (
            f"{truth.source} holds {count} object{'s' * (count > 1)}, but the samples show object "
            f"{max(index for _, index in numbers)}; allowed: numbers 0 to {count - 1}. Add the true objects, or number "
            "the objects from 0 (object_index)."
        )
    if problem and truth.explicit:
        raise WrongSettingError(problem)
    if problem and not truth.clipped:  # a clipped truth always shows only the first object
        _log.warning("Ground truth is incomplete: %s", problem)
    pairs = [(number, truth.objects[index]) for number, index in numbers if index < count]
    return {number: one for number, one in pairs if one is not None}


def place_clipped(truth: TrueObjects, grid: GridGeometry | None) -> TrueObjects:
    """Extend true objects that show only the stitched area of a grid to whole objects, NaN where unknown.

    Raises:
        ValueError: There is no grid, or it has another size.
    """
    shape = None if grid is None else grid.footprint()[2]
    shapes = [one.shape for one in truth.objects if one is not None]
    if grid is None or (truth.clipped and any(one != shape for one in shapes)):
        if truth.clipped:
            wanted = "no grid is known" if grid is None else f"the grid's stitched area has {shape}"
            raise ValueError(
                f"{truth.source} has shape {shapes[0]}, but {wanted}; give the whole object or the grid's metadata"
            )
        return truth
    return replace(
        truth,
        objects=tuple(_extended(one, grid) if one is not None and one.shape == shape else one for one in truth.objects),
    )


def _amplitude_factor(value: Any, objects: Sequence[Complex64 | None] = ()) -> float | None:  # noqa: ANN401
    """Return `norm_Y_I`; None if it is not a positive number of the order of the amplitude of the true objects."""
    if value is None or to_array(value).size != 1:
        return None
    factor = float(to_array(value).item())
    amplitude = np.abs(objects[0]) if objects and objects[0] is not None else np.array([factor])
    low, high = np.nanmean(amplitude) / 2, 2 * np.nanmax(amplitude)
    return factor if np.isfinite(factor) and factor > 0 and low <= factor <= high else None


def _extended(clipped: Complex64, grid: GridGeometry) -> Complex64:
    row, column, (height, width) = grid.footprint()
    side = grid.patch_px + grid.group_extent_px + (grid.samples_per_axis - 1) * grid.tile_px
    whole = np.full((side, side), np.nan + 1j * np.nan, np.complex64)
    whole[row : row + height, column : column + width] = clipped
    return whole


def _read_truth(read: Callable[[str], Any]) -> TrueObjects | None:
    """Return the first of the named truths that is neither absent nor zero everywhere."""
    for name in _NAMES:
        value = read(name)
        if value is None:
            continue
        try:
            objects = object_stack(value)
        except ValueError as error:
            raise ValueError(f"({name}) {error}") from error
        if objects:
            return TrueObjects(
                source=name,
                objects=objects,
                clipped=name == _CLIPPED,
                amplitude_scale=_amplitude_factor(read("norm_Y_I"), objects),
            )
    return None


def _read_file(path: "str | PathLike[str]") -> TrueObjects:
    """Read an NPY file, or an NPZ file with one of the known keys or a single array. Pickles are refused."""
    with Path(path).open("rb") as file:  # np.load leaves a damaged file open
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            return TrueObjects(source="", objects=object_stack(archive))
        keys = list(archive)
        found = _read_truth(lambda name: archive[name] if name in keys else None)
        if found is None and len(keys) == 1:
            found = TrueObjects(source="", objects=object_stack(archive[keys[0]]))
        if found is None:
            raise ValueError(f"has the keys {', '.join(keys)}, none of them a true object ({', '.join(_NAMES)})")
        return found
