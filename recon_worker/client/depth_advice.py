"""Recommends a queue depth by replaying a run's recorded times, and tabulates these times."""

import math
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import accumulate

from recon_worker.client.job import Job
from recon_worker.client.ledger import Ledger
from recon_worker.settings import MAX_DEPTH
from recon_worker.system.messages import size_text

_NOUNS = {"spilled": "spill", "dropped": "drop", "waited": "wait"}
_COLUMNS = (
    "acquired", "submitted", "started", "stitched", "rendered", "logged", "stall_s", "waited_s", "epoch", "nbytes",
)  # fmt: skip


def depth_without_overflow(jobs: Sequence[Job]) -> int:
    """Return the smallest number of slots with which every snapshot would have found a free one.

    Replays the run: a slot is occupied from the start of the capture until the snapshot is rendered. Waits of policy
    `block` are subtracted from the times of all later snapshots.
    """
    needed, lead_s, unfinished = 1, 0.0, list[float]()
    for job, end in zip(jobs, _ends_without_overflow(jobs), strict=True):
        while unfinished and unfinished[0] <= job.acquired - lead_s:
            heappop(unfinished)
        needed = max(needed, 1 + len(unfinished))
        heappush(unfinished, end)
        lead_s += job.waited_s
    return needed


def _ends_without_overflow(jobs: Sequence[Job]) -> list[float]:
    """Return when each snapshot would have been rendered had none been dropped or delayed; infinity: not in this run.

    Keeps the worker's order, its time for each snapshot, and its pauses, when it was starting or dead. A dropped
    snapshot is assumed to take as long as the slowest one, immediately before the next rendered one.
    """
    turns, turn = list[float](), math.inf  # start of each snapshot; if dropped, of the next rendered one
    for job in reversed(jobs):
        turn = job.started if job.rendered else turn
        turns.append(turn)
    turns.reverse()
    ends = [math.inf] * len(jobs)
    leads_s = list(accumulate((job.waited_s for job in jobs), initial=0.0))
    longest_s = max((job.rendered - job.started for job in jobs if job.rendered), default=0.0)
    recorded = replayed = 0.0  # end of the worker's previous snapshot
    for number in sorted((n for n in range(len(jobs)) if turns[n] < math.inf), key=turns.__getitem__):
        job, turn = jobs[number], turns[number]
        pause_s = max(0.0, turn - max(recorded, job.submitted + job.waited_s))
        took_s = job.rendered - job.started if job.rendered else longest_s
        replayed = max(replayed, job.submitted - leads_s[number]) + pause_s + took_s
        recorded, ends[number] = job.rendered or turn, replayed
    return ends


def advice(jobs: Sequence[Job], depth: int, stats: Ledger, memory_bytes: int) -> str:
    """Describe how often the queue was full, and the depth that would have kept every snapshot in memory.

    Empty if the queue was never full and all snapshots were in memory.

    Args:
        jobs: All snapshots of the run.
        depth: Slots of the queue.
        stats: Counts of the snapshots that found no free slot.
        memory_bytes: Memory budget of the slots.
    """
    counts = {"spilled": stats.spilled, "dropped": stats.dropped, "waited": stats.waited}
    full = [what for what, number in counts.items() if number]
    needed, nbytes = depth_without_overflow(jobs), max((job.nbytes for job in jobs), default=0)
    needed = max(needed, depth + 1) if full else min(needed, depth)  # despite any clock errors
    if not full and needed * nbytes <= memory_bytes:
        return ""
    what_happened = " and ".join(f"{counts[what]} {what}" for what in full)
    text = f"{what_happened} with queue depth {depth}; " if full else ""
    if needed > MAX_DEPTH:
        return (
            f"{text}no depth up to {MAX_DEPTH} would have been enough: the worker takes longer to process a snapshot "
            "than training takes to produce the next. Log less often, or stitch fewer samples."
        )
    if needed * nbytes <= memory_bytes:
        avoided = " and ".join(f"every {_NOUNS[what]}" for what in full)
        return f"{text}a depth of {needed} would have avoided {avoided}."
    return (
        f"{text}at {size_text(nbytes)} each, {min(depth, memory_bytes // nbytes)} of {depth} slots were in memory, "
        f"the others on disk. A depth of {needed} and {size_text(needed * nbytes)} of memory (--recon-log-queue-gib) "
        "would have avoided the disk."
    )


def events_csv(jobs: Iterable[Job]) -> bytes:
    """Return a CSV table with a header and one line per snapshot; times in Unix seconds, durations in seconds."""
    rows = ([f"{getattr(job, name):.6f}".rstrip("0").rstrip(".") for name in _COLUMNS] for job in jobs)
    return "".join(",".join(row) + "\n" for row in (_COLUMNS, *rows)).encode()
