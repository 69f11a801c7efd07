"""Places the samples of a dataset in the object: their geometry, the true object on its canvas, and true patches.

Arguments of the user take precedence; if they are wrong, they raise before the first step. If data found in the dataset
are unusable, the pictures that need them are skipped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon_worker.capture.errors import WrongSettingError
from recon_worker.capture.placement.ground_truth import (
    TrueObjects,
    TruePatches,
    assign,
    container_factor,
    container_truth,
    explicit_truth,
    own_truth,
    place_clipped,
)
from recon_worker.capture.placement.nesting import Part, flatten, number_scans
from recon_worker.capture.placement.plausibility import check_order, check_reach, check_unit
from recon_worker.capture.placement.positions import (
    ItemPosition,
    Positions,
    explicit_objects,
    explicit_positions,
    with_channels,
)
from recon_worker.capture.placement.sources import ReadPosition, find_positions, own_geometry
from recon_worker.capture.plan import ScanOptions
from recon_worker.reconstruction.stitching import crop_start_px, crop_to_footprint
from recon_worker.snapshot.array_types import Complex64, Float32
from recon_worker.snapshot.choices import StitchWeight
from recon_worker.snapshot.geometry import Geometry, PositionGeometry
from recon_worker.system.messages import message_log

_log = message_log(__name__)
_ODD = "patches of {0} x {0} px cannot be stitched, as their side is odd: crop or pad them by one pixel"
_LONGEST = 1 << 28
"""Maximum length of a dataset whose nesting is resolved; a longer one is not a scan."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the samples of a dataset lie in the object, and the true object."""

    geometry: Geometry | None
    """Placement of the stitched samples; None: no stitched pictures."""
    skip_reason: str = ""
    """Why there is no geometry."""
    ground_truth: tuple[Complex64 | None, ...] = ()
    """Per object: (H, W) true object on the stitched footprint, NaN where unknown; None: unknown."""
    true_patches: TruePatches | None = None
    """Cuts the true patches; None: they are unknown."""

    def true_patch(self, index: int) -> tuple[Float32, Float32] | None:
        """Return the true patch of channel 0 of a sample, cut from the true object; None if it is unknown.

        Args:
            index: Any sample of the dataset, stitched or not.

        Returns:
            Amplitude, in the network's units, and phase in radians, each (N, N).
        """
        return None if self.true_patches is None else self.true_patches(index)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Properties of the samples of a scan that determine their placement."""

    dataset: object | None
    """Map-style dataset; None: only what the user passes is known."""
    length: int
    """Number of samples of the dataset."""
    count: int
    """Number of leading samples to stitch."""
    n_px: int
    """Side N of a patch."""
    channels: int | None = None
    """Number of patches that the network predicts per sample; None: not compared with the positions."""
    item_position: ReadPosition | None = None
    """Reads the position in the item of a sample; None: items have no positions. May raise any exception."""
    probe_intensity: Float32 | None = None
    """(N, N) summed |probe|^2; None: unknown."""
    weight: StitchWeight = "probe"
    """Weight of overlapping patches."""


def place_samples(samples: Samples, options: ScanOptions) -> Placement:
    """Find the positions and the true objects of a dataset; those in the options take precedence.

    Raises:
        WrongSettingError: Positions, ground truth or object numbers in the options cannot be used.
    """
    passed = None if options.ground_truth is None else explicit_truth(options.ground_truth)
    dataset, length, n_px = samples.dataset, samples.length, samples.n_px
    numbers = None if options.object_index is None else explicit_objects(options.object_index, length)
    parts = () if dataset is None or length > _LONGEST else flatten(dataset, length)
    try:
        own = own_geometry(dataset) if options.positions is None else None
        if own is not None and own.geometry is not None and passed is None and numbers is None:
            return Placement(geometry=_weighted(own.geometry, samples.weight), ground_truth=own_truth(dataset))
        found = own or _positions(samples, options, parts)
        found = found if numbers is None else _renumbered(found, numbers)
        check_unit(found, samples.channels)
        objects, scale = _true_objects(parts, found, passed)
        check_reach(found, objects, n_px, explicit_truth=passed is not None)
        check_order(found, objects, parts, n_px)
    except WrongSettingError:
        raise
    except ValueError as error:
        return Placement(geometry=None, skip_reason=str(error).rstrip("."))
    patches = TruePatches(
        objects=objects,
        positions_px=found.px[:, 0],
        object_id=found.object_id,
        item_position=_later_items(found, numbers, samples.item_position),
        n_px=n_px,
        amplitude_scale=scale or (1.0 if found.geometry is None else found.geometry.amplitude_scale),
    )
    if n_px % 2:
        return Placement(geometry=None, skip_reason=_ODD.format(n_px), true_patches=patches)
    try:
        geometry, ids = _geometry(samples, found, scale)
    except WrongSettingError:
        raise
    except ValueError as error:
        return Placement(geometry=None, skip_reason=str(error).rstrip("."), true_patches=patches)
    truths = own_truth(dataset, geometry) if passed is None else ()
    truths = truths or _on_footprint(geometry, objects, ids)
    return Placement(geometry=_weighted(geometry, samples.weight), ground_truth=truths, true_patches=patches)


def _positions(samples: Samples, options: ScanOptions, parts: Sequence[Part]) -> Positions:
    """Return the positions that the user passes, else those that the dataset has.

    Raises:
        ValueError: There are no usable ones; a WrongSettingError if the user passed them.
    """
    if options.positions is None:
        return find_positions(parts, samples.count, samples.n_px, samples.channels, samples.item_position)
    px = explicit_positions(options.positions, samples.dataset, samples.length)
    scan = number_scans(parts, samples.length)
    return Positions(
        source="positions",
        px=with_channels(px, parts, samples.channels),
        object_id=scan,
        stack_index=0 * scan,
        explicit=True,
    )


def _renumbered(found: Positions, numbers: NDArray[np.int64]) -> Positions:
    """Return positions with the object number of each sample."""
    px = found.px[: len(numbers)]
    mine = numbers[: len(px)]
    return replace(found, px=px, object_id=mine, stack_index=mine, ids_known=True, geometry=None)


def _true_objects(
    parts: Sequence[Part], found: Positions, passed: TrueObjects | None
) -> tuple[dict[int, Complex64], float | None]:
    """Return the whole true objects by object number, and the factor from the network's amplitude to theirs."""
    if passed is not None:
        try:
            passed = place_clipped(passed, found.grid)
        except ValueError as error:
            raise WrongSettingError(f"{error}.") from error
        numbers = np.unique(found.object_id).tolist() or range(len(passed.objects))
        known = found.ids_known or len(numbers) > 1
        return assign(passed, [(i, i) for i in numbers], known=known), passed.amplitude_scale
    objects, scales = dict[int, Complex64](), list[float]()
    keys = dict.fromkeys(part.scan_key for part in parts)
    for key in keys:
        mine = [part for part in parts if part.scan_key == key]
        rows = np.concatenate([part.rows for part in mine])
        rows = rows[rows < len(found.px)]
        truth = container_truth(mine[0])
        try:
            truth = None if truth is None else place_clipped(truth, found.grid)
        except ValueError as error:
            _log.warning("The true object of %s is not used: %s.", mine[0].name, error)
            truth = None
        if truth is not None:
            pairs = sorted({*zip(found.object_id[rows].tolist(), found.stack_index[rows].tolist(), strict=True)})
            if not pairs and len(keys) == 1:
                pairs = [(i, i) for i in range(len(truth.objects))]
            objects = assign(truth, pairs, known=found.ids_known) | objects
        scale = None if truth is None else truth.amplitude_scale
        if scale is None and truth is None and found.grid is not None:
            scale = container_factor(mine[0])
        scales += [] if scale is None else [scale]
    return objects, scales[0] if scales else None


