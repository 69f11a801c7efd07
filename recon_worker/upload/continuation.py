"""Where a run's history comes from when its worker starts: its spool, else what the training logged before a resume."""

import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import tenacity

from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import HISTORY_FILES
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.errors import reason
from recon_worker.system.messages import message_log
from recon_worker.upload.resumes import folder_of_fit
from recon_worker.upload.run_sink import is_refusal

_log = message_log(__name__)

_TRIES_S, _LONGEST_WAIT_S = 20, 4
"""A snapshot waits meanwhile; much shorter than the silence after which a worker is taken to hang."""


class ReadingClient(Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    def get_run(self, run_id: str) -> Any:  # noqa: ANN401
        """The run, with its tags."""

    def list_artifacts(self, run_id: str, path: str | None = None) -> list[Any]:
        """The files in a folder."""

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        """Copy an artifact to a local folder; returns where it lies."""


def load_history(outbox: Outbox, target: RunTarget, connect: Callable[[], ReadingClient]) -> History:
    """The history to go on with; an empty one, after a warning, where it cannot be read.

    Args:
        outbox: The run's spool.
        target: The run, and which one it continues.
        connect: Makes a client of the tracking server; called only if the spool has no history and the run is resumed.
    """
    own = history_of_spool(outbox)
    return earlier_history(target, connect) if own is None else own


def history_of_spool(outbox: Outbox) -> History | None:
    """What pictures left there for later ones; None: nothing yet; an empty one, after a warning, if it is damaged."""
    try:
        files = outbox.history()
        return History.of_files(files) if files else None
    except (OSError, ValueError) as error:
        _log.warning("%s/history cannot be read: %s. Colour ranges are chosen anew.", outbox.folder, error)
        return History()


def earlier_history(target: RunTarget, connect: Callable[[], ReadingClient]) -> History:
    """What the training that this run continues has logged, up to the epoch it goes on from."""
    run_id = target.earlier_run_id
    if run_id is None:
        return History()
    try:
        files = _retrying()(lambda: _download(connect(), run_id, target.earlier_fit_unix_s))
        return History.of_files(files, last_epoch=target.earlier_epoch)
    except Exception as error:  # whatever the server, or an artifact that somebody replaced, makes it raise
        _log.warning(
            "The colour ranges of run %s, which this one continues, cannot be read: %s. They are chosen anew.",
            run_id, reason(error),
        )  # fmt: skip
        return History()


def _retrying() -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: not is_refusal(error)),
        stop=tenacity.stop_after_delay(_TRIES_S),
        wait=tenacity.wait_exponential(max=_LONGEST_WAIT_S),
        reraise=True,
    )


def _download(client: ReadingClient, run_id: str, fit_unix_s: float) -> dict[str, bytes]:
    place = PurePosixPath(folder_of_fit(client.get_run(run_id).data.tags, fit_unix_s), "recon_log")
    there = {file.path for file in client.list_artifacts(run_id, str(place))}
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        return {
            name: Path(client.download_artifacts(run_id, str(place / name), folder)).read_bytes()
            for name in HISTORY_FILES
            if str(place / name) in there
        }
