"""Normalisation: colour ranges, fixed once per run so that pictures of different epochs are comparable.

Ranges are measured on the data known before training (ground truth, measured patterns), otherwise on the first logged
epoch of the trained network. They are stored in `recon_log/scales.json` and survive restarts and resumed runs.

Raw predictions and ground truth share one amplitude range; their phase range is a full turn, because the phase offset
is arbitrary. Aligned predictions use the range of the truth alone.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from recon_worker.reconstruction.diffraction_metrics import mean_pattern, r_factor
from recon_worker.reconstruction.metrics import TRUTH_MARGIN, robust_limits
from recon_worker.snapshot.array_types import Complex64, Float32
from recon_worker.snapshot.records import Scan

Range = tuple[float, float]

PHASE_RANGE_RAD: Range = (-math.pi, math.pi)
PREDICTION_MARGIN = 0.25
"""As `TRUTH_MARGIN`, for ranges measured on a prediction, which changes during training."""
_SMALLEST_SPAN = 0.05
"""Minimum width of a range, as a fraction of its largest magnitude; prevents amplified noise in flat pictures."""
_ERROR_SHARE = 0.5
"""Upper end of an error range, as a fraction of the truth's span; of the misfit, of the mean pattern's R-factor."""
LEAST_ERROR, _LEAST_PHASE_ERROR_RAD, _LEAST_PHASE_SPAN_RAD = 1e-6, 0.1, 0.2
_TRUE_RANGES = ("amp_aligned", "phase_aligned", "amp_error", "phase_error")
_VERSION = 1


@dataclass(eq=False)
class ColourRanges:
    """The colour ranges of a run."""

    ranges: dict[str, Range] = field(default_factory=dict)
    """Fixed ranges by name, such as "stitched/amp"."""

    def range_of(self, name: str, measure: Callable[[], Range]) -> Range:
        """Return the fixed range; measure and fix it on first use."""
        if name not in self.ranges:
            self.ranges[name] = measure()
        return self.ranges[name]

    def to_json(self) -> str:
        """Serialise the ranges as indented JSON, for `from_json` and for human readers."""
        ranges = {name: {"min": low, "max": high} for name, (low, high) in sorted(self.ranges.items())}
        return json.dumps({"version": _VERSION, "ranges": ranges}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ColourRanges":
        """Parse the output of `to_json`.

        Raises:
            ValueError: The structure or version is unknown, or a range is invalid.
        """
        try:
            document = json.loads(text)
            version = document["version"]
            ranges = {str(k): (float(v["min"]), float(v["max"])) for k, v in document["ranges"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a valid scales.json: {type(error).__name__}: {error}") from error
        if version != _VERSION or not all(low < high and math.isfinite(high - low) for low, high in ranges.values()):
            raise ValueError(
                f"scales.json has version {version!r} (supported: {_VERSION}) or contains an invalid range."
            )
        return cls(ranges)


def object_ranges(
    group: str,
    truths: Sequence[Complex64 | None],
    amplitudes: Callable[[], Sequence[Float32]],
    colour_ranges: ColourRanges,
    *,
    trained: bool,
) -> dict[str, Range]:
    """Return the colour ranges shared by a group of objects or patches.

    Args:
        group: Prefix of the names in `colour_ranges`.
        truths: Ground truth of each object, any shape, complex64, NaN where unknown; None: no ground truth.
        amplitudes: Returns the predicted amplitudes, (n,) each; called only until their range is fixed.
        colour_ranges: The run's ranges; new ones are added.
        trained: Whether the network has been trained; an untrained network fixes no amplitude range.

    Returns:
        "amp"; with a ground truth also "amp_aligned", "phase_aligned", "amp_error" and "phase_error".
    """
    known = [truth for truth in truths if truth is not None]
    names = ("amp", *(_TRUE_RANGES if known else ()))
    missing = [name for name in names if f"{group}/{name}" not in colour_ranges.ranges]
    measured: dict[str, Range] = {}
    if known and missing:
        measured = true_ranges(known)
    if "amp" in missing:
        low, high = robust_range(np.concatenate(amplitudes()), PREDICTION_MARGIN, floor=0)
        if not all(np.isnan(truth).all() for truth in known):
            # Cover both: early predictions are scaled differently from the truth.
            true_low, true_high = measured["amp_aligned"]
            low, high = min(low, true_low), max(high, true_high)
        measured["amp"] = low, high
    colour_ranges.ranges |= {f"{group}/{name}": measured[name] for name in missing if trained or name != "amp"}
    return {name: colour_ranges.ranges.get(f"{group}/{name}") or measured[name] for name in names}


def true_ranges(truths: Sequence[Complex64]) -> dict[str, Range]:
    """Measure the ranges of `object_ranges` that depend on the truth alone.

    Args:
        truths: At least one ground truth, any shape, complex64, NaN where unknown.
    """
    truth = np.concatenate([one[~np.isnan(one)] for one in truths])
    amp = np.abs(truth)
    # Centre on the mean phase to avoid the branch cut, so that a weak phase uses the whole colour map.
    mean = float(np.angle(truth[np.isfinite(truth)].sum()))
    phase = np.angle(truth * np.exp(-1j * mean))
    low, high = robust_range(phase, TRUTH_MARGIN)
    least = max(_LEAST_PHASE_SPAN_RAD - (high - low), 0) / 2
    low, high = mean + low - least, mean + high + least
    amp_low, amp_high = robust_range(amp, floor=0)
    phase_low, phase_high = robust_range(phase)
    return {
        "amp_aligned": robust_range(amp, TRUTH_MARGIN, floor=0),
        "phase_aligned": (low, high) if high - low < 2 * math.pi else PHASE_RANGE_RAD,
        "amp_error": (0.0, max(_ERROR_SHARE * (amp_high - amp_low), LEAST_ERROR)),
        "phase_error": (0.0, max(_ERROR_SHARE * (phase_high - phase_low), _LEAST_PHASE_ERROR_RAD)),
    }


def misfit_range(scan: Scan, misfit: Float32, colour_ranges: ColourRanges, *, trained: bool) -> Range:
    """Return the range of the misfit map: 0 to half the R-factor of the mean pattern; if unknown, measured on `misfit`.

    Args:
        scan: Holds the measured patterns, of which there may be too few for a mean.
        misfit: (n, 2) R-factors of the predicted patterns, and deviances.
        colour_ranges: The run's ranges; a new one is added.
        trained: Whether the network has been trained. One that is untrained, or predicts no finite value, fixes no
            range.
    """
    name = "stitched/misfit"
    if name in colour_ranges.ranges:
        return colour_ranges.ranges[name]
    observed = scan.observed_diffraction
    mean = None if observed is None else mean_pattern(observed)
    baseline = 0.0 if mean is None or observed is None else max(r_factor(mean, one) for one in observed)
    if baseline > 0:
        return colour_ranges.range_of(name, lambda: (0.0, _ERROR_SHARE * baseline))
    high = robust_range(misfit[:, 0], PREDICTION_MARGIN)[1]
    fixes = trained and np.isfinite(misfit[:, 0]).any()
    return colour_ranges.range_of(name, lambda: (0.0, high)) if fixes else (0.0, high)


def log_intensity(amplitude: Float32) -> Float32:
    """Return log(1 + amplitude^2), which compresses the orders of magnitude that diffraction spans."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.log1p(np.square(np.asarray(amplitude, np.float32)))


def robust_range(values: ArrayLike, margin: float = 0.0, *, floor: float = -math.inf) -> Range:
    """Return percentiles 0.5 and 99.5 of the finite values, widened by a margin.

    Args:
        values: Any shape, real. Without finite values the result is (0, 1).
        margin: Widening on each side, as a fraction of the distance between the percentiles.
        floor: Lower bound of the range; 0 for amplitudes.
    """
    low, high = robust_limits(values)
    if math.isnan(low):
        return 0.0, 1.0
    least = _SMALLEST_SPAN * max(abs(low), abs(high)) or 1.0
    widen = max(margin * (high - low), (least - (high - low)) / 2, 0.0)
    lowest = float(max(low - widen, floor))
    return lowest, max(high + widen, lowest + least)


def shared_range(*arrays: ArrayLike) -> Range:
    """Return the smallest and largest finite value of all arrays.

    Returns (0, 1) without finite values. A constant v yields (v, v + max(1, |v|)), drawn in the first colour.
    """
    finite = [values[np.isfinite(values)] for values in map(np.asarray, arrays)]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=1.0)
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))
