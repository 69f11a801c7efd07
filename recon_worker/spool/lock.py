"""Locks a run's folder in the spool (flock on `<spool>/<run id>/lock`).

A training run and its worker share the lock; a `sync` holds it exclusively. The kernel releases a lock when the last
process that holds its descriptor has ended, so locks never become stale.

Some file systems cannot lock (Lustre mounted without flock, NFS without its lock daemon). There training continues
without a lock, as each run has its own folder; a `sync`, which could interfere with a running training, refuses.
"""

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from recon_worker.system.messages import message_log

_log = message_log(__name__)

_CANNOT_LOCK = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
_WAIT_S, _POLL_S = 0.5, 0.05
"""Time to wait for the lock, longer than `is_locked` holds it, and polling interval."""
_warned = set[Path]()
"""Spools whose missing lock support was already logged."""


class SpoolBusyError(RuntimeError):
    """Another process uses the spool."""


def take_lock(folder: Path, *, shared: bool = False, held: Path | None = None) -> int:
    """Lock a run's folder. Closing the returned descriptor releases the lock.

    Args:
        folder: `<spool>/<run id>`.
        shared: Take a shared instead of an exclusive lock. If the file system cannot lock, a shared lock logs a warning
            once and locks nothing.
        held: Path through which to open the folder; None: `folder`.

    Raises:
        SpoolBusyError: Another process holds the lock.
        FileNotFoundError: Another process has removed the folder.
        OSError: The file system cannot lock, and the lock is not shared.
    """
    path = (held or folder) / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + _WAIT_S
    try:
        try:
            while not _try(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise SpoolBusyError(f"{folder} is in use by {_holder(descriptor)}.")
                time.sleep(_POLL_S)
        except OSError as error:
            if not shared or error.errno not in _CANNOT_LOCK:
                raise
            if folder.parent not in _warned:
                _warned.add(folder.parent)
                _log.warning(
                    "%s lies on a file system that cannot lock files (%s). Logging continues. Do not sync it before "
                    "training has ended; then copy it to a local disk (cp -a) and sync the copy, or choose another "
                    "--recon-log-spool-dir.", folder.parent, error,
                )  # fmt: skip
        if os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise FileNotFoundError(f"{folder} was removed and created again meanwhile.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def note_worker(descriptor: int, pid: int) -> None:
    """Write the process ID of the worker that shares the lock into its file, for messages of other processes."""
    with contextlib.suppress(OSError):  # the disk is full
        os.ftruncate(descriptor, os.pwrite(descriptor, str(pid).encode(), 0))


def _holder(descriptor: int) -> str:
    """Describe the holder of the lock. A worker may outlive its training; one on another machine is not visible."""
    unknown = "a training run or by another sync. Wait until it has ended"
    try:
        pid = int(os.pread(descriptor, 20, 0))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return unknown
    if b"recon_worker.worker" not in command:
        return unknown
    worker = f"the worker of a training run, process {pid}"
    if state in "Tt":
        return f"{worker}, which is stopped and may hold snapshots in memory. Resume it with: kill -CONT {pid}"
    return f"{worker}. Wait until it has ended"


def is_alone(descriptor: int) -> bool:
    """Make a shared lock of this process exclusive. Returns False if others share it."""
    try:
        return _try(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return False  # other processes cannot be ruled out


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder; False where the file system cannot lock. Changes nothing."""
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
