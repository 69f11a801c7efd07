"""`WorkerSettings`: the queue between the training process and its worker, and the worker's time limits."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recon_worker.system.arguments import check_fields
from recon_worker.system.folder_owner import why_not_ours

MAX_DEPTH = 64
"""Largest queue depth. A worker further behind cannot catch up, and each slot uses a file descriptor."""
MAX_AUTO_DEPTH = 16
"""Largest depth that `depth=None` can reach."""
Overflow = Literal["spill", "drop-oldest", "block"]


def default_queue_bytes(root: Path = Path("/")) -> int:
    """Return a tenth of the memory available to this process, or 1 GiB if the system does not report it.

    Available memory is the minimum over the system and all enclosing cgroups (Slurm job, container), and includes
    reclaimable page cache.

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    free = list(_free_of_cgroups(root))
    if available := re.search(r"^MemAvailable: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE):
        free.append(int(available[1]) * 1024)
    return max(0, min(free)) // 10 if free else 2**30


def _free_of_cgroups(root: Path) -> Iterator[int]:
    """Yield the free memory of the process's cgroup and of its parents, where limited (`man 7 cgroups`)."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(top):
                limit, used = (_text(group / name).strip() for name in names[:2])
                if limit.isdecimal() and used.isdecimal():  # not "max" (unlimited); a container may hide the file
                    cached = re.search(rf"^{names[2]} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                    yield int(limit) - int(used) + (int(cached[1]) if cached else 0)


def _text(file: Path) -> str:
    """Return the content of a file; empty if it cannot be read, as outside Linux."""
    try:
        return file.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Queue size, overflow policy, and time limits for the worker and the final flush."""

    spool_dir: Path
    """Directory for snapshots and artifacts that await upload."""
    depth: int | None = 2
    """Number of slots for waiting snapshots, 1 to 64: in memory within `queue_bytes`, in spool files beyond it. None:
    start with 2 and grow to as many as fit into memory, at most 16. `drop-oldest` uses at least 2, because the snapshot
    held by the worker cannot be dropped."""
    overflow: Overflow = "spill"
    """Policy when no slot is free: write the snapshot to disk, drop the oldest waiting one, or block training until
    a slot is free, at most `flush_timeout_s`, and then write to disk."""
    spill_bytes: int = 10 * 2**30
    """Size limit of the snapshots waiting on disk, in bytes; beyond it the oldest is dropped. A snapshot captured in a
    file counts once it is complete."""
    queue_bytes: int = field(default_factory=default_queue_bytes)
    """Memory budget for waiting snapshots, in bytes. Snapshots beyond it are captured in files."""
    flush_timeout_s: float = 300.0
    """Timeout for logging the remaining snapshots at the end of training, in seconds."""
    silence_s: float = 120.0
    """Time without a message, in seconds, after which a worker that is starting or holds a snapshot counts as hung and
    is replaced; extended by one second per 4 MiB of the snapshot."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.depth is not None and not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth is {self.depth}; allowed: 1 to {MAX_DEPTH}, or None to let it adapt.")
        # The working directory may change. A string is accepted from users who do not check types, "~" as in a shell.
        object.__setattr__(self, "spool_dir", Path(os.path.expanduser(self.spool_dir)).absolute())  # noqa: PTH111
        refusal = why_not_ours(self.spool_dir, shared=True) if self.spool_dir.is_dir() else None
        if refusal:
            raise ValueError(f"spool_dir {self.spool_dir} cannot be used: {refusal}. Choose a folder of your own.")

    @property
    def min_depth(self) -> int:
        """Smallest number of slots that the overflow policy supports."""
        return 2 if self.overflow == "drop-oldest" else 1
