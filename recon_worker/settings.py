"""How the queue between the training and its worker behaves: `WorkerSettings`."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Overflow = Literal["spill", "drop-oldest", "block"]


def default_queue_bytes() -> int:
    """A tenth of the free memory; 1 GiB where the system does not tell."""
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    if not set(names) <= os.sysconf_names.keys():
        return 2**30
    pages, page_bytes = map(os.sysconf, names)
    return pages * page_bytes // 10


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How much may wait, what happens when the queue is full, and how long the end may take."""

    spool_dir: Path
    """Where what cannot be uploaded is kept."""
    depth: int | None = 2
    """Snapshots that may wait in memory; None: chosen and adapted within `queue_bytes`."""
    overflow: Overflow = "spill"
    """When all slots are full: write to disk, give up the oldest waiting snapshot, or wait."""
    spill_bytes: int = 10 * 2**30
    """Snapshots on disk at most; beyond, the oldest waiting one is given up."""
    queue_bytes: int = field(default_factory=default_queue_bytes)
    """Memory that the slots may take when `depth` is None."""
    flush_timeout_s: float = 300.0
    """How long the end of the training may be delayed for what is left."""
    silence_s: float = 120.0
    """A worker that holds a snapshot and says nothing for so long hangs; one picture must take less. It is replaced."""
