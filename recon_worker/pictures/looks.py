"""How the pictures of an object look: colour maps and ranges of amplitude, phase and their errors.

Raw predictions share a range with the truth that holds both, and their phase has the whole turn, as it may be any.
Aligned predictions are shown in the range of the truth alone.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from recon_worker.pictures.colour_ranges import PREDICTION_MARGIN, Range, Scales, error_range, robust_range
from recon_worker.pictures.views import PHASE_PERIOD, Panel
from recon_worker.reconstruction.comparison import Comparison
from recon_worker.reconstruction.metrics import TRUTH_MARGIN
from recon_worker.snapshot.array_types import Bool, Complex64, Float32

_PHASE_RANGE_RAD = (-math.pi, math.pi)
_ERROR_SHARE = 0.5
"""The largest error with a colour of its own, in parts of what the truth spans."""
LEAST_ERROR = 1e-6
"""Smallest range of errors."""
_LEAST_PHASE_ERROR_RAD, _LEAST_PHASE_SPAN_RAD = 0.1, 0.2


@dataclass(frozen=True)
class _TruthRanges:
    """Colour ranges that come from the truth alone."""

    amp_aligned: Range
    phase_aligned: Range
    amp_error: Range
    phase_error: Range


class AlignedPanels(TypedDict, total=False):
    """Fields of a view that take the place of those of the raw prediction."""

    amp_pred: Panel
    amp_gt: Panel
    phase_pred: Panel
    phase_gt: Panel


@dataclass(frozen=True)
class Look:
    """Colour ranges of the pictures of an object."""

    amp: Range
    truth: _TruthRanges | None

    def panels(
        self, predicted: Complex64, scanned: Bool, truth: Complex64 | None, result: Comparison | None
    ) -> dict[str, Panel]:
        """Amplitude and phase of the prediction and, where there is one, the truth and the errors."""
        panels = {"amp_pred": _amp(predicted, scanned, self.amp), "phase_pred": _phase(predicted, scanned)}
        if truth is None or result is None or self.truth is None:
            return panels
        known = ~np.isnan(truth)
        panels |= {"amp_gt": _amp(truth, known, self.amp), "phase_gt": _phase(truth, known)}
        for kind, values, value_range, quantity, unit in (
            ("amp_error", result.amp_error, self.truth.amp_error, "amplitude", "1"),
            ("phase_error", result.phase_error_rad, self.truth.phase_error, "phase", "rad"),
        ):
            panels[kind] = Panel(
                values=values,
                value_range=value_range,
                colormap="inferno",
                quantity=f"object {quantity} error |pred - gt|, aligned",
                unit=unit,
                scanned=result.compared,
            )
        return panels

    def aligned_panels(self, scanned: Bool, truth: Complex64 | None, result: Comparison | None) -> AlignedPanels:
        """Prediction and truth to compare by eye, in place of the raw ones; nothing where there is no truth."""
        if truth is None or result is None or self.truth is None:
            return {}
        known, amp, phase = ~np.isnan(truth), self.truth.amp_aligned, self.truth.phase_aligned
        return {
            "amp_pred": _amp(result.aligned, scanned, amp, ", aligned"),
            "amp_gt": _amp(truth, known, amp),
            "phase_pred": _phase(result.aligned, scanned, phase, ", aligned"),
            "phase_gt": _phase(truth, known, phase),
        }


def _amp(values: Complex64, scanned: Bool, value_range: Range, how: str = "") -> Panel:
    return Panel(
        values=np.abs(values),
        value_range=value_range,
        colormap="gray",
        quantity=f"object amplitude{how}",
        unit="1",
        scanned=scanned,
    )


def _phase(values: Complex64, scanned: Bool, value_range: Range = _PHASE_RANGE_RAD, how: str = "") -> Panel:
    """Cyclic where the range is a whole turn; else the phases are those nearest to the middle of the range."""
    whole_turn, middle = value_range == _PHASE_RANGE_RAD, sum(value_range) / 2
    phase = np.angle(values) if whole_turn else middle + np.angle(values * np.exp(-1j * middle))
    return Panel(
        values=phase.astype(np.float32),
        value_range=value_range,
        colormap="twilight" if whole_turn else "viridis",
        quantity=f"object phase{how}",
        unit="rad",
        scanned=scanned,
        period=PHASE_PERIOD if whole_turn else None,
    )


def make_look(
    group: str,
    truths: Sequence[Complex64 | None],
    predicted: Callable[[], Sequence[Float32]],
    scales: Scales,
    *,
    trained: bool,
) -> Look:
    """The look of a group of pictures, which share their ranges: from its ground truth and first trained predictions.

    Args:
        group: Beginning of the names of its ranges.
        truths: Per object (H, W) complex64, NaN where unknown; None: there is none.
        predicted: Gives predicted amplitudes, (n,) each. Only asked for, like the truths, while a range is not fixed.
        scales: The run's ranges; those that are fixed now are added to it.
        trained: Whether the network has been trained at all; else its amplitudes fix no range.
    """
    known = [truth for truth in truths if truth is not None]

    @functools.cache
    def truth() -> Complex64:
        return np.concatenate([one[~np.isnan(one)] for one in known] or [np.empty(0, np.complex64)])

    amp = scales.range_of(f"{group}/amp", lambda: _amp_range(np.concatenate(predicted()), truth()), fix=trained)
    if not known:
        return Look(amp, None)

    def fixed(name: str, measure: Callable[[Complex64], Range]) -> Range:
        return scales.range_of(f"{group}/{name}", lambda: measure(truth()), fix=True)

    return Look(amp, _TruthRanges(**{name: fixed(name, measure) for name, measure in _OF_TRUTH.items()}))


def _amp_range(predicted: Float32, truth: Complex64) -> Range:
    """Holds the prediction, whose scale may be far from the truth's for long, and the truth if there is one."""
    low, high = robust_range(predicted, PREDICTION_MARGIN, floor=0)
    if not truth.size:
        return low, high
    true_low, true_high = _true_amp_range(truth)
    return min(low, true_low), max(high, true_high)


def _true_amp_range(truth: Complex64) -> Range:
    return robust_range(np.abs(truth), TRUTH_MARGIN, floor=0)


def _true_phase_range(truth: Complex64) -> Range:
    """About the mean, so that a weak phase has the whole colour map; -pi ... pi where it needs a whole turn."""
    mean, phase = _about_mean(truth)
    low, high = robust_range(phase, TRUTH_MARGIN)
    least = max(_LEAST_PHASE_SPAN_RAD - (high - low), 0) / 2
    low, high = mean + low - least, mean + high + least
    return (low, high) if high - low < PHASE_PERIOD else _PHASE_RANGE_RAD


def _about_mean(truth: Complex64) -> tuple[float, Float32]:
    """The mean phase, and the phases from it: it does not matter where the branch cut lies."""
    mean = float(np.angle(truth[np.isfinite(truth)].sum()))
    return mean, np.angle(truth * np.exp(-1j * mean))


def _amp_error_range(truth: Complex64) -> Range:
    low, high = robust_range(np.abs(truth), floor=0)
    return error_range(high - low, _ERROR_SHARE, LEAST_ERROR)


def _phase_error_range(truth: Complex64) -> Range:
    low, high = robust_range(_about_mean(truth)[1])
    return error_range(high - low, _ERROR_SHARE, _LEAST_PHASE_ERROR_RAD)


_OF_TRUTH = {
    "amp_aligned": _true_amp_range,
    "phase_aligned": _true_phase_range,
    "amp_error": _amp_error_range,
    "phase_error": _phase_error_range,
}
