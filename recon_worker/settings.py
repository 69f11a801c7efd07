"""How the queue between the training and its worker behaves: `WorkerSettings`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from recon_worker.system.folder_owner import why_not_ours

MAX_DEPTH = 64
"""Places of the queue at most: a worker that is so far behind does not catch up. Each takes a descriptor."""
MAX_AUTO_DEPTH = 16
"""Places that `depth=None` may use."""
Overflow = Literal["spill", "drop-oldest", "block"]


def default_queue_bytes(root: Path = Path("/")) -> int:
    """A tenth of the memory that this process can still have; 1 GiB where the system does not tell.

    The smallest counts of what the system has and of what is left to each cgroup that the process is in, such as that
    of a Slurm job or of a container. Files that the kernel keeps in memory, and can give up, count as free.

    Args:
        root: Where `proc` and `sys` are.
    """
    free = [*_free_of_system(root), *_free_of_cgroups(root)]
    return max(0, min(free)) // 10 if free else 2**30


def _free_of_system(root: Path) -> Iterator[int]:
    available = re.search(r"^MemAvailable: +(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    if available:
        yield int(available[1]) * 1024


def _free_of_cgroups(root: Path) -> Iterator[int]:
    """Of the cgroup, and of those around it, as far as they have a limit (`man 7 cgroups`)."""
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
                yield from _free_of_cgroup(group, *names)


def _free_of_cgroup(group: Path, limit: str, used: str, cached: str) -> Iterator[int]:
    limit_text, used_text = _text(group / limit).strip(), _text(group / used).strip()
    if limit_text.isdecimal() and used_text.isdecimal():  # not "max", and in a container not out of sight
        in_cache = re.search(rf"^{cached} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
        yield int(limit_text) - int(used_text) + (int(in_cache[1]) if in_cache else 0)


def _text(file: Path) -> str:
    """Its content; nothing where it is not there, as outside of Linux."""
    try:
        return file.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How much may wait, what happens when the queue is full, and how long the end may take."""

    spool_dir: Path
    """Where what cannot be uploaded is kept."""
    depth: int | None = 2
    """Places for snapshots that wait, in memory as far as `queue_bytes` goes, the others in files of the spool, 1 to
    64; None: as many as fit into memory, at least 1, at most 16, beginning with 2. `drop-oldest` has at least 2: the
    worker holds one of them, and what it holds cannot be given up."""
    overflow: Overflow = "spill"
    """When all places are taken: write to disk, give up the oldest waiting snapshot, or wait for a place, at most for
    `flush_timeout_s`, and then write to disk."""
    spill_bytes: int = 10 * 2**30
    """Snapshots that wait on disk at most; beyond, the oldest waiting one there is given up. One that is captured in a
    file counts when it is complete."""
    queue_bytes: int = field(default_factory=default_queue_bytes)
    """Memory that waiting snapshots may take. What does not fit is captured in a file."""
    flush_timeout_s: float = 300.0
    """How long the end of the training may be delayed for what is left."""
    silence_s: float = 120.0
    """A worker that holds a snapshot and says nothing for so long, and a second more for every 4 MiB of it, hangs. It
    is replaced."""

    def __post_init__(self) -> None:
        if self.depth is not None and not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth is {self.depth}; allowed: 1 to {MAX_DEPTH}, or None to let it adapt.")
        object.__setattr__(self, "spool_dir", self.spool_dir.absolute())  # whatever the working directory is later
        refusal = why_not_ours(self.spool_dir, shared=True) if self.spool_dir.is_dir() else None
        if refusal:
            raise ValueError(f"spool_dir {self.spool_dir} cannot be used: {refusal}. Choose a folder of your own.")

    @property
    def min_depth(self) -> int:
        """Places that there are in any case."""
        return 2 if self.overflow == "drop-oldest" else 1
