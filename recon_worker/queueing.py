"""The snapshots that are on their way, and what the queue's depth should have been.

Pure bookkeeping: no processes, no memory. A `Job` is waiting, in flight, rendered (its artifacts are being
uploaded) or gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path


@dataclass(kw_only=True)
class Job:
    """One submitted snapshot."""

    generation: int
    epoch: int
    step: int
    header: bytes
    nbytes: int
    place: int | None = None
    """The place of the queue that it takes: the slot of that number, or a file; None: none, or it is rendered."""
    path: Path | None = None
    """The file that holds it, if one does."""
    attempts: int = 0
    """How often a worker has been given it."""
    artifacts: int = 0
    """Artifacts that were made."""
    failures: int = 0
    """Artifacts that could not be made."""
    times: "Times" = field(default_factory=lambda: Times())


@dataclass(kw_only=True)
class Times:
    """When things happened to a snapshot, seconds since 1970; 0: not yet."""

    acquired: float = 0.0
    submitted: float = 0.0
    started: float = 0.0
    rendered: float = 0.0
    logged: float = 0.0
    stall_s: float = 0.0
    """Time on the training thread."""
    epoch: int = 0
    """Which epoch."""
    nbytes: int = 0
    """Size of the snapshot."""


def depth_without_spill(times: Iterable[Times]) -> int:
    """The smallest number of slots with which no recorded snapshot would have found the queue full.

    Replays the run: snapshots are rendered one after the other, each taking as long as it did; a slot is taken when
    it is acquired and given back when the snapshot is rendered.
    """
    finished: list[float] = []
    needed = 1
    for one in times:
        begin = max(one.submitted, finished[-1] if finished else 0.0)
        needed = max(needed, 1 + sum(end > one.acquired for end in finished))
        finished.append(begin + max(0.0, one.rendered - one.started))
    return needed


def advice(times: Sequence[Times], depth: int, spilled: int, memory_bytes: int) -> str:
    """In words: what went over the disk, and which queue would have kept everything in memory.

    Args:
        times: Of all snapshots.
        depth: Places of the queue.
        spilled: Snapshots that found them all taken and went to the disk.
        memory_bytes: What the places may take of memory.
    """
    needed, nbytes = depth_without_spill(times), max((one.nbytes for one in times), default=0)
    words = f"{spilled} spilled with queue depth {depth}; "
    if needed * nbytes <= memory_bytes:
        return f"{words}a depth of {needed} would have avoided every spill."
    return (
        f"{words}at {size_text(nbytes)} each, {min(depth, memory_bytes // nbytes)} of these places were in memory, the "
        f"others on disk. A depth of {needed} and {size_text(needed * nbytes)} of memory (--recon-log-queue-gib) would "
        "have avoided the disk."
    )


def size_text(nbytes: int) -> str:
    """Such as 1.2 GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes / 2**10:.1f} KiB"


def events_csv(times: Iterable[Times]) -> bytes:
    """One line per snapshot, header first; times in seconds since 1970."""
    names = [one.name for one in fields(Times)]
    lines = [
        ",".join(names),
        *(",".join(f"{getattr(one, name):.6f}".rstrip("0").rstrip(".") for name in names) for one in times),
    ]
    return ("\n".join(lines) + "\n").encode()
