"""Layout of a sheet: text and pictures at pixel positions, with colour bars and scale bars.

Pictures are scaled by whole factors, by repeating pixels or averaging squares of pixels, without interpolation.
Matplotlib (Agg, without pyplot) sets the text; fonts and sizes do not depend on the user's Matplotlib settings.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recon_worker.pictures.figures import downsampled
from recon_worker.pictures.labels import length_text, nice_length, range_label
from recon_worker.pictures.png import LEVELS, Panel, encode_rgb, load_matplotlib, palette, to_indices

Align: TypeAlias = Literal["left", "center", "right"]

INK, GREY, WHITE = "#202020", "#5f5f5f", "#ffffff"
_DPI = 100
_BAR_PX, _BAR_GAP_PX, _LABEL_PX = 8, 6, 15
_TICK_POINTS, _TICK_GAP_PX = 8, 4
_RIGHT_OF_ANCHOR: Mapping[Align, float] = {"left": 1.0, "center": 0.5, "right": 0.0}
"""Share of a text's width to the right of its anchor."""
_NUMBER = re.compile(r"[0-9.\u2212]+")
"""Numbers change from epoch to epoch. Their characters do not touch and have no kerning, so each is drawn alone."""
_SCALE_BAR_GREY = 40
_DIMMED_CONTRAST = 0.4
"""Share of the colours that dimmed pixels keep; the rest is the white of the page."""
_LARGEST = 4 / 3
"""Factor by which a picture may exceed its target side before it is downsampled."""


@dataclass
class Page:
    """A white page of pictures and text. Positions are pixels from the top left corner, (x, y)."""

    width: int = field(default=0, init=False)
    """Right edge of the rightmost picture or text, pixels."""
    _pictures: list[tuple[int, int, NDArray[np.uint8]]] = field(default_factory=list, init=False)
    _words: list[tuple[float, float, "_Word"]] = field(default_factory=list, init=False)

    def paste(self, x: int, y: int, picture: NDArray[np.uint8]) -> None:
        """Place a picture, (H, W, 3) uint8 RGB, with its top left corner at (x, y)."""
        self._pictures.append((x, y, picture))
        self.width = max(self.width, x + picture.shape[1])

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        points: float = 9,
        colour: str = INK,
        align: Align = "left",
        bold: bool = False,
        background: str = WHITE,
    ) -> None:
        """Place one line of text with its baseline at y; 1 point is 1/72 of 100 px.

        `background` is the uniform colour behind the text.
        """
        left = x
        if align != "left":
            left -= text_width_px(text, points, bold=bold) * (1 - _RIGHT_OF_ANCHOR[align])
        for word in re.findall(r"\s+|\S+", text):
            for part in word if _NUMBER.fullmatch(word) else (word,):
                if not part.isspace():
                    self._words.append((left, y, _Word(part, points, bold, colour, background)))
                left += text_width_px(part, points, bold=bold)
        self.width = max(self.width, math.ceil(left))

    def png(self, width: int, height: int) -> bytes:
        """Draw the page as an RGB PNG; content beyond the edges is clipped."""
        canvas = np.full((height, width, 3), 255, np.uint8)
        for x, y, picture in self._pictures:
            _paste(canvas, x, y, picture)
        for left, baseline, word in self._words:
            (x_fraction, column), (y_fraction, row) = math.modf(left), math.modf(baseline)
            x, y, picture = _drawn(word, x_fraction, y_fraction)
            _paste(canvas, int(column) + x, int(row) + y, picture)
        return encode_rgb(canvas)


def _paste(canvas: NDArray[np.uint8], x: int, y: int, picture: NDArray[np.uint8]) -> None:
    """Copy a picture to (x, y), clipped at the edges of the canvas."""
    top, left = max(0, -y), max(0, -x)
    part = picture[top : max(0, canvas.shape[0] - y), left : max(0, canvas.shape[1] - x)]
    canvas[y + top :, x + left :][: part.shape[0], : part.shape[1]] = part


