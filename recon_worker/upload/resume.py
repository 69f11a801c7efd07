"""Resumed training runs: the folder of their artifacts in a run, and the history that they continue.

Two tags of the run record which training runs have logged to it.

`recon_log.fits`: start times of the training runs that began from scratch. Artifacts of the first go to the run's top
level; those of a second `fit` into the same run, which has its own epoch 1, go below `fit_2/`.

`recon_log.resumed` (for the second fit `recon_log.resumed.fit_2`): [epoch, time] of each resume. A training
resumed from epoch 5 into the same run logs epochs 6, 7, ... again. Snapshots of these epochs from an earlier process,
uploaded later from its spool, must not overwrite the newer ones: they go below `before_resume_1/`.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import HISTORY_FILES
from recon_worker.spool.outbox import Outbox, epoch_of
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.errors import reason
from recon_worker.system.messages import message_log
from recon_worker.upload.mlflow_client import artifact_store, connect, local_artifact
from recon_worker.upload.retry import download_retrying

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = message_log(__name__)

_FITS, _RESUMED = "recon_log.fits", "recon_log.resumed"


@dataclass(frozen=True, order=True)
class Resume:
    """One resume of a training run into the run."""

    unix_s: float
    epoch: int
    """Epochs completed at that time."""


def note_training(client: "MlflowClient", target: RunTarget, tags: Mapping[str, str]) -> tuple[str, Sequence[Resume]]:
    """Record this training in the run's tags, unless it is recorded already.

    Returns the folder for the artifacts of this training's fit (empty: the run's top level), and the resumes of the
    fit, oldest first.
    """
    fits, own = fits_of(tags), target.fit_unix_s
    continues = target.continues or (target.earlier_run_id is not None and bool(fits))
    if continues and own not in fits:
        own = max(fits, default=own)
    if own not in fits:
        fits.append(own)
        client.set_tag(target.run_id, _FITS, json.dumps(fits), synchronous=True)
    folder = folder_of_fit(fits, own)
    key = f"{_RESUMED}.{folder}" if folder else _RESUMED
    try:
        resumes = sorted(Resume(float(unix_s), int(epoch)) for epoch, unix_s in json.loads(tags.get(key, "[]")))
    except (ValueError, TypeError):  # the tag was overwritten
        resumes = []
    this = Resume(target.started_unix_s, target.earlier_epoch)
    if continues and this not in resumes:
        resumes = sorted([*resumes, this])
        content = json.dumps([[one.epoch, one.unix_s] for one in resumes])
        client.set_tag(target.run_id, key, content, synchronous=True)
    return folder, resumes


def fits_of(tags: Mapping[str, str]) -> list[float]:
    """Return the start times of a run's fits in the order of their tag; empty if the tag was overwritten."""
    try:
        return [float(unix_s) for unix_s in json.loads(tags.get(_FITS, "[]"))]
    except (ValueError, TypeError):
        return []


def folder_of_fit(fits: Sequence[float], unix_s: float) -> str:
    """Return the folder of a fit by its start time; for an unknown time, that of the latest fit."""
    return folder_of_number(fits.index(unix_s if unix_s in fits else max(fits)) + 1 if fits else 1)


def folder_of_number(number: int) -> str:
    """Return the folder of a fit by its number, from 1; empty: the run's top level."""
    return f"fit_{number}" if number > 1 else ""


def folder_of(name: str, taken_unix_s: float, resumes: Sequence[Resume]) -> str | None:
    """Return the folder for an artifact that a resumed training run has replaced; None if it was not replaced.

    `name` contains the epoch, as in epoch_07/stitched/amp_pred.png; `resumes` are those of its fit, oldest first.
    """
    for number, one in enumerate(resumes, start=1):
        if taken_unix_s < one.unix_s and epoch_of(name) > one.epoch:
            return f"before_resume_{number}"
    return None


def load_history(outbox: Outbox, target: RunTarget) -> History:
    """Return the history that a run continues: from its spool, else from the server if it is resumed."""
    own = history_of_spool(outbox)
    return earlier_history(target) if own is None else own


def history_of_spool(outbox: Outbox) -> History | None:
    """Read the history in a spool; None if absent; empty, with a warning, if damaged."""
    try:
        files = outbox.history()
        return History.of_files(files) if files else None
    except (OSError, ValueError) as error:
        _log.warning("%s/history cannot be read: %s. New colour ranges are chosen.", outbox.folder, error)
        return History()


def earlier_history(target: RunTarget, connect: Callable[[RunTarget], "MlflowClient"] = connect) -> History:
    """Download the history of the training that a run resumes, up to the epoch of the resume.

    Empty if it resumes none or, with a warning, if the download fails.
    """
    run_id = target.earlier_run_id
    if run_id is None:
        return History()
    files = dict[str, bytes]()
    try:
        for attempt in download_retrying:
            with attempt, tempfile.TemporaryDirectory(prefix="recon-log-") as local:
                client = connect(target)
                run = client.get_run(run_id)
                store = artifact_store(client, run)
                fits = fits_of(run.data.tags)
                folder = PurePosixPath(folder_of_fit(fits, target.earlier_fit_unix_s), "recon_log")
                listed = {file.path for file in store.list_artifacts(str(folder))}
                for name in HISTORY_FILES:
                    if str(folder / name) in listed:
                        files[name] = local_artifact(store, str(folder / name), partial(Path, local)).read_bytes()
        history = History.of_files(files, last_epoch=target.earlier_epoch)
        return history if run_id == target.run_id else history.without_tiles()
    except Exception as error:  # any error of the server, or of a replaced artifact
        _log.warning(
            "The colour ranges of run %s, which this one resumes, cannot be read: %s. New ones are chosen.",
            run_id, reason(error),
        )  # fmt: skip
        return History()
