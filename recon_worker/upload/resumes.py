"""Where in a run a training's artifacts belong: two tags of the run say what else has been logged there.

`recon_log.fits`: when each training that began from nothing began to log. The first one's artifacts lie in the run as
their names say; those of a second `fit` in the same run, which has an epoch 1 of its own, lie below `fit_2/`.

`recon_log.resumed` (of the second, `recon_log.resumed.fit_2`): a training that is resumed from epoch 5 into the same
run takes epochs 6, 7, ... again. Whatever an earlier process took of those epochs, and comes to upload later from its
spool, must not overwrite the newer pictures. So each resume is noted, as [epoch, time], and what is older goes to a
folder of its own, `before_resume_1/`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recon_worker.spool.outbox import epoch_of
from recon_worker.spool.run_target import RunTarget

FITS, RESUMED = "recon_log.fits", "recon_log.resumed"


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


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one fit, and those that have resumed it, have of a run."""

    folder: str
    """Below which its artifacts lie; empty: in the run's own."""
    resumes: Sequence[Resume]
    """Of this fit, oldest first."""


def note_training(client: TagClient, target: RunTarget, tags: Mapping[str, str]) -> Part:
    """Note in the run that this training logs there, if that is not noted yet.

    Args:
        client: Connected to the tracking server.
        target: The run.
        tags: The run's tags.
    """

    def note(key: str, values: Sequence[Any]) -> None:
        client.set_tag(target.run_id, key, json.dumps(values), synchronous=True)

    fits, own = _fits(tags), target.fit_unix_s
    continues = target.continues or (target.earlier_run_id is not None and bool(fits))
    if continues and own not in fits:
        own = max(fits, default=own)
    if own not in fits:
        fits.append(own)
        note(FITS, fits)
    folder = _folder(fits, own)
    key = f"{RESUMED}.{folder}" if folder else RESUMED
    resumes, this = _resumes(tags.get(key, "[]")), Resume(target.started_unix_s, target.earlier_epoch)
    if continues and this not in resumes:
        resumes = sorted([*resumes, this])
        note(key, [[one.epoch, one.unix_s] for one in resumes])
    return Part(folder=folder, resumes=resumes)


def folder_of_fit(tags: Mapping[str, str], unix_s: float) -> str:
    """Below which folder of a run a fit's artifacts lie; of the latest, if it is not known to the run."""
    fits = _fits(tags)
    return _folder(fits, unix_s if unix_s in fits else max(fits, default=0.0))


def _folder(fits: Sequence[float], unix_s: float) -> str:
    number = fits.index(unix_s) + 1 if unix_s in fits else 1
    return f"fit_{number}" if number > 1 else ""


def _fits(tags: Mapping[str, str]) -> list[float]:
    """In the order in which they were noted. A tag that somebody has changed into something else counts as absent."""
    try:
        return [float(unix_s) for unix_s in json.loads(tags.get(FITS, "[]"))]
    except (ValueError, TypeError):
        return []


def _resumes(text: str) -> list[Resume]:
    """The tag's content; likewise."""
    try:
        return sorted(Resume(float(unix_s), int(epoch)) for epoch, unix_s in json.loads(text))
    except (ValueError, TypeError):
        return []


def folder_of(name: str, taken_unix_s: float, resumes: Sequence[Resume]) -> str | None:
    """Where an artifact belongs that was replaced by a resumed training; None: it was not.

    Args:
        name: Its name, such as epoch_07/stitched/amp_pred.png.
        taken_unix_s: When its snapshot was taken.
        resumes: The fit's, oldest first.
    """
    for number, one in enumerate(resumes, start=1):
        if taken_unix_s < one.unix_s and epoch_of(name) > one.epoch:
            return f"before_resume_{number}"
    return None
