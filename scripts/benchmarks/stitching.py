"""Time and memory of stitching as a function of the number of stitched pixels.

    python scripts/benchmarks/stitching.py [--repeats 5] [--json]

Time is the median of the repeats. Memory is the peak allocation of stitching (canvas included), divided by the
canvas plus twice the patches; it must not exceed 1.
"""

import argparse
import itertools
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np

from recon_worker.reconstruction.stitching import Stitched, stitch
from recon_worker.snapshot.geometry import Geometry, GridGeometry, PositionGeometry

SAMPLES = (272, 545, 1089, 2178)
CROPS_PX = (16, 32, 64)
CANVAS_BYTES_PER_PX = 12
"""complex64 sum and float32 weight."""


def position_scan(n: int, m: int, rng: np.random.Generator) -> Geometry:
    """A random scan with typical overlap: one position per (m / 4)² pixels."""
    side = m / 4 * n**0.5
    return PositionGeometry(patch_px=2 * m, crop_px=m, positions_px=rng.uniform(0, side, (n, 1, 2)))


def grid_scan(n: int, m: int, rng: np.random.Generator) -> Geometry:
    """The largest square grid of at most n samples."""
    del rng
    return GridGeometry(patch_px=2 * m, outer_offset_px=2 * m, n_objects=1, n_samples=int(n**0.5) ** 2)


def peak_bytes(call: Callable[[], object]) -> int:
    """Peak of the memory allocated while `call` runs."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of `call`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(method: str, geometry: Geometry, rng: np.random.Generator, repeats: int) -> dict[str, object]:
    """Measure one row of the table."""
    n = geometry.n_samples if isinstance(geometry, GridGeometry) else len(geometry.positions_px)
    m = geometry.crop_px
    patches = rng.random((n, 1, m, m), np.float32).astype(np.complex64)

    def run() -> tuple[Stitched, ...]:
        return stitch(geometry, patches)

    (image,) = run()
    allowed = CANVAS_BYTES_PER_PX * image.coverage.size + 2 * patches.nbytes
    time_s = seconds(run, repeats)
    return {
        "method": method,
        "n": n,
        "m_px": m,
        "canvas_px": "x".join(map(str, image.object.shape)),
        "time_ms": 1e3 * time_s,
        "time_ns_per_patch_px": 1e9 * time_s / (n * m * m),
        "memory_over_allowed": peak_bytes(run) / allowed,
    }


def rows(repeats: int) -> Iterator[dict[str, object]]:
    """Measure every combination of method, samples and crop."""
    rng = np.random.default_rng(0)
    for (method, scan), m, n in itertools.product(
        (("positions", position_scan), ("grid", grid_scan)), CROPS_PX, SAMPLES
    ):
        yield measure(method, scan(n, m, rng), rng, repeats)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs per row; the median counts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    table = list(rows(args.repeats))
    if args.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{'method':<10} {'n':>5} {'m':>3} {'canvas':>11} {'ms':>8} {'ns / patch px':>14} {'memory / allowed':>17}")
    for row in table:
        print(
            f"{row['method']:<10} {row['n']:>5} {row['m_px']:>3} {row['canvas_px']:>11} {row['time_ms']:8.2f} "
            f"{row['time_ns_per_patch_px']:14.2f} {row['memory_over_allowed']:17.2f}"
        )


if __name__ == "__main__":
    main()
