"""What a test may leave behind: processes, descriptors, threads."""

import os
import threading
from pathlib import Path


def child_processes():
    """Pids of this process's children."""
    return {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == os.getpid()}


def _parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descriptors():
    """Number of open descriptors that are not libraries' caches: pipes, sockets and anonymous memory."""
    kinds = ("pipe:", "socket:", "/memfd:", "anon_inode:")
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(entry.readlink()))
        except OSError:
            continue
    return sum(target.startswith(kinds) for target in targets)


def recon_threads():
    """Names of this project's threads."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("recon-log"))
