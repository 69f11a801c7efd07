"""Time and memory of large fields: up to 40 000 patches of 128 px and an object of 4096 x 4096 px. Linux only.

    python scripts/benchmarks/large_field.py [--quick] [--queue-gib 1] [--tiles-from 2048] [--json]

Predictions are cut out of a known object in batches of 16 and copied into the snapshot as the callback does. A real
worker process stitches, compares, draws and uploads to a fresh SQLite store. Each size runs in a separate process.
Times are those of the second of two events, and of the first event's copy, which goes to cold memory. Own memory is the
peak of anonymous memory: the increase in the training process, the total in the worker. Mapped memory (slots, files) is
listed separately: the processes share it, or the system can write it out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from processes import cpu_s_of

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from recon_worker.client.recon_worker import ReconWorker
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.array_types import Complex64, Float32
from recon_worker.snapshot.choices import TILES_FROM_PX
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.run_target import RunTarget

N_PX, CROP_PX, BATCH, EVENTS, FIXED = 128, 64, 16, 2, 4
SIZES = {1024: 50, 2048: 100, 4096: 200}
"""Side of the object: patches along it."""
QUICK_SIZES = {256: 12, 512: 25}
FLUSH_S, TOLERANCE = 280.0, 1e-5
_KINDS = ("RssAnon", "RssFile", "RssShmem")


@dataclass(kw_only=True)
class Row:
    """Figures of one object size."""

    side_px: int
    patches: int
    snapshot_mib: float
    where: str
    """Storage of the waiting snapshot: memory or file."""
    first_copy_s: float
    copy_s: float
    submit_ms: float
    event_s: float
    """From submit to the last artifact in the store."""
    us_per_patch: float
    worker_cpu_s: float
    """Processor time of the worker from the start of the second event to its end."""
    files: int
    """Uploaded files of the second event; with tiles, they are most of it."""
    files_mib: float
    trainer_mib: float
    trainer_mapped_mib: float
    worker_mib: float
    worker_mapped_mib: float


class PeakMemory:
    """Peak resident memory of a process by kind, in bytes, sampled every 20 ms."""

    def __init__(self, pid: int) -> None:
        self.peak = dict.fromkeys(_KINDS, 0)
        self._status, self._over = Path(f"/proc/{pid}/status"), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._look()
        self.before = dict(self.peak)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self._look()

    def _look(self) -> None:
        lines = dict(line.split(":") for line in self._status.read_text().splitlines() if line.startswith("Rss"))
        for kind in _KINDS:
            self.peak[kind] = max(self.peak[kind], 1024 * int(lines[kind].split()[0]))


def true_object(side_px: int) -> Complex64:
    """Amplitude 0.6 ... 1, phase 0 ... 1.2 rad: rings and spokes."""
    y, x = np.ogrid[:side_px, :side_px]
    spokes = np.sin(48 * np.arctan2(y - side_px / 2, x - side_px / 2)) > 0
    rings = np.sin(np.hypot(y - side_px / 5, x - side_px / 7) / 9) > 0.2
    found: Complex64 = ((1 - 0.4 * rings.astype(np.float32)) * np.exp(np.complex64(1.2j) * spokes)).astype(np.complex64)
    return found


def make_scan(truth: Complex64, per_axis: int, tiles_from_px: int) -> Scan:
    """A scan at whole-pixel positions; the centre crops of its patches cover the object."""
    line = np.round(np.linspace(CROP_PX / 2, len(truth) - CROP_PX / 2, per_axis))
    positions = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 1, 2)
    geometry = PositionGeometry(patch_px=N_PX, crop_px=CROP_PX, positions_px=positions)
    return Scan(
        fixed_indices=tuple(range(FIXED)),
        observed_diffraction=np.ones((FIXED, N_PX, N_PX), np.float32),
        geometry=geometry,
        ground_truth=(crop_to_footprint(geometry, truth),),
        tiles_from_px=tiles_from_px,
    )


def predict(scan: Scan, amp: Float32, phase: Float32) -> Iterator[tuple[slice, Float32, Float32]]:
    """Yield batches of (rows, amplitude, phase), each (b, 1, N, N), as a network returns them."""
    assert isinstance(scan.geometry, PositionGeometry)
    corners = scan.geometry.positions_px[:, 0].astype(int) - CROP_PX // 2
    start = (N_PX - CROP_PX) // 2
    batch = np.zeros((2, BATCH, 1, N_PX, N_PX), np.float32)
    for first in range(0, len(corners), BATCH):
        chosen = corners[first : first + BATCH]
        for place, (x, y) in enumerate(chosen):
            for target, image in zip(batch, (amp, phase), strict=True):
                target[place, 0, start : start + CROP_PX, start : start + CROP_PX] = image[
                    y : y + CROP_PX, x : x + CROP_PX
                ]
        yield slice(first, first + len(chosen)), batch[0, : len(chosen)], batch[1, : len(chosen)]


def capture(scan: Scan, amp: Float32, phase: Float32, arrays: SnapshotArrays) -> float:
    """Fill a snapshot; returns the seconds spent copying."""
    seconds, crop = 0.0, slice((N_PX - CROP_PX) // 2, (N_PX + CROP_PX) // 2)
    for rows, batch_amp, batch_phase in predict(scan, amp, phase):
        began = time.perf_counter()
        arrays.stitch_amp[rows] = batch_amp[:, :, crop, crop]
        arrays.stitch_phase[rows] = batch_phase[:, :, crop, crop]
        seconds += time.perf_counter() - began
        if rows.start == 0:
            arrays.fixed_amp[:], arrays.fixed_phase[:] = batch_amp[:FIXED, 0], batch_phase[:FIXED, 0]
    arrays.fixed_filled[:] = arrays.stitch_filled[:] = True
    return seconds


def measure(side_px: int, per_axis: int, arguments: argparse.Namespace, folder: Path) -> Row:
    """Log two events of one size."""
    target, truth, queue_bytes = make_run(folder), true_object(side_px), int(arguments.queue_gib * 2**30)
    scan, amp, phase = make_scan(truth, per_axis, arguments.tiles_from), np.abs(truth), np.angle(truth)
    layout = SnapshotLayout(n_fixed=FIXED, patch_px=N_PX, n_stitch=per_axis**2, crop_px=CROP_PX)
    settings = WorkerSettings(spool_dir=folder / "spool", queue_bytes=queue_bytes, flush_timeout_s=FLUSH_S)
    copies, submits, times = [], [], []
    with ReconWorker(settings) as worker, PeakMemory(os.getpid()) as trainer:
        worker.start(target, scan, layout)
        while not worker.is_ready:
            time.sleep(0.02)
        with PeakMemory(worker.pid) as process:
            for epoch in range(1, EVENTS + 1):
                arrays = worker.acquire(layout)
                in_memory = worker.reuses_memory
                copies.append(capture(scan, amp, phase, arrays))
                began, cpu_before = time.perf_counter(), cpu_s_of(worker.pid)
                worker.submit(
                    Snapshot(
                        epoch=epoch,
                        step=epoch,
                        has_diffraction=False,
                        created_unix_s=time.time(),
                        stall_s=0,
                        arrays=arrays,
                    )
                )
                submits.append(time.perf_counter() - began)
                del arrays
                if not worker.flush(FLUSH_S):
                    raise RuntimeError(f"an event of {per_axis**2} patches took more than {FLUSH_S:.0f} s.")
                times.append(time.perf_counter() - began)
                used_s = cpu_s_of(worker.pid) - cpu_before
    sizes = logged_sizes(target, f"epoch_{EVENTS:02d}")
    if worker.stats.logged != EVENTS:
        raise RuntimeError(worker.summary())
    if not logged_amp_mae(target) < TOLERANCE:
        raise RuntimeError(f"the reconstruction is not the known object: amplitude MAE {logged_amp_mae(target)}.")
    return Row(
        side_px=side_px,
        patches=per_axis**2,
        snapshot_mib=layout.nbytes / 2**20,
        where="memory" if in_memory else "file",
        first_copy_s=copies[0],
        copy_s=copies[-1],
        submit_ms=1e3 * submits[-1],
        event_s=times[-1],
        us_per_patch=1e6 * times[-1] / per_axis**2,
        worker_cpu_s=used_s,
        files=len(sizes),
        files_mib=sum(sizes) / 2**20,
        trainer_mib=(trainer.peak["RssAnon"] - trainer.before["RssAnon"]) / 2**20,
        trainer_mapped_mib=(trainer.peak["RssFile"] + trainer.peak["RssShmem"]) / 2**20,
        worker_mib=process.peak["RssAnon"] / 2**20,
        worker_mapped_mib=(process.peak["RssFile"] + process.peak["RssShmem"]) / 2**20,
    )


def make_run(folder: Path) -> RunTarget:
    """Create a run in a new database."""
    import mlflow

    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("benchmark", artifact_location=(folder / "mlruns").as_uri())
    return RunTarget(run_id=client.create_run(experiment).info.run_id, tracking_uri=uri)


def logged_sizes(target: RunTarget, folder: str) -> list[int]:
    """Sizes of the files in a folder of the run, bytes."""
    import mlflow

    client, sizes, folders = mlflow.MlflowClient(target.tracking_uri), list[int](), [folder]
    while folders:
        found = client.list_artifacts(target.run_id, folders.pop())
        folders += [one.path for one in found if one.is_dir]
        sizes += [one.file_size or 0 for one in found if not one.is_dir]
    return sizes


def logged_amp_mae(target: RunTarget) -> float:
    """Amplitude MAE of the stitched object, read from MLflow."""
    import mlflow

    metrics: dict[str, float] = mlflow.MlflowClient(target.tracking_uri).get_run(target.run_id).data.metrics
    return metrics["recon/stitched/amp_mae"]


def run_apart(side_px: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one size in a separate process."""
    command = [sys.executable, __file__, "--side", str(side_px), "--queue-gib", str(arguments.queue_gib)]
    command += ["--tiles-from", str(arguments.tiles_from)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=3 * FLUSH_S)
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print("                                       training process, s, MiB             worker, s, MiB")
    print(
        "side px patches snapshot MiB where  first copy  copy submit ms   own mapped   event us/patch   own mapped"
        "   CPU files   MiB"
    )
    for row in rows:
        print(
            "{side_px:7.0f} {patches:7.0f} {snapshot_mib:12.0f} {where:6} {first_copy_s:10.2f} {copy_s:5.2f} "
            "{submit_ms:9.1f} {trainer_mib:5.0f} {trainer_mapped_mib:6.0f} {event_s:7.1f} {us_per_patch:8.0f} "
            "{worker_mib:5.0f} {worker_mapped_mib:6.0f} {worker_cpu_s:5.1f} {files:5.0f} {files_mib:5.0f}".format(**row)
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small fields only (half a minute)")
    parser.add_argument("--queue-gib", type=float, default=1.0, help="memory for waiting snapshots")
    parser.add_argument(
        "--tiles-from", type=int, default=TILES_FROM_PX, help="side from which objects are tiled; 0: never"
    )
    parser.add_argument(
        "--side", type=int, choices=[*SIZES, *QUICK_SIZES], help="one size only, in this process, as JSON"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    sizes = QUICK_SIZES if args.quick else SIZES
    if args.side:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(args.side, (SIZES | QUICK_SIZES)[args.side], args, Path(folder))
        print(json.dumps(asdict(row)))
        return
    rows = [run_apart(side, args) for side in sizes]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
