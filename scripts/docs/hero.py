"""Compose the animation and the still of the front page from a logged training on the measured Siemens star.

python scripts/training/train.py --train_data_file siemens_star_n64.npz --test_data_file siemens_star_n64.npz --N 64 \
    --nepochs 16 --lr_schedule cosine --seed 0 --accelerator cpu --output_dir hero_output \
    --recon-log-every-n-epochs 1 --recon-log-stitch --recon-log-baseline --recon-log-arrays npz --recon-log-async
python scripts/docs/hero.py hero_output docs/pictures

The data are those of tike, Copyright (c) 2018, UChicago Argonne, LLC: see docs/tutorials/reading-the-gallery.md.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw
from scipy.spatial import KDTree

from recon_worker.pictures.colour_ranges import Range, true_ranges
from recon_worker.pictures.figures import amplitude_panel, phase_panel
from recon_worker.pictures.layout import GREY, Page, draw_panel
from recon_worker.pictures.png import LEVELS, Panel, palette
from recon_worker.reconstruction.comparison import Comparison, compare, quality
from recon_worker.snapshot.array_types import Complex64

_MARGIN, _GAP, _HEAD, _TITLE, _LARGE = 12, 12, 34, 22, 340
"""Pixels; `_LARGE` is the target side of a large picture, which has twice the side of a small one."""
_WHOLE = 0.97
_BLUE, _LINE = "#0b66b8", "#d5dbe1"
_EVERY = 6
"""Epoch after which every second one is shown: little changes, and the file stays small."""
_FIRST_MS, _FRAME_MS, _LAST_MS = 1200, 500, 4000


@dataclass(frozen=True)
class Epoch:
    """Prediction of one epoch, aligned with the reference; both are cropped to the compared area."""

    number: int
    predicted: Complex64
    reference: Complex64
    phase_correlation: float


def main(argv: Sequence[str] | None = None) -> int:
    """Write hero.gif and hero.png; exit code 0, or 2 if the run has logged no arrays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("training", type=Path, help="output directory of the training")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    arguments = parser.parse_args(argv)
    files = sorted(arguments.training.glob("mlruns/*/artifacts/epoch_*/stitched/arrays.npz"))
    if not files:
        print(f"error: {arguments.training} holds no arrays; train with --recon-log-arrays npz.", file=sys.stderr)
        return 2
    epochs = [_read(file) for file in files]
    ranges = true_ranges([epochs[-1].reference])
    shown = [i for i, epoch in enumerate(epochs) if epoch.number <= _EVERY or epoch.number % 2 == 0]
    frames = [_frame(epochs, i, ranges, 1) for i in sorted({*shown, len(epochs) - 1})]
    (arguments.output / "hero.gif").write_bytes(_animated(frames))
    _frame(epochs, len(epochs) - 1, ranges, 2).save(arguments.output / "hero.png", optimize=True)
    return 0


def _read(file: Path) -> Epoch:
    with np.load(file, allow_pickle=False) as arrays:
        predicted, reference, coverage = (arrays[name] for name in ("object", "ground_truth", "coverage"))
        number = int(arrays["epoch"])
    result = compare(predicted, reference, coverage, ramp=True)
    box = _box(result)
    correlation = quality(result, reference, None)["phase_correlation"]
    return Epoch(number, result.aligned[box], reference[box], correlation)


