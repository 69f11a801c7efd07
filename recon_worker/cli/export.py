"""`recon-worker export`: writes reconstructions of an MLflow run to a file or a folder. Changes nothing in MLflow."""

import os
import shutil
from pathlib import Path

from tqdm import tqdm

from recon_worker.cli.console import write_output
from recon_worker.pictures.arrays import ENCODERS
from recon_worker.reading.run import ReconRun, open_run
from recon_worker.reading.run_artifacts import ReadError
from recon_worker.system.mlflow_environment import for_uploads
from recon_worker.system.standard_streams import shows_progress
from recon_worker.system.uris import shown

FORMATS = {".npz": "npz", ".cxi": "h5", ".h5": "h5"}
"""Format of a file by its suffix."""


def export(
    run_id: str, out: Path, *, tracking_uri: str | None, epoch: int | None, number: int | None, force: bool
) -> str:
    """Write an object to a file, or all artifacts and metrics to a folder.

    Args:
        run_id: MLflow run.
        out: File with a suffix of `FORMATS`, or a folder.
        tracking_uri: MLflow server or database; None: MLflow's current one.
        epoch: Epoch to export; None: the last one to a file, all to a folder.
        number: Number of the object; None: the first to a file. A folder gets all objects.
        force: Replace existing files.

    Returns:
        A line that says what was written.

    Raises:
        ReadError: The run or the object cannot be read, or `out` exists or cannot be used.
        OSError: `out` cannot be written.
    """
    if out.suffix and out.suffix not in FORMATS:
        raise ReadError(f"{out} has an unknown suffix; use {', '.join(FORMATS)}, or none for a folder.")
    if not out.suffix and number is not None:
        raise ReadError("--object needs a file as --out; a folder gets all objects.")
    if not force and out.exists() and not (out.is_dir() and not out.suffix and not any(out.iterdir())):
        raise ReadError(f"{out} exists; choose another name, or replace it with --force.")
    os.environ.update(for_uploads(os.environ))
    run = open_run(run_id, tracking_uri)
    if out.suffix:
        return _export_object(run, out, -1 if epoch is None else epoch, number or 0)
    return _export_folder(run, out, epoch)


def _export_object(run: ReconRun, out: Path, epoch: int, number: int) -> str:
    found = run.object(epoch, number)
    try:
        arrays = found.to_arrays()
        if arrays.samples is None:
            arrays = arrays.with_misfit(run.misfit(epoch, number))
        data = ENCODERS[FORMATS[out.suffix]](arrays)
    except ImportError as error:
        raise ReadError(f"{out} cannot be written: {error}. Install it: pip install h5py") from error
    write_output(out, data)
    height, width = found.object.shape
    return f"epoch {found.epoch} of run {run.run_id}, {width} x {height} px, {found.accuracy()}: written to {out}"


def _export_folder(run: ReconRun, out: Path, epoch: int | None) -> str:
    names = run.files(epoch)
    if not names:
        raise ReadError(f"run {run.run_id} has no reconstructions in {shown(run.artifact_uri)}.")
    for name in tqdm(names, "export", unit="file", disable=not shows_progress()):
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.file(name), place)
    run.metrics.to_csv(out / "metrics.csv")
    return f"{len(names)} files of run {run.run_id} and metrics.csv: written to {out}"
