"""The snapshots that are on their way, and what the queue's depth should have been.

Pure bookkeeping: no processes, no memory. A `Job` is waiting, in flight, rendered (its artifacts are being
uploaded) or gone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path

from recon_worker.client.ledger import Ledger
from recon_worker.settings import MAX_DEPTH
from recon_worker.system.messages import size_text

_NOUNS = {"spilled": "spill", "dropped": "drop", "waited": "wait"}


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
    shortages: int = 0
    """How often the machine was too short of something to render it, since the last flush began."""
    due_s: float = 0.0
    """When (monotonic) it may be tried again after that."""
    artifacts: int = 0
    """Artifacts that were made."""
    failures: int = 0
    """Artifacts that could not be made."""
    times: "Times" = field(default_factory=lambda: Times())


@dataclass(kw_only=True)
class Times:
    """When things happened to a snapshot, seconds since 1970; 0: not yet, or, of `stitched`, nothing to stitch."""

    acquired: float = 0.0
    submitted: float = 0.0
    started: float = 0.0
    stitched: float = 0.0
    rendered: float = 0.0
    logged: float = 0.0
    stall_s: float = 0.0
    """Time on the training thread."""
    waited_s: float = 0.0
    """How long `block` had the training wait for a place, after `submitted`."""
    epoch: int = 0
    """Which epoch."""
    nbytes: int = 0
    """Size of the snapshot."""


def depth_without_overflow(times: Sequence[Times]) -> int:
    """The smallest number of places with which every snapshot would have found one free when its capture began.

    Replays the run: a place is taken when the capture begins and free again when the snapshot is rendered. Without
    `block` each snapshot would have come as much earlier as those before it had to wait.
    """
    needed, lead_s, unfinished = 1, 0.0, list[float]()
    for one, end in zip(times, _ends(times), strict=True):
        while unfinished and unfinished[0] <= one.acquired - lead_s:
            heappop(unfinished)
        needed = max(needed, 1 + len(unfinished))
        heappush(unfinished, end)
        lead_s += one.waited_s
    return needed


def _ends(times: Sequence[Times]) -> list[float]:
    """When each snapshot would have been rendered if none had been given up or delayed; infinity: not in this run.

    Keeps what the worker did: its order, how long each snapshot took, and its pauses, in which it was not started yet
    or dead. One that was given up takes as long as the longest, just before the next that was rendered.
    """
    ends, turns = [math.inf] * len(times), _turns(times)
    leads_s = list(accumulate((one.waited_s for one in times), initial=0.0))
    longest_s = max((one.rendered - one.started for one in times if one.rendered), default=0.0)
    recorded = replayed = 0.0  # when the worker was done with the one before
    for number in sorted((n for n, turn in enumerate(turns) if turn < math.inf), key=turns.__getitem__):
        one, turn = times[number], turns[number]
        pause_s = max(0.0, turn - max(recorded, one.submitted + one.waited_s))
        took_s = one.rendered - one.started if one.rendered else longest_s
        replayed = max(replayed, one.submitted - leads_s[number]) + pause_s + took_s
        recorded, ends[number] = one.rendered or turn, replayed
    return ends


def _turns(times: Sequence[Times]) -> list[float]:
    """When each snapshot was begun with; one that was given up: the next that was not; infinity: there is none."""
    turns, turn = list[float](), math.inf
    for one in reversed(times):
        turn = one.started if one.rendered else turn
        turns.append(turn)
    return turns[::-1]


def advice(times: Sequence[Times], depth: int, stats: Ledger, memory_bytes: int) -> str:
    """In words: how often the queue was full, and which queue would have kept everything in memory.

    Nothing where it was never full and all of it in memory.

    Args:
        times: Of all snapshots.
        depth: Places of the queue.
        stats: How many snapshots found them all taken, and what became of those.
        memory_bytes: What the places may take of memory.
    """
    counts = {"spilled": stats.spilled, "dropped": stats.dropped, "waited": stats.waited}
    full = [what for what, number in counts.items() if number]
    needed, nbytes = depth_without_overflow(times), max((one.nbytes for one in times), default=0)
    needed = max(needed, depth + 1) if full else min(needed, depth)  # whatever the clocks say
    if not full and needed * nbytes <= memory_bytes:
        return ""
    words = f"{_and(f'{counts[what]} {what}' for what in full)} with queue depth {depth}; " if full else ""
    if needed > MAX_DEPTH:
        return (
            f"{words}no depth up to {MAX_DEPTH} would have been enough: the worker needs longer for a snapshot than "
            "passes until the next. Log more rarely, or stitch fewer samples."
        )
    if needed * nbytes <= memory_bytes:
        avoided = _and(f"every {_NOUNS[what]}" for what in full)
        return f"{words}a depth of {needed} would have avoided {avoided}."
    return (
        f"{words}at {size_text(nbytes)} each, {min(depth, memory_bytes // nbytes)} of {depth} places were in memory, "
        f"the others on disk. A depth of {needed} and {size_text(needed * nbytes)} of memory (--recon-log-queue-gib) "
        "would have avoided the disk."
    )


def _and(words: Iterable[str]) -> str:
    return " and ".join(words)


def events_csv(times: Iterable[Times]) -> bytes:
    """One line per snapshot, header first; times in seconds since 1970."""
    names = [one.name for one in fields(Times)]
    lines = [
        ",".join(names),
        *(",".join(f"{getattr(one, name):.6f}".rstrip("0").rstrip(".") for name in names) for one in times),
    ]
    return ("\n".join(lines) + "\n").encode()
