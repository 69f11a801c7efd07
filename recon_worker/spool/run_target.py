"""The MLflow run that a spool belongs to, and its record `run.json`."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from recon_worker.spool.folder import SpoolError
from recon_worker.spool.trust import is_own, signed
from recon_worker.system.uris import without_credentials

_VERSION = 1
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class RunTarget:
    """The MLflow run that artifacts belong to."""

    run_id: str
    tracking_uri: str
    """May contain credentials in memory; they are never written to the spool."""
    earlier_run_id: str | None = None
    """Run that resumed training continues, possibly this one; None if training started with this run."""
    earlier_epoch: int = 0
    """Completed epochs when training was resumed."""
    earlier_fit_unix_s: float = 0.0
    """When the continued fit began to log from scratch; 0: unknown."""
    started_unix_s: float = 0.0
    """When this training began to log; older pictures in the run belong to an earlier training."""

    @property
    def continues(self) -> bool:
        """Whether the training continues an earlier one in the same run."""
        return self.earlier_run_id == self.run_id

    @property
    def fit_unix_s(self) -> float:
        """When the fit of this training began to log to this run from scratch; 0: unknown."""
        return self.earlier_fit_unix_s if self.continues else self.started_unix_s


def dump_target(target: RunTarget) -> bytes:
    """Return the content of run.json: signed, without credentials."""
    record = {"version": _VERSION, **asdict(target), "tracking_uri": without_credentials(target.tracking_uri)}
    return json.dumps(signed(record), indent=1).encode()


def read_target(file: Path, folder: Path) -> tuple[RunTarget, bool]:
    """Read run.json from `file`; `folder` is the run's folder, for messages.

    Returns:
        The run, and whether a training run of this user wrote the record (`trust.is_own`).

    Raises:
        SpoolError: The file cannot be read, has another version, or names no run.
    """
    try:
        record = json.loads(file.read_bytes())
        version, run_id, uri = record["version"], record["run_id"], record["tracking_uri"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{folder} is not a spool: run.json cannot be read ({error}).") from error
    if version != _VERSION:
        raise SpoolError(
            f"{folder} was written by another version of this program (spool version {version!r}; this one "
            f"reads {_VERSION}). Use the version that wrote it."
        )
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id) or not isinstance(uri, str):
        raise SpoolError(f"{folder}/run.json does not name an MLflow run.")
    names = ("earlier_run_id", "earlier_epoch", "earlier_fit_unix_s", "started_unix_s")
    start = {name: record.get(name, 0.0) for name in names}
    earlier, *numbers = start.values()
    known = earlier is None or (isinstance(earlier, str) and _RUN_ID.fullmatch(earlier) is not None)
    if not known or [type(number) for number in numbers] != [int, float, float]:
        start = {}  # the defaults replace all of them
    return RunTarget(run_id=run_id, tracking_uri=uri, **start), is_own(record)
