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
    free = [*_free_of_system(root), *_free_of_cgroups(root)]
    return max(0, min(free)) // 10 if free else 2**30


def _free_of_system(root: Path) -> Iterator[int]:
    available = re.search(r"^MemAvailable: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    if available:
        yield int(available[1]) * 1024


def _free_of_cgroups(root: Path) -> Iterator[int]:
    """Yield the memory left in the process's cgroup and in those around it that have a limit (`man 7 cgroups`)."""
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
                if limit.isdecimal() and used.isdecimal():  # neither "max" nor, in a container, out of sight
                    cached = re.search(rf"^{names[2]} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
                    yield int(limit) - int(used) + (int(cached[1]) if cached else 0)


def _text(file: Path) -> str:
    """Read a file; empty if it does not exist, as outside Linux."""
    try:
        return file.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Size of the queue, what happens when it is full, and how long the worker and the end of the training may take."""

    spool_dir: Path
    """Directory for everything that cannot be uploaded yet."""
    depth: int | None = 2
    """Slots for waiting snapshots, 1 to 64: in memory within `queue_bytes`, in files of the spool beyond it. None: 2 at
    first, growing to as many as fit into memory, at most 16. `drop-oldest` uses at least 2, as the snapshot that the
    worker holds cannot be dropped."""
    overflow: Overflow = "spill"
    """When no slot is free: write the snapshot to disk, drop the oldest waiting one, or block the training until a slot
    is free, for at most `flush_timeout_s`, and then write to disk."""
    spill_bytes: int = 10 * 2**30
    """Limit for snapshots that wait on disk, in bytes; beyond it the oldest of them is dropped. A snapshot that is
    captured in a file counts once it is complete."""
    queue_bytes: int = field(default_factory=default_queue_bytes)
    """Memory for waiting snapshots, in bytes. Those that do not fit are captured in files."""
    flush_timeout_s: float = 300.0
    """Time for which the end of the training may be delayed to log what is left, in seconds."""
    silence_s: float = 120.0
    """A worker that holds a snapshot counts as hung, and is replaced, after this time without a message, in seconds;
    one second more for every 4 MiB of the snapshot."""

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
