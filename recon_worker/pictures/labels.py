"""How numbers are written in pictures: colour bar ends, metrics, lengths."""

import math
from fractions import Fraction

from recon_worker.pictures.views import METRICS, MetricLabel

_MINUS = "\u2212"
_PREFIXES = ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm"))


def number(value: float, digits: int = 3) -> str:
    """A few significant digits, such as 0.0123, 12.3, 1.23e-07; with a true minus sign."""
    text = f"{value:.{digits}g}"
    return text.replace("-", _MINUS)


def range_label(value: float, value_range: tuple[float, float], unit: str) -> str:
    """A value of a colour bar with as many digits as its range needs; multiples of pi / 8 rad as such.

    >>> range_label(1.2, (0, 1.2), "1"), range_label(-math.pi / 2, (-math.pi, math.pi), "rad")
    ('1.2', '−π/2')
    """
    if unit == "rad" and (text := _fraction_of_pi(value)) is not None:
        return text
    span, largest = value_range[1] - value_range[0], max(map(abs, value_range))
    decimals = max(0, 2 - math.floor(math.log10(span)))
    if not 1e-3 <= largest < 1e5 or decimals > 6:
        return number(value, min(17, 3 + max(0, math.floor(math.log10(largest / span)))))
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text.replace("-", _MINUS)


def _fraction_of_pi(value: float) -> str | None:
    eighths = value / (math.pi / 8)
    if abs(eighths - round(eighths)) > 1e-6 or not 0 < abs(round(eighths)) <= 16:
        return None
    share = Fraction(round(eighths), 8)
    head = "π" if abs(share.numerator) == 1 else f"{abs(share.numerator)}π"
    tail = "" if share.denominator == 1 else f"/{share.denominator}"
    return (_MINUS if share < 0 else "") + head + tail


def metric_label(name: str) -> MetricLabel:
    """How a number is called; one that is not in `METRICS` has its own name."""
    return METRICS.get(name, MetricLabel(name.replace("_", " ")))


def metric_value(name: str, value: float) -> str:
    """Value and unit, such as "0.12 rad"."""
    unit = metric_label(name).unit
    return number(value) + (f" {unit}" if unit else "") if math.isfinite(value) else "not defined"


def length_text(metres: float) -> str:
    """Such as 28 nm, 2.5 µm, 1 mm."""
    factor, unit = next((pair for pair in _PREFIXES if metres >= pair[0] * (1 - 1e-9)), _PREFIXES[-1])
    return f"{number(metres / factor)} {unit}"


def nice_length(longest_m: float) -> float:
    """The largest length of the form 1, 2 or 5 times a power of ten that is not longer, metres."""
    power = 10.0 ** math.floor(math.log10(longest_m) + 1e-9)
    return max(step * power for step in (1, 2, 5) if step * power <= longest_m * (1 + 1e-9))
