"""`Job`: one snapshot on its way from `ReconWorker.acquire` to MLflow, and when it reached each stage."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from recon_worker.spool.snapshot_file import RawFile

EVENTS = 0
"""Generation of the table of events, which belongs to no snapshot."""
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0


class State(Enum):
    """What a submitted snapshot waits for."""

    WAITING = "for the worker to take it"
    IN_FLIGHT = "for the worker, which holds it, to render it"
    POSTPONED = "for the machine, which was short of something, to recover"
    PARKED = "for all others to be rendered first: two workers died while they rendered it"
    UPLOADING = "for its artifacts, which are in the outbox, to reach MLflow"


@dataclass(kw_only=True)
class Job:
    """One snapshot. Times are seconds since 1970; 0 means not reached."""

    generation: int = 0
    """Number of the snapshot within the run, from 1."""
    epoch: int = 0
    step: int = 0
    header: bytes = b""
    """See `codec.snapshot_header`."""
    nbytes: int = 0
    """Size of the arrays."""
    state: State = State.WAITING

    slot: int | None = None
    """Queue slot that the snapshot occupies; None once it is rendered, or if it has none."""
    file: RawFile | None = None
    """File that the arrays are being captured in."""
    path: Path | None = None
    """Complete snapshot file that holds it."""

    attempts: int = 0
    """How many workers have begun to render it."""
    shortages: int = 0
    """How often the machine was too short of resources to render it, since the last flush began."""
    due_s: float = 0.0
    """Earliest time (monotonic) of the next attempt after a shortage."""
    artifacts: int = 0
    """Artifacts made."""
    failures: int = 0
    """Artifacts that could not be made."""

    acquired: float = 0.0
    submitted: float = 0.0
    started: float = 0.0
    stitched: float = 0.0
    """0 also if there was nothing to stitch."""
    rendered: float = 0.0
    logged: float = 0.0
    stall_s: float = 0.0
    """Time that capturing it took on the training thread."""
    waited_s: float = 0.0
    """Time that overflow policy `block` held the training, counted from `submitted`."""

    def postpone(self) -> None:
        """Schedule the next attempt after a shortage: each later than the one before, and none held against the job."""
        self.attempts -= 1
        self.due_s = time.monotonic() + min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**self.shortages)
        self.shortages += 1

    def record_rendered(self, report: Mapping[str, Any]) -> None:
        """Take over what the worker reports of a rendered snapshot."""
        self.state, self.artifacts, self.failures = State.UPLOADING, report["artifacts"], len(report["failures"])
        self.started, self.stitched = report["started_unix_s"], report["stitched_unix_s"]
        self.rendered = report["rendered_unix_s"]
