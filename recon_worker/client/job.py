"""`Job`: one snapshot on its way from `ReconWorker.acquire` to MLflow, with the time of each stage."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recon_worker.spool.snapshot_file import RawFile

EVENTS, REFERENCE = 0, -2
"""Generation numbers of the table of events and of the reference cards, which belong to no snapshot."""


class State(Enum):
    """What a submitted snapshot waits for."""

    WAITING = "for the worker to take it"
    IN_FLIGHT = "for the worker, which holds it, to render it"
    POSTPONED = "for the machine to have enough memory, disk space or descriptors again"
    PARKED = "for all others to be rendered first: two workers died while they rendered it"
    UPLOADING = "for its artifacts, which are in the outbox, to reach MLflow"


TO_RENDER = (State.WAITING, State.IN_FLIGHT, State.POSTPONED, State.PARKED)
"""States of a snapshot before it is rendered."""


@dataclass(kw_only=True)
class Job:
    """One snapshot. Times are Unix seconds; 0: not reached."""

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
    """Queue slot that the snapshot occupies; None without a slot, or once rendered."""
    file: "RawFile | None" = None
    """File into which the arrays are captured, until it is complete."""
    path: Path | None = None
    """The snapshot's complete file."""

    attempts: int = 0
    """Attempts to render it, except those that failed for lack of resources."""
    shortages: int = 0
    """Attempts that failed for lack of resources since the last flush began."""
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
    """Also 0 if nothing was stitched."""
    rendered: float = 0.0
    logged: float = 0.0
    stall_s: float = 0.0
    """Time of the capture on the training thread."""
    waited_s: float = 0.0
    """Time that overflow policy `block` delayed training, counted from `submitted`."""