class _Word(NamedTuple):
    """A word and its style."""

    text: str
    points: float
    bold: bool
    colour: str
    background: str


@functools.lru_cache(maxsize=1024)
def _drawn(word: _Word, x_fraction: float, y_fraction: float) -> tuple[int, int, NDArray[np.uint8]]:
    """Draw a word, or a character of a number. The result is cached, because most sheets of a run share them.

    Uses only Matplotlib's renderer: the reference cycles of a Figure and its texts would keep 10 MB per page alive
    until the garbage collector runs.

    Args:
        word: The word.
        x_fraction: Fraction of a pixel by which the left end is shifted to the right.
        y_fraction: Fraction of a pixel by which the baseline is shifted downwards.

    Returns:
        (x, y, picture): the RGB pixels that differ from the background, and their place relative to the left end of the
        baseline.
    """
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.colors import to_rgb

    em_px = math.ceil(word.points * _DPI / 72)
    width = math.ceil(text_width_px(word.text, word.points, bold=word.bold)) + 2 * em_px
    renderer = RendererAgg(width, 3 * em_px, _DPI)  # type: ignore[no-untyped-call]
    pixels = np.asarray(renderer.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    pixels[:] = background = np.rint(255 * np.array(to_rgb(word.background))).astype(np.uint8)
    np.asarray(renderer.buffer_rgba())[..., 3] = 255  # type: ignore[no-untyped-call]
    style = renderer.new_gc()
    style.set_foreground(word.colour)
    font = _font(word.points, bold=word.bold)
    renderer.draw_text(style, em_px + x_fraction, 2 * em_px + y_fraction, word.text, font, 0)  # type: ignore[no-untyped-call]
    inked = (pixels != background).any(axis=-1)
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0, pixels[:0, :0].copy()
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return int(columns[0]) - em_px, int(rows[0]) - 2 * em_px, pixels[box].copy()


@functools.lru_cache(maxsize=4096)
def text_width_px(text: str, points: float, *, bold: bool = False) -> float:
    """Return the width of a line of text, pixels."""
    width_px, *_ = _measuring_renderer().get_text_width_height_descent(text, _font(points, bold=bold), False)
    return float(width_px)


@functools.cache
def _measuring_renderer() -> Any:  # noqa: ANN401
    load_matplotlib()
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, _DPI)  # type: ignore[no-untyped-call]


@functools.cache
def _font(points: float, *, bold: bool) -> Any:  # noqa: ANN401
    load_matplotlib()
    from matplotlib.font_manager import FontProperties

    return FontProperties(family="DejaVu Sans", size=points, weight="bold" if bold else "normal")


def draw_panel(
    page: Page,
    panel: Panel,
    x: int,
    y: int,
    side_px: int,
    n_ticks: int,
    *,
    pixel_size_m: float | None = None,
    compared: tuple[slice, slice] | None = None,
) -> tuple[int, int]:
    """Draw a panel with its colour bar.

    Args:
        page: The page.
        panel: Panel to draw.
        x: Left edge, pixels.
        y: Top edge, pixels.
        side_px: Target for the longer side, approximated by whole factors.
        n_ticks: Number of evenly spaced values below the colour bar, at least 2. A narrow picture shows only the ends.
        pixel_size_m: Side of a pixel of the panel in metres, for a scale bar; None: no scale bar.
        compared: Rows and columns of the panel to show as they are, the rest dimmed; None: all.

    Returns:
        (width, height) in pixels, including the colour bar and its values, which may be wider than the picture.
    """
    (block, factor), colours = drawing_scale(panel.values.shape, side_px), palette(panel.colormap)
    width, height = paste_panel(page, panel, x, y, side_px, compared)
    levels = np.linspace(0, LEVELS - 1, width).round().astype(int)
    page.paste(x, y + height + _BAR_GAP_PX, np.tile(colours[levels], (_BAR_PX, 1, 1)))
    baseline = y + height + _BAR_GAP_PX + _BAR_PX + _LABEL_PX
    total_width = _draw_ticks(page, _tick_labels(panel, n_ticks), x, baseline, width)
    if pixel_size_m is not None:
        page_px_per_m = factor / block / pixel_size_m
        _draw_scale_bar(page, x, y + height, nice_length(width / page_px_per_m / 4), page_px_per_m)
    return total_width, baseline - y + 4


