"""A picture on a page: enlarged by a whole factor, with its colour bar and, if wanted, a scale bar."""

import numpy as np
from numpy.typing import NDArray

from recon_worker.pictures.labels import length_text, nice_length, range_label
from recon_worker.pictures.page import GREY, WHITE, Align, Page
from recon_worker.pictures.png import LEVELS, palette, to_indices
from recon_worker.pictures.resizing import block_to_fit, enlarged, factor_to_fill, shrunk
from recon_worker.pictures.views import Panel

_BAR_PX, _BAR_GAP_PX, _LABEL_PX = 8, 6, 15
_MOST = 4 / 3
"""Pictures may be larger than wished by this factor before they are averaged down."""


def plate_block(panel: Panel, side_px: int) -> int:
    """The side of the squares that a plate averages, pixels; 1: it shows every pixel."""
    return block_to_fit(panel.values.shape, round(side_px * _MOST))


def plate_shape(panel: Panel, side_px: int) -> tuple[int, int]:
    """(height, width) of the picture on the page, pixels."""
    block = plate_block(panel, side_px)
    rows, columns = (-(-side // block) for side in panel.values.shape)
    factor = factor_to_fill((rows, columns), side_px)
    return rows * factor, columns * factor


def draw_plate(page: Page, panel: Panel, x: int, y: int, side_px: int, n_labels: int) -> tuple[int, int]:
    """Put a picture on a page.

    Args:
        page: The page.
        panel: The picture.
        x: Left edge, pixels.
        y: Top edge, pixels.
        side_px: What its longer side comes close to, by whole factors.
        n_labels: Values written below the colour bar, evenly spread; at least 2, its ends.

    Returns:
        (width, height) in pixels, colour bar and values included.
    """
    height, width = plate_shape(panel, side_px)
    small = shrunk(panel, plate_block(panel, side_px))
    indices = to_indices(small.values, value_range=panel.value_range, scanned=small.scanned)
    colours = palette(panel.colormap)
    page.paste(x, y, enlarged(colours[indices], height // len(indices)))
    levels = np.linspace(0, LEVELS - 1, width).round().astype(int)
    page.paste(x, y + height + _BAR_GAP_PX, np.tile(colours[levels], (_BAR_PX, 1, 1)))
    baseline = y + height + _BAR_GAP_PX + _BAR_PX + _LABEL_PX
    for place, text in enumerate(_labels(panel, n_labels)):
        align: Align = "left" if place == 0 else "right" if place == n_labels - 1 else "center"
        page.write(x + width * place / (n_labels - 1), baseline, text, points=8, colour=GREY, align=align)
    return width, baseline - y + 4


def _labels(panel: Panel, count: int) -> list[str]:
    """Values along the colour bar; an end that values lie beyond says so, the last one has the unit."""
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


def draw_scale_bar(page: Page, panel: Panel, x: int, y: int, side_px: int, pixel_size_m: float) -> None:
    """A white bar with its length, in the lower left corner of the picture that was drawn with the same arguments."""
    height, width = plate_shape(panel, side_px)
    columns = -(-panel.values.shape[1] // plate_block(panel, side_px))
    page_px_per_m = width / columns / plate_block(panel, side_px) / pixel_size_m
    length_m = nice_length(width / page_px_per_m / 4)
    bottom = y + height
    bar = np.full((4, max(1, round(length_m * page_px_per_m)), 3), 255, np.uint8)
    back = np.full((34, bar.shape[1] + 24, 3), 40, np.uint8)
    page.paste(x + 8, bottom - 8 - back.shape[0], back)
    page.paste(x + 20, bottom - 16, bar)
    page.write(x + 20 + bar.shape[1] / 2, bottom - 22, length_text(length_m), points=8, colour=WHITE, align="center")


def shown_entries(panel: Panel) -> NDArray[np.uint8]:
    """Palette entries from LEVELS on that a picture shows: what is not a value."""
    entries = np.unique(to_indices(panel.values, value_range=panel.value_range, scanned=panel.scanned))
    return entries[entries >= LEVELS]
