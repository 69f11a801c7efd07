"""Finds the position of each sample in the object: on a grid, in the items, or in a container.

The sources differ in their conventions; the result has absolute patch centres, (x, y) = (column, row), in pixels:

    dataset.metadata            {N, gridsize, offset, outer_offset_test, nimgs_test} of a grid-lines test split
    coords_global of the items  (C, 1, 2), (x, y)
    container.global_offsets    (n, 1, 2, 1), (x, y): mean of a group; position = mean - coords_relative, (n, 1, 2, C)
    container.coords_offsets    (n, 1, 2, C), (y, x)
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recon_worker.capture.placement.nesting import Part, in_rows, scan_numbers, to_array
from recon_worker.capture.placement.positions import ItemPosition, Positions, as_points, relative_positions
from recon_worker.reconstruction.stitching import canvas_positions
from recon_worker.snapshot.array_types import Float64
from recon_worker.snapshot.geometry import Geometry, GridGeometry
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler

_POSITIONS_S = 120.0
"""Timeout for reading positions from the items; training waits meanwhile."""
_UNKNOWN = (
    "the dataset has neither grid metadata nor absolute positions (coords_global in its items, or global_offsets in "
    "its container); pass them as `positions`"
)


ReadPosition = Callable[[int], ItemPosition | None]


def find_positions(
    parts: Sequence[Part],
    count: int,
    n_px: int,
    channels: int | None,
    item_position: ReadPosition | None,
) -> Positions:
    """Return positions from the first source that has them.

    Raises:
        ValueError: None has usable ones. The message gives the reasons.
    """
    sources: dict[str, Callable[[], Positions | None]] = {
        "grid": lambda: _from_grid(parts, n_px, channels),
        "items": lambda: _from_items(parts, count, item_position),
        "global_offsets": lambda: _from_containers(parts, "global_offsets"),
        "coords_offsets": lambda: _from_containers(parts, "coords_offsets"),
    }
    reasons = dict[str, str]()
    for name, source in sources.items():
        if name == "coords_offsets" and "grid" in reasons:  # a training split: shuffled, unlike its coords_offsets
            break
        try:
            if (found := source()) is not None:
                return found
        except Exception as error:  # user code
            raise_if_from_signal_handler(error)
            of = parts[0].name if parts else "the dataset"
            unknown = f"the sample positions of {of} are unknown ({reason(error)})"
            reasons[name] = str(error).rstrip(".") if isinstance(error, ValueError) else unknown
    raise ValueError("; ".join(reasons.values()) or _UNKNOWN)


def own_geometry(dataset: Any) -> Positions | None:  # noqa: ANN401
    """Return the positions of a dataset's `scan_geometry`; None if it has neither that nor a `geometry_skip_reason`.

    Raises:
        ValueError: It cannot be used. The message gives the reason.
    """
    try:
        geometry, skip_reason = getattr(dataset, "scan_geometry", None), getattr(dataset, "geometry_skip_reason", None)
    except Exception as error:  # user code
        name = type(dataset).__name__
        raise ValueError(f"the sample positions of {name} are unknown ({reason(error)})") from error
    if geometry is None and skip_reason is None:
        return None
    if geometry is None:
        raise ValueError(str(skip_reason))
    if not isinstance(geometry, Geometry):
        raise ValueError(f"scan_geometry of {type(dataset).__name__} is a {type(geometry).__name__}")
    if isinstance(geometry, GridGeometry):
        px, grid = grid_positions(geometry), geometry
        numbers = np.arange(geometry.n_samples) // geometry.samples_per_axis**2
    else:
        px, grid = geometry.positions_px, None
        numbers = np.zeros(len(px), np.int64) if geometry.object_index is None else geometry.object_index
    return Positions(
        source="scan_geometry",
        px=px,
        object_id=numbers,
        stack_index=numbers,
        ids_known=True,
        grid=grid,
        geometry=geometry,
    )


def _from_items(parts: Sequence[Part], count: int, item_position: ReadPosition | None) -> Positions | None:
    """Read the positions of the first `count` items. Raises ValueError if that takes too long."""
    first = item_position(0) if item_position is not None else None
    if item_position is None or first is None:
        return None
    deadline, found = time.monotonic() + _POSITIONS_S, list[ItemPosition]()
    for index in range(count):
        if time.monotonic() > deadline:
            raise ValueError(
                f"only {index} of {count} sample positions were read within {_POSITIONS_S:g} s; "
                "stitch fewer (max_stitch_samples), or pass them as `positions`"
            )
        one = item_position(index)
        if one is None:
            raise ValueError(f"sample {index} has no coords_global, but sample 0 has")
        found.append(one)
    numbers = np.array([one.experiment for one in found], np.int64)
    px = np.array([one.position_px for one in found or [first]], np.float64)[:count]
    return Positions(source="coords_global", px=px, object_id=numbers, stack_index=numbers, ids_known=True)


def _from_containers(parts: Sequence[Part], name: str) -> Positions | None:
    """Read the positions of all samples from an array of their containers; one object per container."""
    arrays = [part.read_container(name) for part in parts]
    if all(one is None for one in arrays):
        return None
    numbers = scan_numbers(parts)
    pieces, object_id = list[Float64](), np.empty(sum(len(part.rows) for part in parts), np.int64)
    for part, array, number in zip(parts, arrays, numbers, strict=True):
        try:
            centres = as_points(array, len(part.innermost))
            relative = relative_positions(part, len(centres))
        except (TypeError, ValueError) as error:
            raise ValueError(f"container.{name} of {part.name} {error}, for {len(part.innermost)} samples") from error
        is_mean = not np.ptp(centres, axis=1).any()
        if name == "coords_offsets":
            centres = centres[..., ::-1]
            if len(np.unique(centres[:, 0], axis=0)) < len(centres):
                raise ValueError(
                    f"container.coords_offsets of {part.name} repeats positions, as with several objects, but does not "
                    "number the objects; give the dataset its grid as `metadata`, or pass the positions as `positions`"
                )
        if relative is not None and is_mean:
            centres = centres - relative
        pieces.append(centres[part.indices])
        object_id[part.rows] = number
    return Positions(
        source=f"container.{name}",
        px=in_rows(parts, pieces),
        object_id=object_id,
        stack_index=np.zeros_like(object_id),
    )


def _from_grid(parts: Sequence[Part], n_px: int, channels: int | None) -> Positions | None:
    """Compute the positions of all samples from the metadata of grid-lines test splits."""
    found = [_grid(part, n_px) for part in parts]
    grids = [grid for grid in found if grid is not None]
    if not grids:
        return None
    if len(grids) < len(parts):
        raise ValueError("only some of the combined datasets have grid metadata")
    numbers, pieces = scan_numbers(parts), list[Float64]()
    n_objects = [next(g.n_objects for g, k in zip(grids, numbers, strict=True) if k == i) for i in sorted({*numbers})]
    object_id = np.empty(sum(len(part.rows) for part in parts), np.int64)
    stack_index = np.empty_like(object_id)
    for part, grid, number in zip(parts, grids, numbers, strict=True):
        px = grid_positions(grid)
        if channels is not None and px.shape[1] != channels:
            raise ValueError(f"the metadata describes {px.shape[1]} patches per sample, the network {channels}")
        pieces.append(px[part.indices])
        stack_index[part.rows] = part.indices // (grid.n_samples // grid.n_objects)
        object_id[part.rows] = stack_index[part.rows] + sum(n_objects[:number])
    in_order = len(parts) == 1 and np.array_equal(parts[0].indices, np.arange(len(parts[0].indices)))
    return Positions(
        source="the grid metadata",
        px=in_rows(parts, pieces),
        object_id=object_id,
        stack_index=stack_index,
        ids_known=True,
        grid=grids[0],
        geometry=grids[0] if in_order else None,
    )


def grid_positions(grid: GridGeometry) -> Float64:
    """Return the patch centres of a grid scan in its objects, (n, C, 2), (x, y)."""
    row, column, _ = grid.footprint()
    centres = [canvas_positions(grid, i) + np.array([column, row]) for i in range(grid.n_objects)]
    return np.concatenate(centres).reshape(grid.n_samples, -1, 2)


def _grid(part: Part, n_px: int) -> GridGeometry | None:
    """Return the grid that the metadata of a dataset describe; None if they describe none.

    Raises:
        ValueError: The metadata contradict the data, for instance because they belong to another split.
    """
    metadata = part.read("metadata")
    metadata = part.read_container("metadata") if metadata is None else metadata
    names = ("N", "gridsize", "offset", "outer_offset_test", "nimgs_test", "size")
    number = {name: _number(metadata, name) for name in names}
    if number["outer_offset_test"] is None or number["nimgs_test"] is None:
        return None
    side, extent = number["gridsize"] or 1, ((number["gridsize"] or 1) - 1) * (number["offset"] or 0)
    n = len(part.innermost)
    if number["N"] not in (None, n_px):
        raise ValueError(
            f"the metadata of {part.name} are for patches of N = {number['N']} px, but they have {n_px} px"
        )
    grid = GridGeometry(
        patch_px=n_px,
        outer_offset_px=number["outer_offset_test"],
        n_objects=number["nimgs_test"],
        n_samples=n,
        group_extent_px=extent,
    )
    if side > 1:
        relative = relative_positions(part, n)
        if relative is None or relative.shape[1] != side**2:
            members = (number["offset"] or 0) * np.array([(c, r) for r in range(side) for c in range(side)], float)
            relative = np.broadcast_to(members.mean(axis=0) - members, (n, side**2, 2))
        grid = replace(grid, coords_relative_px=relative)
    _check_grid(part, grid, number["size"])
    return grid


def _check_grid(part: Part, grid: GridGeometry, size_px: int | None) -> None:
    """Compare a grid with the size of the object and with the positions in the container, where these exist."""
    described = f"the metadata of {part.name} describe {grid.samples_per_axis} x {grid.samples_per_axis} samples "
    advice = "only the test split of a grid-lines file can be stitched"
    tile = grid.tile_px
    if size_px is not None:
        fit = (size_px - grid.patch_px - grid.group_extent_px) // tile + 1
        if fit != grid.samples_per_axis:
            raise ValueError(f"{described}at a stride of {tile} px, but {fit} x {fit} fit into {size_px} px; {advice}")
    centres = grid_positions(grid).mean(axis=1)
    offsets = part.read_container("global_offsets")
    if offsets is not None:
        stated = as_points(offsets, grid.n_samples).mean(axis=1)
        if np.abs((stated - stated[0]) - (centres - centres[0])).max() > 1:
            raise ValueError(f"{described}on a grid, but its global_offsets are not on that grid")
    offsets = part.read_container("coords_offsets")
    if offsets is not None:
        places = np.unique(np.rint(as_points(offsets, grid.n_samples).mean(axis=1)[:, 0]))
        if len(places) > 1 and np.diff(places).min() != tile:
            step = np.diff(places).min()
            raise ValueError(f"{described}at a stride of {tile} px, but coords_offsets has {step:g} px; {advice}")


def _number(metadata: Any, name: str) -> int | None:  # noqa: ANN401
    """Return a whole number from metadata or their parts; None if absent or of another type."""
    if not isinstance(metadata, Mapping):
        return None
    groups = ("additional_parameters", "physics_parameters", "training_parameters")
    for group in (metadata, *(metadata.get(one) for one in groups)):
        value = group.get(name) if isinstance(group, Mapping) else None
        if value is None or isinstance(value, str):
            continue
        array = to_array(value)
        if array.size == 1 and float(array.item()).is_integer():
            return int(array.item())
    return None
