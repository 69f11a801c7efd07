"""CPU time and memory of one event in the worker: 4 patches of 64 px, 330 x 330 px object stitched from 1089 patches.

    python scripts/benchmarks/worker_event.py [--epochs 200] [--arrays none|npz|h5] [--json]

Runs the worker's own functions for every epoch of a simulated training: render, write to the outbox, save the history,
upload to a fresh SQLite store. CPU time includes that of all threads and hardly depends on other programs.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from processes import process_status

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import is_file
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.snapshot.array_types import Complex64, Float64
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.upload.mlflow_sink import MlflowSink

N_PX, CROP_PX, STEP_PX, PER_AXIS, FIXED = 64, 32, 9.3125, 33, 4
FIRST_PX = 40.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one event."""

    epoch: int
    wall_s: float
    """Time to render and upload."""
    render_cpu_s: float
    upload_cpu_s: float
    gallery_bytes: int
    peak_bytes: int
    """Peak memory of the process so far."""
    parts_s: dict[str, float]
    """CPU time by kind of work."""


def true_object(side_px: int = 400) -> Complex64:
    """Edges and fine structure: amplitude 0.6 ... 1, phase 0 ... 1.2 rad."""
    y, x = np.mgrid[:side_px, :side_px]
    spokes = np.sin(18 * np.arctan2(y - side_px / 2, x - side_px / 2)) > 0
    rings = np.sin(np.hypot(y - 90, x - 60) / 7) > 0.2
    image: Complex64 = ((1 - 0.4 * rings) * np.exp(1.2j * spokes)).astype(np.complex64)
    return image


def centres() -> Float64:
    """(n, 1, 2) scan positions, (x, y), whole pixels."""
    line = np.round(FIRST_PX + STEP_PX * np.arange(PER_AXIS))
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 1, 2)


