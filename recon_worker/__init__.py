"""Logs ptychography reconstructions to MLflow from a separate worker process, and reads them back.

The public names are below; the Lightning callback is `recon_worker.lightning.PtychoReconLoggingCallback`. Each name is
imported on first use, because `recon-worker --help` and the worker process start through this module.
"""

from importlib import import_module

TYPE_CHECKING = False
"""Replaces `typing.TYPE_CHECKING`: `python -m recon_worker` would import a `typing.py` in the current folder."""

if TYPE_CHECKING:
    from recon_worker.capture.adapters import Adapter, Predictions, PtychoPinnAdapter, Sample, TupleAdapter
    from recon_worker.capture.recon_logger import ReconLogger
    from recon_worker.client.recon_worker import ReconWorker
    from recon_worker.pictures.png import DecodedImage, read_png
    from recon_worker.reading.logged import LoggedObject, LoggedPatch
    from recon_worker.reading.run import ReconRun, open_run
    from recon_worker.reading.run_artifacts import ReadError
    from recon_worker.reconstruction.misfit import SampleMisfit
    from recon_worker.settings import WorkerSettings
    from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
    from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
    from recon_worker.spool.run_target import RunTarget

__all__ = [
    "Adapter",
    "DecodedImage",
    "GridGeometry",
    "LoggedObject",
    "LoggedPatch",
    "PositionGeometry",
    "Predictions",
    "PtychoPinnAdapter",
    "ReadError",
    "ReconLogger",
    "ReconRun",
    "ReconWorker",
    "RunTarget",
    "Sample",
    "SampleMisfit",
    "Scan",
    "Snapshot",
    "SnapshotArrays",
    "SnapshotLayout",
    "TupleAdapter",
    "WorkerSettings",
    "open_run",
    "read_png",
]

_MODULES = {
    "capture.adapters": ("Adapter", "Predictions", "PtychoPinnAdapter", "Sample", "TupleAdapter"),
    "capture.recon_logger": ("ReconLogger",),
    "client.recon_worker": ("ReconWorker",),
    "pictures.png": ("DecodedImage", "read_png"),
    "reading.logged": ("LoggedObject", "LoggedPatch"),
    "reading.run": ("ReconRun", "open_run"),
    "reading.run_artifacts": ("ReadError",),
    "reconstruction.misfit": ("SampleMisfit",),
    "settings": ("WorkerSettings",),
    "snapshot.geometry": ("GridGeometry", "PositionGeometry"),
    "snapshot.records": ("Scan", "Snapshot", "SnapshotArrays", "SnapshotLayout"),
    "spool.run_target": ("RunTarget",),
}
"""The module of each public name, relative to this package."""


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
