"""Colour ranges that are fixed once per run, so that the pictures of all its epochs can be compared.

A range comes from what is known before training (ground truth, measured patterns) or, where nothing is, from the first
logged epoch of the trained network. It is kept in `recon_log/scales.json`, across restarts and resumed runs.
"""

import json
import math
from collections.abc import Callable, Mapping

from numpy.typing import ArrayLike

from recon_worker.reconstruction.metrics import robust_limits

Range = tuple[float, float]

PREDICTION_MARGIN = 0.25
"""As `TRUTH_MARGIN`, where nothing but a prediction is known, which still changes."""
_SMALLEST_SPAN = 0.05
"""Least width of a range, in parts of its largest value: a flat picture must not turn into noise."""
_VERSION = 1


class Scales:
    """The fixed ranges of a run, by a name such as "stitched/amp"."""

    def __init__(self, ranges: Mapping[str, Range] | None = None) -> None:
        self._ranges = dict(ranges or {})

    def range_of(self, name: str, measure: Callable[[], Range], *, fix: bool) -> Range:
        """The fixed range; where there is none yet, the measured one, which is fixed now if `fix`."""
        if name in self._ranges:
            return self._ranges[name]
        measured = measure()
        if fix:
            self._ranges[name] = measured
        return measured

    def to_json(self) -> str:
        """For `from_json`, and for people."""
        ranges = {name: {"min": low, "max": high} for name, (low, high) in sorted(self._ranges.items())}
        return json.dumps({"version": _VERSION, "ranges": ranges}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Scales":
        """What `to_json` wrote.

        Raises:
            ValueError: The text is something else.
        """
        try:
            document = json.loads(text)
            version = document["version"]
            ranges = {str(k): (float(v["min"]), float(v["max"])) for k, v in document["ranges"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no scales.json: {type(error).__name__}: {error}") from error
        if version != _VERSION or not all(low < high and math.isfinite(high - low) for low, high in ranges.values()):
            raise ValueError(f"this scales.json has version {version!r} (known: {_VERSION}) or a range that is none.")
        return cls(ranges)


def robust_range(values: ArrayLike, margin: float = 0.0, *, floor: float = -math.inf) -> Range:
    """Percentiles of the finite values, widened by a margin.

    Args:
        values: any shape, real. (0, 1) comes back if none is finite.
        margin: Widening on each side, in parts of the distance of the percentiles.
        floor: The range does not go below; 0 for amplitudes.
    """
    low, high = robust_limits(values)
    if math.isnan(low):
        return 0.0, 1.0
    least = _SMALLEST_SPAN * max(abs(low), abs(high)) or 1.0
    widen = max(margin * (high - low), (least - (high - low)) / 2, 0.0)
    lowest = float(max(low - widen, floor))
    return lowest, max(high + widen, lowest + least)


def error_range(truth_span: float, share: float, least: float) -> Range:
    """(0, largest error that has a colour of its own): a share of what the truth spans, at least `least`."""
    return 0.0, max(share * truth_span, least)