def _later_items(
    found: Positions, numbers: NDArray[np.int64] | None, item_position: ReadPosition | None
) -> ReadPosition | None:
    """Return a function that reads the position of a sample that is not stitched; None if not needed or possible."""
    if found.source != "coords_global" or item_position is None or numbers is None:
        return item_position if found.source == "coords_global" else None

    def renumbered(index: int) -> ItemPosition | None:
        one = item_position(index)
        return None if one is None else replace(one, experiment=int(numbers[index]))

    return renumbered


def _geometry(samples: Samples, found: Positions, scale: float | None) -> tuple[Geometry, list[int]]:
    """Return the geometry of the samples to stitch, and the number of each of its objects.

    Raises:
        ValueError: There is none, for the reason in the message; a WrongSettingError if the user passed the positions.
    """
    if found.geometry is not None:
        geometry = found.geometry if scale is None else replace(found.geometry, amplitude_scale=scale)
        return geometry, list(range(geometry.n_objects))
    if not samples.count:
        raise ValueError("no samples are to be stitched")
    n_px, probe = samples.n_px, samples.probe_intensity
    side = n_px // 4 * 2
    start = crop_start_px(n_px, side)
    if probe is not None and probe.shape == (n_px, n_px):
        probe = probe[start : start + side, start : start + side]
    ids, number = np.unique(found.object_id[: samples.count], return_inverse=True)
    try:
        placed = PositionGeometry(
            patch_px=n_px,
            crop_px=side,
            positions_px=found.px[: samples.count],
            object_index=number.astype(np.int64),
            probe_intensity=probe,
            amplitude_scale=scale or 1.0,
        )
        for i in range(len(ids)):
            placed.footprint(i)  # raises ValueError for positions in a wrong unit
    except ValueError as error:
        if found.explicit:
            raise WrongSettingError(f"positions cannot be used: {error}") from error
        raise
    return placed, ids.tolist()


def _on_footprint(
    geometry: Geometry, objects: Mapping[int, Complex64], ids: Sequence[int]
) -> tuple[Complex64 | None, ...]:
    """Crop the true objects to the stitched footprint."""
    cropped = (
        crop_to_footprint(geometry, objects[number], i) if number in objects else None for i, number in enumerate(ids)
    )
    return tuple(cropped) if objects else ()


def _weighted(geometry: Geometry, weight: StitchWeight) -> Geometry:
    """Return the geometry with a weight; with a warning, and equal weights, if the probe is unknown."""
    if not isinstance(geometry, PositionGeometry):
        return geometry
    try:
        return replace(geometry, weight=weight)
    except ValueError as error:
        _log.warning("Overlapping patches are averaged equally: %s", error)
        return replace(geometry, weight="uniform")
