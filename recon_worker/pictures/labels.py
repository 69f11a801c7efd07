"""Names of panels, and formats of epochs, metrics and numbers in pictures, gallery and run description."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal[
    "amp_pred",
    "amp_gt",
    "amp_error",
    "phase_pred",
    "phase_gt",
    "phase_error",
    "diff_obs_logI",
    "diff_pred_logI",
    "diff_error_logI",
    "misfit",
]
"""Kinds of panel, in display order; the file of a panel is `<kind>.png`."""
_MINUS = "\u2212"
_PREFIXES = ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm"))


@dataclass(frozen=True)
class MetricLabel:
    """Label and unit of a metric."""

    label: str
    unit: str = ""
    better: Literal["low", "high", ""] = ""
    """Better direction; empty: neither."""
    group: Literal["stitched", "patches", ""] = "stitched"
    """Whether MLflow has it for the stitched objects or as the mean over the patches; empty: both."""


METRICS: Mapping[str, MetricLabel] = {
    "phase_correlation": MetricLabel("phase correlation", "", "high"),
    "amp_correlation": MetricLabel("amplitude correlation", "", "high"),
    "amp_mae": MetricLabel("amplitude MAE", "", "low", ""),
    "phase_mae_rad": MetricLabel("phase MAE", "rad", "low", ""),
    "amp_psnr_db": MetricLabel("amplitude PSNR", "dB", "high"),
    "phase_psnr_db": MetricLabel("phase PSNR", "dB", "high"),
    "amp_ssim": MetricLabel("amplitude SSIM", "", "high"),
    "phase_ssim": MetricLabel("phase SSIM", "", "high"),
    "frc_cutoff_half": MetricLabel("FRC cut-off at 0.5", "cycles/px", "high"),
    "frc_resolution_half_px": MetricLabel("half-period resolution, FRC 0.5", "px", "low"),
    "frc_resolution_half_nm": MetricLabel("half-period resolution, FRC 0.5", "nm", "low"),
    "half_data_frc_cutoff": MetricLabel("half-data FRC cut-off, half-bit", "cycles/px", "high"),
    "half_data_frc_half_period_px": MetricLabel("half-data FRC, half period", "px", "low"),
    "half_data_frc_half_period_nm": MetricLabel("half-data FRC, half period", "nm", "low"),
    "r_factor": MetricLabel("R-factor", "", "low", "patches"),
    "mean_pattern_r_factor": MetricLabel("mean-pattern R-factor", group="patches"),
    "deviance": MetricLabel("deviance", "", "low", "patches"),
    "deviance_before": MetricLabel("deviance before refinement"),
    "mean_pattern_deviance": MetricLabel("mean-pattern deviance", group="patches"),
    "misfit_r_factor_median": MetricLabel("R-factor of all samples, median", "", "low"),
    "misfit_r_factor_p95": MetricLabel("R-factor, 95th percentile", "", "low"),
    "misfit_deviance_median": MetricLabel("deviance per photon, median", "", "low"),
    "misfit_deviance_p95": MetricLabel("deviance per photon, 95th perc.", "", "low"),
    "finite_share": MetricLabel("finite share", "", "high", ""),
    "coverage": MetricLabel("coverage"),
    "shift_x_px": MetricLabel("shift from the truth, x", "px"),
    "shift_y_px": MetricLabel("shift from the truth, y", "px"),
    "fit_scale": MetricLabel("fitted amplitude scale"),
    "fit_phase_rad": MetricLabel("fitted global phase", "rad"),
    "fit_ramp_x_rad_per_px": MetricLabel("fitted phase ramp, x", "rad/px"),
    "fit_ramp_y_rad_per_px": MetricLabel("fitted phase ramp, y", "rad/px"),
    "steep_ramp_x_rad_per_px": MetricLabel("phase ramp too steep to remove, x", "rad/px"),
    "steep_ramp_y_rad_per_px": MetricLabel("phase ramp too steep to remove, y", "rad/px"),
}
"""Known metrics, in display order."""
HALF_PERIODS = tuple(
    f"{name}_{unit}" for name in ("frc_resolution_half", "half_data_frc_half_period") for unit in ("px", "nm")
)
"""Metrics that state the resolution of the object, which an untrained network does not have."""


def object_folder(kind: str, number: int) -> str:
    """Return the folder of an object, such as `stitched` or, for further objects, `stitched_object_01`."""
    return kind if number == 0 else f"{kind}_object_{number:02d}"


def epoch_label(epoch: int) -> str:
    """Return the label of an epoch, such as "Epoch 5"; 0 is the untrained network."""
    return f"Epoch {epoch}" if epoch else "Epoch 0 (untrained)"


def metric_label(name: str) -> MetricLabel:
    """Return the label of a metric; outside `METRICS`, its name with spaces for underscores."""
    return METRICS.get(name, MetricLabel(name.replace("_", " "), group=""))


def metric_value(name: str, value: float) -> str:
    """Format a value with its unit, such as "0.12 rad"; "not defined" if it is not finite."""
    unit = metric_label(name).unit
    return number(value) + (f" {unit}" if unit else "") if math.isfinite(value) else "not defined"


def number(value: float, digits: int = 3) -> str:
    """Format with a few significant digits and a typographic minus, such as 0.0123, 12.3, 1.23e−07."""
    return f"{value:.{digits}g}".replace("-", _MINUS)


def range_label(value: float, value_range: tuple[float, float], unit: str) -> str:
    """Format a colour bar tick with the digits its range requires; multiples of pi / 8 rad as fractions of pi.

    >>> range_label(1.2, (0, 1.2), "1"), range_label(-math.pi / 2, (-math.pi, math.pi), "rad")
    ('1.2', '−π/2')
    """
    eighths = value / (math.pi / 8)
    if unit == "rad" and abs(eighths - round(eighths)) <= 1e-6 and 0 < abs(round(eighths)) <= 16:
        share = Fraction(round(eighths), 8)
        head = "π" if abs(share.numerator) == 1 else f"{abs(share.numerator)}π"
        tail = "" if share.denominator == 1 else f"/{share.denominator}"
        return (_MINUS if share < 0 else "") + head + tail
    span, largest = value_range[1] - value_range[0], max(map(abs, value_range))
    decimals = max(0, 2 - math.floor(math.log10(span)))
    if not 1e-3 <= largest < 1e5 or decimals > 6:
        return number(value, min(17, 3 + max(0, math.floor(math.log10(largest / span)))))
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text.replace("-", _MINUS)


def length_text(metres: float) -> str:
    """Format a length, such as 28 nm, 2.5 µm, 1 mm."""
    factor, unit = next((pair for pair in _PREFIXES if metres >= pair[0] * (1 - 1e-9)), _PREFIXES[-1])
    return f"{number(metres / factor)} {unit}"


def nice_length(longest_m: float) -> float:
    """Round a length down to 1, 2 or 5 times a power of ten, metres."""
    power = 10.0 ** math.floor(math.log10(longest_m) + 1e-9)
    return max(step * power for step in (1, 2, 5) if step * power <= longest_m * (1 + 1e-9))
