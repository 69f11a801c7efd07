"""Small scans and snapshots, and an MLflow run to log them to."""

import time

import numpy as np

from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotLayout
from recon_worker.spool.run_target import RunTarget

N_PX, CROP_PX = 16, 8


def make_scan(n_samples=30, n_fixed=2, *, truth=True):
    """A scan of positions with ground truth."""
    rng = np.random.default_rng(0)
    positions = rng.uniform(12, 40, (n_samples, 1, 2))
    geometry = PositionGeometry(patch_px=N_PX, crop_px=CROP_PX, positions_px=positions)
    true = (rng.uniform(0.5, 1, (56, 56)) * np.exp(1j * rng.uniform(-1, 1, (56, 56)))).astype(np.complex64)
    patches = rng.uniform(0.1, 1, (3, n_fixed, N_PX, N_PX)).astype(np.float32)
    return Scan(
        fixed_indices=tuple(range(n_fixed)),
        observed_diffraction=patches[0],
        label_amp=patches[1] if truth else None,
        label_phase=patches[2] if truth else None,
        geometry=geometry,
        ground_truth=(crop_to_footprint(geometry, true),) if truth else (),
        description=False,
    )


def layout_of(scan):
    return SnapshotLayout(
        n_fixed=len(scan.fixed_indices),
        patch_px=N_PX,
        n_stitch=len(scan.geometry.positions_px),
        channels=1,
        crop_px=CROP_PX,
    )


def fill(arrays, seed):
    """Write recognisable predictions: they depend on the seed only."""
    rng = np.random.default_rng(seed)
    for name in ("fixed_amp", "fixed_phase", "fixed_diffraction", "stitch_amp", "stitch_phase"):
        array = getattr(arrays, name)
        array[...] = rng.uniform(0.1, 1, array.shape)
    arrays.misfit[:] = np.nan
    arrays.fixed_filled[:] = True
    arrays.stitch_filled[:] = True


_last_unix_s = [0.0]


def snapshot(arrays, epoch):
    """A snapshot of now, but of a later millisecond than the one before, by which `recon/latest` names its pictures."""
    _last_unix_s[0] = now = max(time.time(), _last_unix_s[0] + 0.002)
    return Snapshot(epoch=epoch, step=10 * epoch, has_diffraction=True, created_unix_s=now, stall_s=0.0, arrays=arrays)


def log_epoch(backend, layout, epoch):
    """Acquire, fill and submit one snapshot, as the callback does."""
    arrays = backend.acquire(layout)
    fill(arrays, epoch)
    backend.submit(snapshot(arrays, epoch))


def make_run(tracking):
    """Create an MLflow run; `tracking.files()` lists its artifacts."""
    import mlflow  # takes a second, and processes that log a sample do not need it

    client = mlflow.MlflowClient(tracking.uri)
    experiment = client.create_experiment(tracking.experiment, artifact_location=tracking.artifacts.as_uri())
    return RunTarget(run_id=client.create_run(experiment).info.run_id, tracking_uri=tracking.uri)
