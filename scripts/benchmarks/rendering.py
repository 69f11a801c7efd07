"""Time to render one full-resolution image: palette PNG against a matplotlib figure of the same pixels.

    python scripts/benchmarks/rendering.py [--side-px 2048] [--repeats 5] [--json]

Both run in the same process, one after the other; the fastest repeat of each counts. The goal is a ratio of 20.
Compression dominates the palette PNG, and takes longer for noisier images.
"""

import argparse
import io
import itertools
import json
import time
from collections.abc import Callable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recon_worker.pictures.png import Panel, encode_png
from recon_worker.snapshot.array_types import Float32

DPI = 128
COLORMAPS = ("gray", "twilight")
"""Colour maps of amplitude and phase."""
NOISES = (0.0, 0.01, 0.05)
"""Standard deviations of the noise, relative to the fringes' amplitude."""


def fringes(side_px: int, noise: float) -> Float32:
    """(side, side) float32, fringes of amplitude 1 with Gaussian noise."""
    y, x = np.mgrid[:side_px, :side_px]
    grain = np.random.default_rng(0).normal(0, noise, (side_px, side_px))
    return np.asarray(np.sin(x / 37) * np.cos(y / 51) + grain, np.float32)


def palette_png(image: Float32, colormap: str) -> bytes:
    """Encode one element as one pixel."""
    return encode_png(Panel(values=image, value_range=(-1.2, 1.2), colormap=colormap, quantity="benchmark", unit="1"))


def figure_png(image: Float32, colormap: str) -> bytes:
    """Draw the same pixels in a figure without margins."""
    height, width = image.shape
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(image, cmap=colormap, vmin=-1.2, vmax=1.2)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def fastest(render: Callable[[], bytes], repeats: int) -> tuple[float, int]:
    """(seconds, size in bytes) of the fastest repeat."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        png = render()
        times.append(time.perf_counter() - start)
    return min(times), len(png)


def compare(image: Float32, colormap: str, repeats: int) -> dict[str, float]:
    """Measure both encoders on one image."""
    palette_s, palette_bytes = fastest(lambda: palette_png(image, colormap), repeats)
    figure_s, figure_bytes = fastest(lambda: figure_png(image, colormap), repeats)
    return {
        "palette_s": palette_s,
        "palette_mb": palette_bytes / 1e6,
        "figure_s": figure_s,
        "figure_mb": figure_bytes / 1e6,
        "ratio": figure_s / palette_s,
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side-px", type=int, default=2048, help="side of the square image")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the fastest counts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    results = [
        {"colormap": colormap, "noise": noise} | compare(fringes(args.side_px, noise), colormap, args.repeats)
        for colormap, noise in itertools.product(COLORMAPS, NOISES)
    ]
    if args.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{args.side_px} x {args.side_px} px")
    print("map      noise   palette s    MB   figure s    MB   ratio")
    row = (
        "{colormap:<8} {noise:5.2f} {palette_s:11.3f} {palette_mb:5.1f} {figure_s:10.3f} {figure_mb:5.1f} {ratio:7.1f}"
    )
    for result in results:
        print(row.format_map(result))


if __name__ == "__main__":
    main()