def make_scan(truth: Complex64, arrays_format: str) -> Scan:
    """The scan of the benchmark."""
    positions = centres()
    geometry = PositionGeometry(patch_px=N_PX, crop_px=CROP_PX, positions_px=positions)
    indices = tuple(range(0, len(positions), len(positions) // FIXED))[:FIXED]
    labels = np.stack([cut(truth, positions[i, 0], N_PX) for i in indices])
    return Scan(
        fixed_indices=indices,
        observed_diffraction=np.abs(np.fft.fftshift(np.fft.fft2(labels), axes=(1, 2))).astype(np.float32),
        label_amp=np.abs(labels),
        label_phase=np.angle(labels),
        geometry=geometry,
        ground_truth=(crop_to_footprint(geometry, truth),),
        pixel_size_m=25e-9,
        arrays_format=arrays_format,  # type: ignore[arg-type]
        description=True,
    )


def cut(image: Complex64, centre: Float64, side: int) -> Complex64:
    """Cut the patch around a whole-pixel position."""
    x, y = (int(c) - side // 2 for c in centre)
    return image[y : y + side, x : x + side]


def predict(scan: Scan, truth: Complex64, arrays: SnapshotArrays, epoch: int) -> None:
    """Fill in predictions that improve with the epoch: the truth, faded towards its mean, with noise."""
    rng = np.random.default_rng(epoch)
    share = 0.9 * np.exp(-epoch / 40)
    image = (1 - share) * truth + share * truth.mean()
    image = image + share * 0.3 * rng.normal(size=truth.shape)
    for row, index in enumerate(scan.fixed_indices):
        patch = cut(image, centres()[index, 0], N_PX)
        arrays.fixed_amp[row], arrays.fixed_phase[row] = np.abs(patch), np.angle(patch)
    arrays.fixed_diffraction[:] = scan.observed_diffraction * (1 + share)
    for row, centre in enumerate(centres()[:, 0]):
        patch = cut(image, centre, CROP_PX)
        arrays.stitch_amp[row, 0], arrays.stitch_phase[row, 0] = np.abs(patch), np.angle(patch)
    arrays.fixed_filled[:] = arrays.stitch_filled[:] = True


def event(scan: Scan, snapshot: Snapshot, history: History, outbox: Outbox) -> dict[str, float]:
    """Process a snapshot as the worker does; returns the CPU seconds per kind of work."""
    seconds: dict[str, float] = {}
    began = time.process_time()
    for made in render(scan, snapshot, history):
        if not isinstance(made, Artifact):
            raise RuntimeError(f"{made.path}: {made.reason}")
        outbox.put(made)
        now = time.process_time()
        kind = group_of(made.path)
        seconds[kind] = seconds.get(kind, 0) + now - began
        began = now
    outbox.keep_history(history.files())
    seconds["history"] = time.process_time() - began
    return seconds


def group_of(path: str) -> str:
    """Table row of an artifact; the time up to the object's first picture counts as stitching and metrics."""
    if path.endswith("stitched/amp_pred.png"):
        return "stitch, fit, metrics, first picture"
    if not is_file(path):
        return "cards, numbers, description"
    return path.rpartition("/")[2] if "/patch" not in path and "/stitched" not in path else "other pictures, arrays"


def upload(outbox: Outbox, sink: MlflowSink) -> dict[str, float]:
    """Empty the outbox; returns the CPU seconds per kind of artifact."""
    seconds: dict[str, float] = {}
    for name in list(outbox.artifacts()):
        began = time.process_time()
        version = outbox.version(name)
        assert version is not None
        sink.upload(outbox.local_path(name), name)
        outbox.remove(name, version)
        kind = "upload of " + ("files" if is_file(name) else name.partition("/")[0])
        seconds[kind] = seconds.get(kind, 0) + time.process_time() - began
    return seconds


def measure(epochs: int, arrays_format: str, folder: Path) -> Iterator[Row]:
    """Simulate a training run; yields the first two epochs and the last."""
    truth = true_object()
    scan = make_scan(truth, arrays_format)
    layout = SnapshotLayout(n_fixed=FIXED, patch_px=N_PX, n_stitch=PER_AXIS**2, crop_px=CROP_PX)
    arrays, history, outbox, sink = layout.allocate(), History(), Outbox(folder / "run"), make_sink(folder)
    for epoch in range(1, epochs + 1):
        predict(scan, truth, arrays, epoch)
        snapshot = Snapshot(
            epoch=epoch, step=69 * epoch, has_diffraction=True, created_unix_s=time.time(), stall_s=0, arrays=arrays
        )
        began = time.perf_counter()
        rendering = event(scan, snapshot, history, outbox)
        uploads = upload(outbox, sink)
        wall_s = time.perf_counter() - began
        if epoch in (1, 2, epochs):
            yield Row(
                epoch=epoch,
                wall_s=wall_s,
                render_cpu_s=sum(rendering.values()),
                upload_cpu_s=sum(uploads.values()),
                gallery_bytes=len(history.gallery()),
                peak_bytes=process_status(os.getpid())["VmHWM"],
                parts_s=rendering | uploads,
            )


def make_sink(folder: Path) -> MlflowSink:
    """Create a run in a new database; returns its sink."""
    import mlflow

    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("benchmark", artifact_location=(folder / "mlruns").as_uri())
    return MlflowSink(RunTarget(run_id=client.create_run(experiment).info.run_id, tracking_uri=uri))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="length of the training")
    parser.add_argument("--arrays", choices=["none", "npz", "h5"], default="h5", help="--recon-log-arrays")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(args.epochs, args.arrays, Path(folder)))
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("epoch   render, upload: CPU s    wall s   gallery MB   peak memory MB")
    for row in rows:
        print(
            f"{row.epoch:5d} {row.render_cpu_s:10.2f} + {row.upload_cpu_s:.2f} {row.wall_s:16.2f} "
            f"{row.gallery_bytes / 1e6:12.2f} {row.peak_bytes / 1e6:16.0f}"
        )
    for part, seconds in rows[-1].parts_s.items():
        print(f"  {part:<40} {1000 * seconds:6.0f} ms")


if __name__ == "__main__":
    main()
