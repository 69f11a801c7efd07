"""`recon-worker compare`: writes a page that shows runs side by side, and logs it to MLflow as a run of its own."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recon_worker.cli.console import write_output
from recon_worker.pictures.gallery.comparison import MOST_RUNS, ComparedRun, comparison_html
from recon_worker.reading.comparison import compared, latest_runs, runs_of_ids
from recon_worker.reading.run_artifacts import ReadError, mlflow_errors
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.errors import reason
from recon_worker.system.mlflow_environment import for_uploads
from recon_worker.system.uris import shown
from recon_worker.upload.mlflow_client import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARES = "recon_log.compares"
"""Tag of a comparison's run: the ids of the compared runs, separated by commas."""
_LAST = 5
_FILE = "compare.html"
_NAME_CHARACTERS = 250
_NAMED = 3
"""Number of compared runs in the name of a comparison's run."""


def compare(
    run_ids: Sequence[str],
    *,
    tracking_uri: str | None,
    experiment: str | None,
    last: int | None,
    out: Path | None,
    log: bool,
    force: bool,
) -> str:
    """Compare runs in one HTML page.

    Args:
        run_ids: MLflow runs; empty: the latest runs of `experiment`.
        tracking_uri: MLflow server or database; None: MLflow's current one.
        experiment: Name of an experiment, instead of `run_ids`.
        last: Number of its latest runs with reconstructions; None: 5.
        out: File to write; None: none.
        log: Whether to log the page as a run of the experiment of the first compared run.
        force: Replace an existing file.

    Returns:
        Lines that say what was written.

    Raises:
        ReadError: The runs cannot be read or compared, `out` exists, or the page cannot be logged.
        OSError: `out` cannot be written.
    """
    if bool(run_ids) == (experiment is not None):
        raise ReadError("name the runs, or an experiment with --experiment, not both.")
    if experiment is None and last is not None:
        raise ReadError("--last needs --experiment.")
    count = _LAST if last is None else last
    if not 2 <= count <= MOST_RUNS:
        raise ReadError(f"--last is {count}; allowed: 2 to {MOST_RUNS}.")
    if out is None and not log:
        raise ReadError("nothing to write: use --out compare.html, --log, or both.")
    if out is not None and out.exists() and not (force and out.is_file()):
        raise ReadError(f"{out} exists; choose another name, or replace a file with --force.")
    os.environ.update(for_uploads(os.environ), MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")
    import mlflow

    uri = with_absolute_path(tracking_uri or str(mlflow.get_tracking_uri()))
    opened = latest_runs(experiment, count, uri) if experiment is not None else runs_of_ids(run_ids, uri)
    runs = compared(opened)
    try:
        page = comparison_html(runs)
    except Exception as error:  # Pillow raises many types for a damaged picture
        raise ReadError(f"a picture in the gallery of one of the runs is damaged: {reason(error)}") from error
    done = [f"{len(runs)} runs, {len(page) / 1e6:.1f} MB"]
    if out is not None:
        write_output(out, page)
        done.append(f"written to {out}")
    if log:
        done.append(f"logged as run {_log(page, runs, opened[0].experiment_id, uri)}")
    return ", ".join(done)


def _log(page: bytes, runs: Sequence[ComparedRun], experiment_id: str, uri: str) -> str:
    """Log the page as a run of its own; returns its id."""
    ids = ",".join(run.run_id for run in runs)
    names = [run.name for run in runs[:_NAMED]] + [f"{len(runs) - _NAMED} more"] * (len(runs) > _NAMED)
    title = f"compare {', '.join(names)}"[:_NAME_CHARACTERS]
    failed = f"the comparison cannot be logged to {shown(uri)}"
    with mlflow_errors(failed), tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        client = connect(RunTarget(run_id="", tracking_uri=uri))
        run_id = str(client.create_run(experiment_id, tags={COMPARES: ids}, run_name=title).info.run_id)
        file = Path(folder, _FILE)
        file.write_bytes(page)
        _upload(client, run_id, file)
        return run_id


def _upload(client: "MlflowClient", run_id: str, file: Path) -> None:
    status = "FAILED"
    try:
        client.log_artifact(run_id, str(file))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
