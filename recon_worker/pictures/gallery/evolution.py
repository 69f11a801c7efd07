"""Evolution: an animated GIF of an object's amplitude and phase, one frame per epoch with thumbnails in the gallery.

All frames share one palette, so that equal values have equal colours throughout: greys for the amplitude, the cyclic
map for the phase, and the reserved colours.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recon_worker.pictures.complex_png import load_font
from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryFigure
from recon_worker.pictures.labels import epoch_label, range_label
from recon_worker.pictures.png import LEVELS, DecodedImage, palette, read_png, to_indices

SIDE_PX = 320
"""Target for the longer side of the pictures, approximated by whole factors."""
_INKS, _STEPS = 16, 118
"""Numbers of palette entries: shades of text, colours of each of the two maps. The reserved colours follow."""
_AMPLITUDE, _PHASE, _SPECIAL = _INKS, _INKS + _STEPS, _INKS + 2 * _STEPS
_MARGIN_PX, _HEAD_PX = 12, 58
_FRAME_MS, _ENDS_MS = 300, 1500
"""Duration of a frame, and of the first and the last."""


def evolution_gif(entries: Sequence[GalleryEntry], name: str = "stitched") -> bytes | None:
    """Animate an object.

    Args:
        entries: Gallery entries, in order of epochs.
        name: Name of the object's figure.

    Returns:
        The GIF; None if fewer than two epochs have pictures of the object. Deterministic.
    """
    frames = [
        _frame(entry, figure)
        for entry in entries
        for figure in entry.figures
        if figure.name == name and {"amp_pred", "phase_pred"} <= figure.thumbnails.keys()
    ]
    if len(frames) < 2:
        return None
    durations = [_ENDS_MS, *[_FRAME_MS] * (len(frames) - 2), _ENDS_MS]
    stream = io.BytesIO()
    first, *others = frames
    first.save(stream, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return stream.getvalue()


def _frame(entry: GalleryEntry, figure: GalleryFigure) -> Image.Image:
    """Draw one epoch: its label, and amplitude and phase side by side below their quantity and range."""
    amplitude, phase = (read_png(figure.thumbnails[kind].png) for kind in ("amp_pred", "phase_pred"))
    left, right = _picture(amplitude, _AMPLITUDE), _picture(phase, _PHASE)
    height, width = left.shape
    second = 2 * _MARGIN_PX + width
    page = np.full((_HEAD_PX + height + _MARGIN_PX, second + width + _MARGIN_PX), _INKS - 1, np.uint8)
    page[_HEAD_PX : _HEAD_PX + height, _MARGIN_PX : _MARGIN_PX + width] = left
    page[_HEAD_PX : _HEAD_PX + height, second : second + width] = right
    head = Image.new("L", (page.shape[1], _HEAD_PX), 255)
    draw = ImageDraw.Draw(head)
    draw.text((_MARGIN_PX, 6), epoch_label(entry.epoch), 30, load_font(17))
    for x, shown in ((_MARGIN_PX, amplitude), (second, phase)):
        low, high = (range_label(value, shown.value_range, shown.unit) for value in shown.value_range)
        unit = " rad" if shown.unit == "rad" else ""
        draw.text((x, _HEAD_PX - 5), f"{shown.quantity}, {low} \u2026 {high}{unit}", 90, load_font(12), anchor="ls")
    page[:_HEAD_PX] = (np.asarray(head, np.uint16) * (_INKS - 1) // 255).astype(np.uint8)
    image = Image.fromarray(page)
    image.putpalette(_palette(amplitude.colormap, phase.colormap).tobytes())
    return image


def _picture(decoded: DecodedImage, first: int) -> NDArray[np.uint8]:
    """Return the palette entries of an enlarged picture, (H, W); its colour map starts at entry `first`."""
    indices = to_indices(decoded).astype(int)
    entries = first + np.rint(indices * ((_STEPS - 1) / (LEVELS - 1))).astype(int)
    special = indices >= LEVELS
    entries[special] = _SPECIAL + indices[special] - LEVELS
    factor = max(1, round(SIDE_PX / max(entries.shape)))
    return entries.astype(np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)


def _palette(amplitude_map: str, phase_map: str) -> NDArray[np.uint8]:
    """Return the colours of all frames, (256, 3) uint8 RGB."""
    inks = np.linspace(0, 255, _INKS).round().astype(np.uint8)[:, None].repeat(3, axis=1)
    steps = np.linspace(0, LEVELS - 1, _STEPS).round().astype(int)
    amplitudes, phases = palette(amplitude_map), palette(phase_map)
    return np.concatenate([inks, amplitudes[steps], phases[steps], phases[LEVELS:]])
