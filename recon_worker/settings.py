"""How the queue between the training and its worker behaves: `WorkerSettings`."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_MEMINFO = Path("/proc/meminfo")

MAX_DEPTH = 64
"""Places of the queue at most: a worker that is so far behind does not catch up."""
Overflow = Literal["spill", "drop-oldest", "block"]


def default_queue_bytes() -> int:
    """A tenth of the memory that programs can still have; 1 GiB where the system does not tell."""
    if _MEMINFO.exists():
        available = re.search(r"^MemAvailable: +(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
        if available:
            return int(available[1]) * 1024 // 10
    return 2**30


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How much may wait, what happens when the queue is full, and how long the end may take."""

    spool_dir: Path
    """Where what cannot be uploaded is kept."""
    depth: int | None = 2
    """Places for snapshots that wait, in memory as far as `queue_bytes` goes, the others in files of the spool; None:
    as many as fit into memory, at least 1, at most 16, beginning with 2."""
    overflow: Overflow = "spill"
    """When all places are taken: write to disk, give up the oldest waiting snapshot, or wait."""
    spill_bytes: int = 10 * 2**30
    """Snapshots that wait on disk at most; beyond, the oldest waiting one there is given up. One that is captured in a
    file counts when it is complete."""
    queue_bytes: int = field(default_factory=default_queue_bytes)
    """Memory that waiting snapshots may take. What does not fit is captured in a file."""
    flush_timeout_s: float = 300.0
    """How long the end of the training may be delayed for what is left."""
    silence_s: float = 120.0
    """A worker that holds a snapshot and says nothing for so long hangs; one picture must take less. It is replaced."""
