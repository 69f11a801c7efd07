"""`LoggedObject` and `LoggedPatch`: one object or patch of one epoch, decoded from arrays or from pictures.

A picture holds 252 values between the ends of its range. A decoded value is within half a step of the logged one, the
stated precision, unless it is clipped: at an end of the range, the logged value may lie beyond.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recon_worker.pictures.arrays import ObjectArrays
from recon_worker.pictures.gallery.entry import GalleryEntry
from recon_worker.pictures.gallery.page import entries_of
from recon_worker.pictures.labels import Kind
from recon_worker.pictures.png import LEVELS, DecodedImage, to_indices
from recon_worker.snapshot.array_types import Bool, Complex64, Float32, Float64

_MAX_GALLERY_BYTES = 1 << 28
Pictures = Mapping[Kind, DecodedImage]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LoggedImage:
    """A predicted object or patch. Not aligned with the ground truth: its global phase and scale are arbitrary."""

    object: Complex64
    """(H, W) as predicted; phase in radians; 0 where not scanned."""
    scanned: Bool
    """(H, W) False where there is no data."""
    truth: Complex64 | None
    """(H, W) ground truth, NaN where unknown; None: no ground truth."""
    epoch: int | None
    """Completed epochs; None: unknown, as for a refined object."""
    step: int | None
    """Optimiser steps; None: unknown."""
    amp_precision: float = 0.0
    """Largest difference from a logged amplitude, of the truth too; 0: exact."""
    phase_precision_rad: float = 0.0
    """Largest difference from a logged phase, of the truth too; 0: exact."""
    clipped: Bool | None = None
    """(H, W) True where the amplitude may differ more: it is at an end of the range of its picture. None: exact."""
    truth_clipped: Bool | None = None
    """(H, W) the same for the truth."""

    @property
    def exact(self) -> bool:
        """Whether the values are the logged ones to the last bit; else they come from pictures."""
        return self.clipped is None

    @property
    def amplitude(self) -> Float32:
        """(H, W) amplitude, NaN where not scanned."""
        return self._shown(np.abs(self.object))

    @property
    def phase(self) -> Float32:
        """(H, W) phase in radians, -pi to pi, NaN where not scanned."""
        return self._shown(np.angle(self.object))

    def _shown(self, values: Float32) -> Float32:
        return np.where(self.scanned, values, np.float32(np.nan))

    def __repr__(self) -> str:
        height, width = self.object.shape
        facts = [f"{name} {value}" for name, value in self._place().items() if value is not None]
        facts += [f"{height} x {width} px", "no truth" if self.truth is None else "with truth", self.accuracy()]
        return f"<{type(self).__name__}: {', '.join(facts)}>"

    def accuracy(self) -> str:
        """Describe the precision in words."""
        if self.clipped is None:
            return "exact"
        amp, phase, clipped = self.amp_precision, self.phase_precision_rad, int(self.clipped.sum())
        return f"from pictures: amplitude ± {amp:.2g}, phase ± {phase:.2g} rad, {clipped} pixels clipped"

    def _place(self) -> dict[str, int | None]:
        return {"epoch": self.epoch, "step": self.step}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LoggedObject(LoggedImage):
    """A stitched object of one epoch."""

    pixel_size_m: float | None
    """Side of a pixel, metres; None: unknown."""
    coverage: Float32 | None = None
    """(H, W) summed weight of the patches; None: not logged, as only arrays hold it."""
    positions_px: Float64 | None = None
    """(n, 2) patch centres, (x, y), pixels from the first pixel; None: not logged."""
    samples: NDArray[np.int64] | None = None
    """(k,) dataset indices of all samples with a misfit; None: not logged, as only arrays hold them."""
    r_factor: Float32 | None = None
    """(k,) R-factors of their diffraction, NaN where a value is not finite."""
    deviance_per_photon: Float32 | None = None
    """(k,) Poisson deviances per photon of their diffraction, NaN where a value is not finite."""

    def aligned(self, *, ramp: bool = True) -> Self:
        """Return the object after the best fit to the truth, as summary and gallery show it.

        The fit removes what diffraction does not determine: global phase, amplitude scale and a linear phase ramp.

        Args:
            ramp: Whether to remove a ramp, as `remove_ramp` of the logging.

        Raises:
            ValueError: There is no truth.
        """
        from recon_worker.reconstruction.comparison import compare

        if self.truth is None:
            raise ValueError("this object has no ground truth to be aligned with.")
        coverage = self.scanned.astype(np.float32) if self.coverage is None else self.coverage
        with np.errstate(all="ignore"):  # as in logging
            result = compare(self.object, self.truth, coverage, ramp=ramp)
        precision = self.amp_precision * max(result.alignment.scale, 1.0)  # the truth is not scaled
        return replace(self, object=result.aligned, amp_precision=precision)

    def to_arrays(self) -> ObjectArrays:
        """Return the fields of `arrays.npz`; an object from pictures states its precision instead of the coverage."""
        pictures = {
            "scanned": self.scanned,
            "amp_precision": self.amp_precision,
            "phase_precision_rad": self.phase_precision_rad,
        }
        return ObjectArrays(
            object=self.object,
            coverage=self.coverage,
            ground_truth=self.truth,
            positions_px=self.positions_px,
            pixel_size_m=self.pixel_size_m,
            epoch=self.epoch,
            step=self.step,
            samples=self.samples,
            r_factor=self.r_factor,
            deviance_per_photon=self.deviance_per_photon,
            **({} if self.exact else pictures),  # type: ignore[arg-type]
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LoggedPatch(LoggedImage):
    """A sample patch of one epoch, and its diffraction. Amplitudes are in the network's units."""

    index: int
    """Dataset index of the sample."""
    observed_log_intensity: Float32 | None
    """(N, N) log(1 + measured amplitude squared), in the units of the data; None: not logged."""
    predicted_log_intensity: Float32 | None
    """(N, N) the same, predicted; values beyond the range of the measured ones are clipped. None: not logged."""
    log_intensity_precision: float
    """Largest difference from the logged value; 0 without diffraction."""

    def _place(self) -> dict[str, int | None]:
        return {"patch": self.index, **super()._place()}


