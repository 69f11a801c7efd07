"""Detect processes, descriptors and threads that a test leaves behind."""

import contextlib
import gc
import os
import signal
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

MARK = "RECON_LOG_TEST"
"""Set in the environment of every process that a test starts, and of their children, even orphans.

Workers inherit variables that begin with RECON_LOG_."""
_END_S = 10.0
_MAY_GROW = {"socket:": 3, "anon_inode:": 3}
"""Connections that sqlite and mlflow keep. Pipes and anonymous memory belong to the worker: none may remain."""


@contextlib.contextmanager
def nothing_left(monkeypatch, *, allowed=lambda: set()):
    """Assert that no new process (orphans included), thread, pipe or anonymous memory remains at the end.

    Args:
        monkeypatch: Sets the mark.
        allowed: Pids of new children that may remain, such as a restarted server.
    """
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    gc.collect()
    processes, before = child_processes(), descriptors()
    yield
    gc.collect()  # closes objects in reference cycles, such as loaders
    left = _left(mark, allowed)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    after = descriptors()

    assert not left
    assert child_processes() - allowed() <= processes
    assert recon_threads() == []
    assert not {kind: n for kind, n in (after - before).items() if n > _MAY_GROW.get(kind, 0)}


def _left(mark, allowed):
    """Title by pid of the marked processes that do not end in time."""
    deadline = time.monotonic() + _END_S
    while (left := {pid: _title(pid) for pid in marked_processes(mark) - allowed()}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def marked_processes(mark):
    """Pids of all processes except this one with this mark in their environment."""
    words = f"{MARK}={mark}\0".encode()
    found = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and words in read(p / "environ"))
    return {pid for pid in found if pid != os.getpid()}


def _title(pid):
    return read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace")


def read(place):
    """Content of a file; empty if it cannot be read, as of a process that has ended."""
    try:
        return place.read_bytes()
    except OSError:
        return b""


def child_processes():
    """Pids of this process's children."""
    return {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == os.getpid()}


def _parent(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descriptors():
    """Number of open pipes, sockets, anonymous memory and anonymous inodes, by kind."""
    kinds = ("pipe:", "socket:", "/memfd:", "anon_inode:")
    targets = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(entry.readlink()))
        except OSError:
            continue
    return Counter(kind for target in targets for kind in kinds if target.startswith(kind))


def recon_threads():
    """Names of this project's threads."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("recon-log"))