def _box(result: Comparison) -> tuple[slice, slice]:
    """Rows and columns of the compared area, without its rim."""
    shares = (result.compared.mean(axis=axis) for axis in (1, 0))
    rows, columns = (np.flatnonzero(share > _WHOLE * share.max()) for share in shares)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _frame(epochs: Sequence[Epoch], shown: int, ranges: dict[str, Range], scale: int) -> Image.Image:
    """Draw an epoch: phase, large, beside the reference; amplitude, small, above its reference; below, the curve."""
    page, epoch = Page(), epochs[shown]
    everywhere = np.ones(epoch.predicted.shape, bool)
    head = "Untrained network" if epoch.number == 0 else f"Epoch {epoch.number}"
    page.write(scale * _MARGIN, scale * 24, head, points=scale * 13, bold=True)
    x, y = _MARGIN, _HEAD + _TITLE
    for title, values in (("Phase, predicted", epoch.predicted), ("Phase, reference (ePIE)", epoch.reference)):
        panel = phase_panel(values, everywhere, ranges["phase_aligned"])
        width, height = _draw(page, panel, title, x, y, _LARGE, scale)
        x += width + _GAP
    top, right = y + height, x - _GAP
    for title, values in (("Amplitude, predicted", epoch.predicted), ("Amplitude, reference", epoch.reference)):
        panel = amplitude_panel(values, everywhere, ranges["amp_aligned"])
        width, height = _draw(page, panel, title, x, y, _LARGE // 2, scale)
        y += height + _TITLE
    bottom = y - _TITLE + _MARGIN // 2
    quality_text = f"phase correlation {epoch.phase_correlation:.3f}"
    page.write(scale * _MARGIN, scale * (top + 28), quality_text, points=scale * 9, bold=True)
    for value, height in (("1", top + 18), ("0", bottom - _MARGIN + 4)):
        page.write(scale * (_MARGIN + 184), scale * height, value, points=scale * 8, colour=GREY, align="right")
    image = Image.open(io.BytesIO(page.png(scale * (x + width + _MARGIN), scale * bottom))).convert("RGB")
    _draw_curve(image, epochs, shown, (_MARGIN + 192, top + 14, right, bottom - _MARGIN), scale)
    return image


def _draw_curve(
    image: Image.Image, epochs: Sequence[Epoch], shown: int, box: tuple[int, int, int, int], scale: int
) -> None:
    """Draw the phase correlation, from 0 to 1, up to the epoch shown, in a box (left, top, right, bottom)."""
    left, top, right, bottom = (scale * edge for edge in box)
    draw = ImageDraw.Draw(image)
    steps = np.linspace(left, right - 5 * scale, len(epochs))
    points = [
        (step, bottom - epoch.phase_correlation * (bottom - top)) for step, epoch in zip(steps, epochs, strict=True)
    ]
    for height in (top, bottom):
        draw.line([(left, height), (right, height)], fill=_LINE, width=scale)
    draw.line(points[: shown + 1], fill=_BLUE, width=2 * scale)
    x, y = points[shown]
    draw.ellipse([x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale], fill=_BLUE)


def _draw(page: Page, panel: Panel, title: str, x: int, y: int, side: int, scale: int) -> tuple[int, int]:
    """Draw a panel below its title; returns its width and height, unscaled."""
    page.write(scale * x, scale * (y - 7), title, points=scale * 9, bold=True)
    width, height = draw_panel(page, panel, scale * x, scale * y, scale * side, 2)
    return width // scale, height // scale


def _animated(frames: Sequence[Image.Image]) -> bytes:
    """GIF of frames in one palette: the colours of the phase, greys, and the blue of the curve."""
    colours = [palette("viridis")[np.linspace(0, LEVELS - 1, 100).astype(int)]]
    colours += [np.linspace(0, 255, 64).round().astype(np.uint8)[:, None].repeat(3, axis=1)]
    colours += [np.array([ImageColor.getrgb(_BLUE)], np.uint8)]
    shared = np.concatenate(colours)
    first, *others = (_in_palette(frame, shared) for frame in frames)
    durations = [_FIRST_MS, *[_FRAME_MS] * (len(frames) - 2), _LAST_MS]
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return stream.getvalue()


def _in_palette(frame: Image.Image, colours: NDArray[np.uint8]) -> Image.Image:
    """Replace each colour by the nearest of the palette; Pillow's own search misses white."""
    pixels = np.asarray(frame)
    found, entries = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    _, nearest = KDTree(colours.astype(float)).query(found)  # type: ignore[no-untyped-call]
    image = Image.fromarray(nearest.astype(np.uint8)[entries].reshape(pixels.shape[:2]))
    image.putpalette(colours.tobytes())
    return image


if __name__ == "__main__":
    raise SystemExit(main())