def paste_panel(
    page: Page, panel: Panel, x: int, y: int, side_px: int, compared: tuple[slice, slice] | None = None
) -> tuple[int, int]:
    """Draw a panel without a colour bar; arguments as of `draw_panel`. Returns (width, height), pixels."""
    block, factor = drawing_scale(panel.values.shape, side_px)
    shown = palette(panel.colormap)[to_indices(downsampled(panel, block))]
    if compared is not None:
        inside = tuple(slice(one.start // block, -(-one.stop // block)) for one in compared)
        kept = shown[inside]
        shown = (255 - (255 - shown.astype(np.float32)) * _DIMMED_CONTRAST).astype(np.uint8)
        shown[inside] = kept
    picture = shown.repeat(factor, axis=0).repeat(factor, axis=1)
    page.paste(x, y, picture)
    return picture.shape[1], picture.shape[0]


def _draw_ticks(page: Page, labels: Sequence[str], x: int, baseline: float, width: int) -> int:
    """Write evenly spaced labels below a bar, only the outer ones if they do not all fit; returns their total width."""
    needed = sum(math.ceil(text_width_px(label, _TICK_POINTS)) + _TICK_GAP_PX for label in labels) - _TICK_GAP_PX
    if needed > width and len(labels) > 2:
        return _draw_ticks(page, [labels[0], labels[-1]], x, baseline, width)
    span = max(width, needed)
    for tick, text in enumerate(labels):
        align: Align = "left" if tick == 0 else "right" if tick == len(labels) - 1 else "center"
        place = x + span * tick / (len(labels) - 1)
        page.write(place, baseline, text, points=_TICK_POINTS, colour=GREY, align=align)
    return span


def _tick_labels(panel: Panel, count: int) -> list[str]:
    """Label the colour bar: ends that values exceed carry an inequality sign, the last label carries the unit."""
    low, high = panel.value_range
    labels = [range_label(value, panel.value_range, panel.unit) for value in np.linspace(low, high, count).tolist()]
    finite = np.isfinite(panel.values)
    shown = panel.values[finite if panel.scanned is None else finite & panel.scanned]
    tolerance = (high - low) / LEVELS
    if panel.period is None and (shown < low - tolerance).any():
        labels[0] = f"\u2264 {labels[0]}"
    if panel.period is None and (shown > high + tolerance).any():
        labels[-1] = f"\u2265 {labels[-1]}"
    labels[-1] += " rad" if panel.unit == "rad" else ""
    return labels


def _draw_scale_bar(page: Page, left: int, bottom: int, length_m: float, page_px_per_m: float) -> None:
    """Draw a white scale bar and its length in the lower left corner of a picture."""
    bar = np.full((4, max(1, round(length_m * page_px_per_m)), 3), 255, np.uint8)
    back = np.full((34, bar.shape[1] + 24, 3), _SCALE_BAR_GREY, np.uint8)
    page.paste(left + 8, bottom - 8 - back.shape[0], back)
    page.paste(left + 20, bottom - 16, bar)
    centre = left + 20 + bar.shape[1] / 2
    background = "#" + 3 * f"{_SCALE_BAR_GREY:02x}"
    text = length_text(length_m)
    page.write(centre, bottom - 22, text, points=8, colour=WHITE, align="center", background=background)


def drawing_scale(shape: tuple[int, ...], side_px: int) -> tuple[int, int]:
    """Return (block, factor): `draw_panel` averages squares of side `block` and draws each mean `factor` pixels large.

    The longer side of the picture, shape (H, W), is then closest to `side_px`, exceeding it by at most a third.
    """
    block = math.ceil(max(shape) / round(side_px * _LARGEST))
    return block, max(1, round(side_px / math.ceil(max(shape) / block)))
