"""Growth of the worker's memory while it renders many small events and uploads them to MLflow on SQLite.

    python scripts/benchmarks/worker_memory.py [--events 500]

Every few events, once all of them are in MLflow, prints the anonymous memory of the worker and of the training process,
as counted by the kernel, and the size of the gallery, whose pictures the worker keeps in memory. The last line shows
the growth of both over the second half, in which the gallery has reached its limit.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np

from recon_worker.client.recon_worker import ReconWorker
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.run_target import RunTarget

N_PX, CROP_PX, STEP_PX, PER_AXIS, FIXED = 64, 32, 9.3, 6, 2
SAMPLES = PER_AXIS**2
FLUSH_S = 600.0


def make_scan() -> Scan:
    """A raster of positions over an object of random values."""
    rng = np.random.default_rng(0)
    line = N_PX / 2 + 4 + STEP_PX * np.arange(PER_AXIS)
    geometry = PositionGeometry(
        patch_px=N_PX, crop_px=CROP_PX, positions_px=np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 1, 2)
    )
    side = int(line[-1]) + N_PX
    true = (rng.uniform(0.5, 1, (side, side)) * np.exp(1j * rng.uniform(-1, 1, (side, side)))).astype(np.complex64)
    patches = rng.uniform(0.1, 1, (3, FIXED, N_PX, N_PX)).astype(np.float32)
    return Scan(
        fixed_indices=tuple(range(FIXED)),
        observed_diffraction=patches[0],
        label_amp=patches[1],
        label_phase=patches[2],
        geometry=geometry,
        ground_truth=(crop_to_footprint(geometry, true),),
    )


def fill(arrays: SnapshotArrays, epoch: int) -> None:
    """Fill in random predictions that differ between epochs, so that no two pictures are equal."""
    rng, stitched = np.random.default_rng(epoch), (arrays.stitch_amp, arrays.stitch_phase)
    for values in (arrays.fixed_amp, arrays.fixed_phase, arrays.fixed_diffraction, *stitched):
        values[...] = rng.uniform(0.1, 1, values.shape)
    arrays.fixed_filled[:] = arrays.stitch_filled[:] = True


def log(worker: ReconWorker, layout: SnapshotLayout, epoch: int) -> None:
    """Submit a snapshot."""
    arrays, now_s = worker.acquire(layout), time.time()
    fill(arrays, epoch)
    worker.submit(
        Snapshot(epoch=epoch, step=epoch, arrays=arrays, has_diffraction=True, created_unix_s=now_s, stall_s=0.0)
    )


def anonymous_mib(pid: int | str) -> float:
    """Anonymous memory of a process, without files; shared pages count in proportion."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss_Anon:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def measure(events: int, every: int) -> list[tuple[int, float, float]]:
    """(events, MiB of the worker, MiB of this process) every few events."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        client = mlflow.MlflowClient(uri)
        experiment = client.create_experiment("memory", artifact_location=Path(folder, "artifacts").as_uri())
        target = RunTarget(run_id=client.create_run(experiment).info.run_id, tracking_uri=uri)
        scan = make_scan()
        layout = SnapshotLayout(n_fixed=FIXED, patch_px=N_PX, n_stitch=SAMPLES, channels=1, crop_px=CROP_PX)
        settings = WorkerSettings(spool_dir=Path(folder, "spool"), overflow="block", flush_timeout_s=FLUSH_S)
        with ReconWorker(settings) as worker:
            worker.start(target, scan, layout)
            for epoch in range(1, events + 1):
                log(worker, layout, epoch)
                if epoch % every == 0 and worker.flush(FLUSH_S):
                    gallery = Path(folder, "spool", target.run_id, "history", "gallery.html").stat().st_size / 2**20
                    rows.append((epoch, anonymous_mib(worker.pid), anonymous_mib("self")))
                    print(f"| {epoch:6} | {rows[-1][1]:10.1f} | {rows[-1][2]:12.1f} | {gallery:11.2f} |", flush=True)
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=25, help="events between two rows (default: %(default)s)")
    arguments = parser.parse_args()
    print("| events | worker MiB | training MiB | gallery MiB |\n|---|---|---|---|")
    rows = measure(arguments.events, arguments.every)
    half = [row for row in rows if row[0] >= arguments.events / 2]
    print(f"\nFrom event {half[0][0]} to {half[-1][0]}: worker {half[-1][1] - half[0][1]:+.1f} MiB, ", end="")
    print(f"training {half[-1][2] - half[0][2]:+.1f} MiB.")


if __name__ == "__main__":
    main()
