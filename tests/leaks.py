"""What a test may leave behind: processes, descriptors, threads."""

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
"""In the environment of every process that a test starts, and of those that these start: also of orphans.

Workers inherit what begins with RECON_LOG_."""
_END_S = 10.0
_MAY_GROW = {"socket:": 3, "anon_inode:": 3}
"""Connections that sqlite and mlflow keep. Pipes and anonymous memory are the worker's: none may stay."""


@contextlib.contextmanager
def nothing_left(monkeypatch, *, allowed=lambda: set()):
    """No process, not even an orphan, no thread, no pipe or anonymous memory is there at the end that was not before.

    Args:
        monkeypatch: Sets the mark.
        allowed: Pids of children that may have come meanwhile, as of a server that was started again.
    """
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    gc.collect()
    processes, before = child_processes(), descriptors()
    yield
    gc.collect()  # what a test has let go of in a cycle, as loaders have, is not closed before
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
    """Title by pid of the marked processes that do not end within a moment."""
    deadline = time.monotonic() + _END_S
    while (left := {pid: _title(pid) for pid in marked_processes(mark) - allowed()}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def marked_processes(mark):
    """Pids of all processes that were started, by whomever, with this mark in their environment."""
    words = f"{MARK}={mark}\0".encode()
    found = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and words in _read(p / "environ"))
    return {pid for pid in found if pid != os.getpid()}


def _title(pid):
    return _read(Path(f"/proc/{pid}/cmdline")).replace(b"\0", b" ").decode(errors="replace")


def _read(place):
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
    """How many descriptors of each kind are open that are not libraries' files: pipes, sockets, anonymous memory."""
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
