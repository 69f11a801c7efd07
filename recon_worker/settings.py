"""`WorkerSettings`: the queue between the training and its worker, and the worker's time limits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recon_worker.system.folder_owner import why_not_ours

MAX_DEPTH = 64
"""Largest queue depth: a worker further behind does not catch up, and each slot takes a descriptor."""
MAX_AUTO_DEPTH = 16
"""Largest depth that `depth=None` grows to."""
Overflow = Literal["spill", "drop-oldest", "block"]


def default_queue_bytes(root: Path = Path("/")) -> int:
    """Return a tenth of the memory still available to this process; 1 GiB where the system does not report it.

    Available is the minimum over the system and each cgroup around the process, such as that of a Slurm job or a
    container. Reclaimable page cache counts as available.

    Args:
        root: Folder that contains `proc` and `sys`.
    """
    free = list(_free_of_cgroups(root))
    if available := re.search(r"^MemAvailable: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE):
        free.append(int(available[1]) * 1024)
    return max(0, min(free)) // 10 if free else 2**30


def _free_of_cgroups(root: Path) -> Iterator[int]:
    """Yield the memory left in the process's cgroup and in each parent that has a limit (`man 7 cgroups`)."""
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
                if limit.isdecimal() and used.isdecimal():  # not "max"; a container may not see the file
                    cached = re.search(rf"^{names[2]} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                    yield int(limit) - int(used) + (int(cached[1]) if cached else 0)


def _text(file: Path) -> str:
    """Read a file; empty if it cannot be read, as outside Linux."""
    try:
        return file.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Size of the queue, the policy when it is full, and time limits for the worker and the end of the training."""

    spool_dir: Path
    """Directory for snapshots and artifacts that are not uploaded yet."""
    depth: int | None = 2
    """Slots for waiting snapshots, 1 to 64: in memory within `queue_bytes`, in files of the spool beyond it. None: 2 at
    first, growing to as many as fit into memory, at most 16. `drop-oldest` uses at least 2: the snapshot that the
    worker holds cannot be dropped."""
    overflow: Overflow = "spill"
    """When no slot is free: write the snapshot to disk, drop the oldest waiting one, or block the training until a slot
    is free, for at most `flush_timeout_s`, and then write to disk."""
    spill_bytes: int = 10 * 2**30
    """Limit for snapshots that wait on disk, in bytes; beyond it the oldest of them is dropped. A snapshot captured in
    a file counts once it is complete."""
    queue_bytes: int = field(default_factory=default_queue_bytes)
    """Memory for waiting snapshots, in bytes. Snapshots beyond it are captured in files."""
    flush_timeout_s: float = 300.0
    """Longest delay of the end of the training while the remaining snapshots are logged, in seconds."""
    silence_s: float = 120.0
    """A worker that holds a snapshot and sends no message for this time counts as hung and is replaced, in seconds; one
    second more for every 4 MiB of the snapshot."""

    def __post_init__(self) -> None:
        if self.depth is not None and not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth is {self.depth}; allowed: 1 to {MAX_DEPTH}, or None to let it adapt.")
        object.__setattr__(self, "spool_dir", self.spool_dir.absolute())  # the working directory may change
        refusal = why_not_ours(self.spool_dir, shared=True) if self.spool_dir.is_dir() else None
        if refusal:
            raise ValueError(f"spool_dir {self.spool_dir} cannot be used: {refusal}. Choose a folder of your own.")

    @property
    def min_depth(self) -> int:
        """Smallest number of slots that the overflow policy works with."""
        return 2 if self.overflow == "drop-oldest" else 1
