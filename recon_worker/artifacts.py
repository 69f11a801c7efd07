"""From a snapshot to named artifacts: which pictures there are, what they show and what they are called.

    epoch_05/patch_272/{amp,phase}_pred.png  {amp,phase}_gt.png  {amp,phase}_error.png  diff_{obs,pred,error}_logI.png
    epoch_05/stitched/{amp,phase}_pred.png   {amp,phase}_gt.png  {amp,phase}_error.png        (..._object_01/, ...)

Ground truth and errors exist only where there is a real ground truth. The object is known up to a factor
(a global phase and an amplitude scale): errors are taken after the best factor is applied, predictions stay raw.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from recon_worker.alignment import comparable, fit, phase_error_rad
from recon_worker.rendering import encode_png, log_intensity, shared_range
from recon_worker.snapshot import Bool, Complex64, Float32, Scan, Snapshot
from recon_worker.stitching import stitch

_PHASE_RANGE_RAD = (-math.pi, math.pi)


@dataclass(frozen=True)
class Artifact:
    """A file to upload."""

    path: str
    """Relative path with forward slashes, such as epoch_05/stitched/amp_pred.png."""
    data: bytes


@dataclass(frozen=True)
class Failure:
    """An artifact, or a group of them, that could not be made."""

    path: str
    reason: str


@dataclass(frozen=True)
class _Picture:
    path: str
    encode: Callable[[], bytes]


def render(scan: Scan, snapshot: Snapshot) -> Iterator[Artifact | Failure]:
    """Make the artifacts of a snapshot, one after the other. What fails is reported, and the rest goes on."""
    root = f"epoch_{snapshot.epoch:0{scan.epoch_digits}d}"
    digits = max(2, len(str(max(scan.fixed_indices, default=0))))
    for row, index in enumerate(scan.fixed_indices):
        if snapshot.arrays.fixed_filled[row]:
            folder = f"{root}/patch_{index:0{digits}d}"
            yield from _attempt(folder, lambda row=row, folder=folder: _patch(scan, snapshot, row, folder))  # type: ignore[misc]
    if scan.geometry is not None:
        yield from _attempt(f"{root}/stitched", lambda: _stitched(scan, snapshot, f"{root}/stitched"))


def _attempt(folder: str, pictures: Callable[[], Iterator[_Picture]]) -> Iterator[Artifact | Failure]:
    try:  # NaN and infinity are shown, not warned about
        with np.errstate(all="ignore"):
            planned = list(pictures())
    except Exception as error:  # one group of pictures must not cost the others
        yield Failure(folder, f"{type(error).__name__}: {error}")
        return
    for picture in planned:
        try:
            with np.errstate(all="ignore"):
                made = Artifact(picture.path, picture.encode())
        except Exception as error:  # one picture must not cost the others
            yield Failure(picture.path, f"{type(error).__name__}: {error}")
        else:
            yield made


def _patch(scan: Scan, snapshot: Snapshot, row: int, folder: str) -> Iterator[_Picture]:
    arrays = snapshot.arrays
    predicted = (arrays.fixed_amp[row] * np.exp(1j * arrays.fixed_phase[row])).astype(np.complex64)
    seen = np.ones(predicted.shape, bool)
    truth = _label(scan, row)
    yield from _object_pictures(folder, predicted, truth, seen)
    observed = log_intensity(scan.observed_diffraction[row])
    if not snapshot.has_diffraction:
        yield _scalar(f"{folder}/diff_obs_logI.png", observed, shared_range(observed), "magma", *_DIFFRACTION)
        return
    diffraction = log_intensity(arrays.fixed_diffraction[row])
    shared = shared_range(observed, diffraction)
    error = np.abs(diffraction - observed)
    yield _scalar(f"{folder}/diff_obs_logI.png", observed, shared, "magma", *_DIFFRACTION)
    yield _scalar(f"{folder}/diff_pred_logI.png", diffraction, shared, "magma", *_DIFFRACTION)
    yield _scalar(f"{folder}/diff_error_logI.png", error, _from_zero(error), "inferno", *_DIFFRACTION_ERROR)


_DIFFRACTION = ("diffraction log(1 + intensity)", "log(1 + data amplitude squared)")
_DIFFRACTION_ERROR = ("diffraction error |pred - obs|", "log(1 + data amplitude squared)")


def _label(scan: Scan, row: int) -> Complex64 | None:
    if scan.label_amp is None or scan.label_phase is None or not scan.label_amp[row].any():
        return None
    label: Complex64 = (scan.label_amp[row] * np.exp(1j * scan.label_phase[row])).astype(np.complex64)
    return label


def _stitched(scan: Scan, snapshot: Snapshot, folder: str) -> Iterator[_Picture]:
    assert scan.geometry is not None
    arrays = snapshot.arrays
    for number, image in enumerate(stitch(scan.geometry, arrays.stitch_object(), arrays.stitch_filled)):
        truth = scan.ground_truth[number] if number < len(scan.ground_truth) else None
        name = folder if number == 0 else f"{folder}_object_{number:02d}"
        yield from _object_pictures(name, image.object, truth, image.scanned)


def _object_pictures(folder: str, predicted: Complex64, truth: Complex64 | None, scanned: Bool) -> Iterator[_Picture]:
    """Amplitude and phase of the prediction and, where there is one, the truth and the error."""
    amp, phase = np.abs(predicted), np.angle(predicted)
    amps = [amp[scanned]] if truth is None else [amp[scanned], np.abs(truth[scanned])]
    amp_range = shared_range(*amps)
    yield _scalar(f"{folder}/amp_pred.png", amp, amp_range, "gray", "object amplitude", "1", scanned)
    yield _scalar(f"{folder}/phase_pred.png", phase, _PHASE_RANGE_RAD, "twilight", "object phase", "rad", scanned)
    if truth is None:
        return
    known = ~np.isnan(truth)
    yield _scalar(f"{folder}/amp_gt.png", np.abs(truth), amp_range, "gray", "object amplitude", "1", known)
    yield _scalar(f"{folder}/phase_gt.png", np.angle(truth), _PHASE_RANGE_RAD, "twilight", "object phase", "rad", known)
    compared = scanned & comparable(predicted, truth)
    aligned = fit(predicted, truth, compared, ramp=False).apply(predicted)
    amp_error = np.where(compared, np.abs(np.abs(aligned) - np.abs(truth)), 0).astype(np.float32)
    phase_error = np.where(compared, np.abs(phase_error_rad(np.angle(aligned), np.angle(truth))), 0).astype(np.float32)
    for kind, error, unit in (("amp", amp_error, "1"), ("phase", phase_error, "rad")):
        quantity = f"object {'amplitude' if kind == 'amp' else 'phase'} error |pred - gt|, aligned"
        yield _scalar(f"{folder}/{kind}_error.png", error, _from_zero(error), "inferno", quantity, unit, compared)


def _from_zero(error: Float32) -> tuple[float, float]:
    return 0.0, max(shared_range(error)[1], np.finfo(np.float32).tiny.item())


def _scalar(
    path: str,
    values: Float32,
    value_range: tuple[float, float],
    colormap: str,
    quantity: str,
    unit: str,
    scanned: Bool | None = None,
) -> _Picture:
    return _Picture(
        path,
        lambda: encode_png(
            values, value_range=value_range, colormap=colormap, quantity=quantity, unit=unit, scanned=scanned
        ),
    )
