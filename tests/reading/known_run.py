"""A run with known reconstructions of two objects, logged as a training does, and read with `open_run`."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np

from recon_worker import open_run
from recon_worker.client.inline_backend import InlineBackend
from recon_worker.reconstruction.stitching import crop_to_footprint, stitch
from recon_worker.snapshot.records import Scan
from recon_worker.spool.run_target import RunTarget
from tests.samples import fill, layout_of, make_scan, snapshot

PIXEL_SIZE_M = 5e-9


def two_objects(arrays_format) -> Scan:
    """A scan of two objects; only the first has a ground truth."""
    scan = make_scan()
    geometry = replace(scan.geometry, object_index=np.arange(30) % 2)
    rng = np.random.default_rng(1)
    true = (rng.uniform(0.5, 1, (56, 56)) * np.exp(1j * rng.uniform(-3, 3, (56, 56)))).astype(np.complex64)
    truths = (crop_to_footprint(geometry, true), None)
    return replace(scan, geometry=geometry, ground_truth=truths, arrays_format=arrays_format, pixel_size_m=PIXEL_SIZE_M)


@dataclass
class KnownRun:
    """A run, and what is logged to it."""

    target: RunTarget
    arrays_format: str
    tiles_from_px: int = 0
    misfit: float = float("nan")
    """R-factor and deviance of all samples."""

    def __post_init__(self):
        scan = two_objects(self.arrays_format)
        self.scan, self._backend = replace(scan, tiles_from_px=self.tiles_from_px), InlineBackend()
        self._backend.start(self.target, self.scan, layout_of(self.scan))

    def log(self, *epochs):
        """Log epochs. The first sample grows brighter than the range of its picture, which epoch 1 fixes."""
        for epoch in epochs:
            arrays = self._backend.acquire(layout_of(self.scan))
            _predict(arrays, epoch)
            arrays.misfit[:] = self.misfit
            self._backend.submit(snapshot(arrays, epoch))

        assert self._backend.stats.failed == 0
        return self

    def open(self, **settings):
        return open_run(self.target.run_id, self.target.tracking_uri, **settings)

    def predictions(self, epoch):
        """The arrays that were logged."""
        arrays = layout_of(self.scan).allocate()
        _predict(arrays, epoch)
        return arrays

    def stitched(self, epoch, number=0):
        """Object and coverage that were logged."""
        return stitch(self.scan.geometry, self.predictions(epoch).stitch_object())[number]

    @property
    def client(self):
        return mlflow.MlflowClient(self.target.tracking_uri)

    def artifact(self, name) -> Path:
        """Path of an artifact in a local store."""
        uri = self.client.get_run(self.target.run_id).info.artifact_uri
        return Path(unquote(urlsplit(uri).path)) / name


def _predict(arrays, epoch):
    fill(arrays, epoch)
    arrays.stitch_amp[0] *= epoch


def new_run(uri, name, artifacts=None) -> RunTarget:
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment(name, artifact_location=None if artifacts is None else artifacts.as_uri())
    return RunTarget(run_id=client.create_run(experiment, run_name=name).info.run_id, tracking_uri=uri)