def kinds_of(names: Collection[str]) -> list[Kind]:
    """Return the pictures to read from a folder with these files: prediction, truth and diffraction, if logged."""
    kinds: list[Kind] = ["amp_pred", "phase_pred"]
    if not {"amp_gt.png", "phase_gt.png"}.isdisjoint(names):
        kinds += ["amp_gt", "phase_gt"]
    diffraction: tuple[Kind, ...] = ("diff_obs_logI", "diff_pred_logI")
    return kinds + [kind for kind in diffraction if f"{kind}.png" in names]


def object_of_arrays(arrays: ObjectArrays) -> LoggedObject:
    """Return the object of a logged array file."""
    assert arrays.coverage is not None
    return LoggedObject(
        object=arrays.object,
        scanned=arrays.coverage > 0,
        truth=arrays.ground_truth,
        epoch=arrays.epoch,
        step=arrays.step,
        pixel_size_m=arrays.pixel_size_m,
        coverage=arrays.coverage,
        positions_px=arrays.positions_px,
        samples=arrays.samples,
        r_factor=arrays.r_factor,
        deviance_per_photon=arrays.deviance_per_photon,
    )


def object_of_pictures(
    pictures: Pictures, *, epoch: int | None, step: int | None, pixel_size_m: float | None
) -> LoggedObject:
    """Return an object from its pictures. Raises ValueError if they do not match."""
    object_, scanned, clipped = _complex(pictures, "pred")
    truth = _complex(pictures, "gt") if "amp_gt" in pictures else None
    if truth is not None and truth[0].shape != object_.shape:
        raise ValueError("amp_pred.png and amp_gt.png have different sizes")
    return LoggedObject(
        object=object_,
        scanned=scanned,
        truth=None if truth is None else np.where(truth[1], truth[0], np.complex64(complex(np.nan, np.nan))),
        epoch=epoch,
        step=step,
        amp_precision=precision(pictures["amp_pred"]),
        phase_precision_rad=precision(pictures["phase_pred"]),
        clipped=clipped,
        truth_clipped=None if truth is None else truth[2],
        pixel_size_m=pixel_size_m,
    )


def patch_of_pictures(pictures: Pictures, *, index: int, epoch: int, step: int | None) -> LoggedPatch:
    """Return a patch from its pictures. Raises ValueError if they do not match."""
    image = object_of_pictures(pictures, epoch=epoch, step=step, pixel_size_m=None)
    observed, predicted = pictures.get("diff_obs_logI"), pictures.get("diff_pred_logI")
    shown = observed or predicted
    values: Callable[[DecodedImage | None], Float32 | None]
    values = lambda one: None if one is None else one.values.astype(np.float32)  # noqa: E731
    return LoggedPatch(
        **{name: value for name, value in vars(image).items() if name in LoggedImage.__dataclass_fields__},
        index=index,
        observed_log_intensity=values(observed),
        predicted_log_intensity=values(predicted),
        log_intensity_precision=0.0 if shown is None else precision(shown),
    )


def precision(image: DecodedImage) -> float:
    """Return half a step of the values of a picture."""
    low, high = image.value_range
    return (high - low) / (2 * (LEVELS - 1))


def _complex(pictures: Pictures, kind: str) -> tuple[Complex64, Bool, Bool]:
    """Return the complex image of two pictures, 0 where not scanned; where it is scanned, and where it is clipped."""
    amp, phase = (pictures[f"{part}_{kind}"] for part in ("amp", "phase"))  # type: ignore[index]
    if not np.array_equal(amp.scanned, phase.scanned):
        raise ValueError(f"amp_{kind}.png and phase_{kind}.png do not show the same pixels")
    with np.errstate(all="ignore"):
        values = (amp.values * np.exp(1j * phase.values)).astype(np.complex64)
    indices = to_indices(amp)
    at_end = (indices == LEVELS - 1) | ((indices == 0) & (amp.value_range[0] > 0))  # no amplitude is below 0
    return np.where(amp.scanned, values, np.complex64(0)), amp.scanned, at_end & amp.scanned


def read_gallery(file: Path) -> list[GalleryEntry]:
    """Read the entries of a gallery. Raises ValueError if the file is not a gallery, damaged or impossibly large."""
    if file.stat().st_size > _MAX_GALLERY_BYTES:
        raise ValueError(f"it has {file.stat().st_size} bytes, more than any gallery")
    return entries_of(file.read_bytes())
