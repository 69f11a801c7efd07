"""Who may work on a run's spool: the holders of an flock on `<spool>/<run id>/lock`.

A training run and its worker hold it together (shared); a `sync` holds it alone.
The kernel gives the lock back when the last process that holds the descriptor is dead: no lock is ever stale.

On file systems that cannot lock (Lustre mounted without flock, NFS without its lock daemon) a training goes on without
it, as each run has a folder of its own; a `sync`, which could then meet a training at work, refuses.
"""

import contextlib
import errno
import fcntl
import functools
import os
import time
from pathlib import Path

from recon_worker.system.messages import message_log

_log = message_log(__name__)

_CANNOT_LOCK = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_WAIT_S, _POLL_S = 0.5, 0.05
"""Waits longer than `is_locked` holds the lock."""
_SOMEBODY = "a training run or by another sync. Wait until that has ended"


class SpoolBusyError(RuntimeError):
    """Another process is at work on the spool."""


def take_lock(folder: Path, *, shared: bool = False, held: Path | None = None) -> int:
    """Take the spool; closing the descriptor gives it back.

    Args:
        folder: `<spool>/<run id>`.
        shared: Take it beside others that share it; else alone. Where the file system cannot lock, a warning is logged
            once, and nothing is locked.
        held: Another name of the folder, by which to open it.

    Raises:
        SpoolBusyError: Another process has it.
        OSError: The file system cannot lock, and it was to be taken alone.
        FileNotFoundError: The spool is gone: another process has emptied it.
    """
    place = (held or folder) / "lock"
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            _wait_for(descriptor, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError as error:
            if not shared or error.errno not in _CANNOT_LOCK:
                raise
            _warn(folder.parent, str(error))
        if os.fstat(descriptor).st_ino != place.stat().st_ino:
            raise FileNotFoundError(f"{folder} was emptied, and made again since.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@functools.cache
def _warn(spool: Path, reason: str) -> None:
    """Once for each spool."""
    _log.warning(
        "%s lies on a file system that cannot lock files (%s). Logging goes on. Do not sync it before the training has "
        "ended; then copy it to a local disk (cp -a) and sync that, or choose another --recon-log-spool-dir.",
        spool, reason,
    )  # fmt: skip


def note_worker(descriptor: int, pid: int) -> None:
    """Note in the lock's file which worker holds it beside its training, for messages: it may outlive that."""
    with contextlib.suppress(OSError):  # the disk is full
        os.ftruncate(descriptor, os.pwrite(descriptor, str(pid).encode(), 0))


def _worker(descriptor: int) -> str:
    """The worker that holds the lock, in words; empty where there is none, or on another machine."""
    try:
        pid = int(os.pread(descriptor, 20, 0))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return ""
    if b"recon_worker.worker.loop" not in command:
        return ""
    what = f"the worker of a training run, process {pid}"
    if state in "Tt":
        return f"{what}, which is stopped and may hold snapshots in memory. To have it go on: kill -CONT {pid}"
    return f"{what}. Wait until it has ended"


def _wait_for(descriptor: int, folder: Path, kind: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not _try(descriptor, kind):
        if time.monotonic() > deadline:
            raise SpoolBusyError(f"{folder} is in use by {_worker(descriptor) or _SOMEBODY}.")
        time.sleep(_POLL_S)


def is_alone(descriptor: int) -> bool:
    """Whether nobody shares a lock that this process holds; if so it is held alone from now on.

    False where the file system cannot lock: somebody may be there.
    """
    try:
        return _try(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return False


def is_locked(folder: Path) -> bool:
    """Whether a process is seen at work on the spool; none is where the file system cannot lock. Changes nothing."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return False
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
