"""Which pictures a resumed training has replaced: the run's tag `recon_log.resumed`.

A training that is resumed from epoch 5 into the same run takes epochs 6, 7, ... again. Whatever an earlier process
took of those epochs, and comes to upload later from its spool, must not overwrite the newer pictures. So each resume
is noted in the run, as [epoch, time], and what is older goes to a folder of its own, `before_resume_1/`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recon_worker.outbox import RunTarget, epoch_of

TAG = "recon_log.resumed"


class TagClient(Protocol):
    """The part of `mlflow.MlflowClient` that is used."""

    def get_run(self, run_id: str) -> Any:  # noqa: ANN401
        """The run, with its tags."""

    def set_tag(self, run_id: str, key: str, value: Any, *, synchronous: bool) -> object:  # noqa: ANN401
        """Set a tag of the run."""


@dataclass(frozen=True, order=True)
class Resume:
    """A training went on in a run."""

    unix_s: float
    epoch: int
    """Completed epochs when it did."""


def note_resume(client: TagClient, target: RunTarget, tags: dict[str, str]) -> list[Resume]:
    """Note in the run that this training continues it, if it does; returns all its resumes, oldest first.

    Args:
        client: Connected to the tracking server.
        target: The run.
        tags: The run's tags.
    """
    resumes = _read(tags.get(TAG, "[]"))
    own = Resume(target.started_unix_s, target.earlier_epoch)
    if target.earlier_run_id == target.run_id and own not in resumes:
        resumes = sorted([*resumes, own])
        text = json.dumps([[one.epoch, one.unix_s] for one in resumes])
        client.set_tag(target.run_id, TAG, text, synchronous=True)
    return resumes


def _read(text: str) -> list[Resume]:
    """The tag's content; a tag that somebody has changed into something else counts as absent."""
    try:
        return sorted(Resume(float(unix_s), int(epoch)) for epoch, unix_s in json.loads(text))
    except (ValueError, TypeError):
        return []


def folder_of(name: str, taken_unix_s: float, resumes: Sequence[Resume]) -> str | None:
    """Where an artifact belongs that was replaced by a resumed training; None: it was not.

    Args:
        name: Its name, such as epoch_07/stitched/amp_pred.png.
        taken_unix_s: When its snapshot was taken.
        resumes: The run's, oldest first.
    """
    for number, one in enumerate(resumes, start=1):
        if taken_unix_s < one.unix_s and epoch_of(name) > one.epoch:
            return f"before_resume_{number}"
    return None
