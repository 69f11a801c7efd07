"""Find the worker process and read process sizes from /proc. Linux only.

Peaks are VmHWM. `ru_maxrss` is unsuitable: a process inherits its parent's value, so a worker would seem as large as
the training.
"""

import os
from pathlib import Path

_WORKER = "recon-worker"
"""Process name of the worker."""


def worker_of(pid: int) -> int | None:
    """Process id of the worker among the children of a process, or None."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = place.read_text().partition("(")[2].rpartition(")")
        except OSError:  # the process has ended
            continue
        if name == _WORKER and int(rest.split()[1]) == pid:
            return int(place.parent.name)
    return None


def process_status(pid: int) -> dict[str, int]:
    """Memory sizes in bytes, and the numbers of threads and descriptors."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    sizes = {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
    threads = next(int(line[1]) for line in lines if line[0] == "Threads:")
    return {**sizes, "Threads": threads, "fds": len(os.listdir(f"/proc/{pid}/fd"))}  # noqa: PTH208 - a count


def cpu_s_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
