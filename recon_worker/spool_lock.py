"""Who may work on a run's spool: the holders of an flock on `<spool>/<run id>/lock`.

A training run and its worker hold it together (shared); a `sync` holds it alone.
The kernel gives the lock back when the last process that holds the descriptor is dead: no lock is ever stale.
"""

import fcntl
import os
import time
from pathlib import Path

_WAIT_S, _POLL_S = 0.5, 0.05
"""Waits longer than `is_locked` holds the lock."""


class SpoolBusyError(RuntimeError):
    """Another process is at work on the spool."""


def take_lock(folder: Path, *, shared: bool = False) -> int:
    """Take the spool; closing the descriptor gives it back.

    Args:
        folder: `<spool>/<run id>`.
        shared: Take it beside others that share it; else alone.

    Raises:
        SpoolBusyError: Another process has it.
        FileNotFoundError: The spool is gone: another process has emptied it.
    """
    place = folder / "lock"
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        _wait_for(descriptor, folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if os.fstat(descriptor).st_ino != place.stat().st_ino:
            raise FileNotFoundError(f"{folder} was emptied, and made again since.")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _wait_for(descriptor: int, folder: Path, kind: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not _try(descriptor, kind):
        if time.monotonic() > deadline:
            raise SpoolBusyError(f"{folder} is in use by a training run or by another sync. Wait until that has ended.")
        time.sleep(_POLL_S)


def is_alone(descriptor: int) -> bool:
    """Whether nobody shares a lock that this process holds; if so it is held alone from now on."""
    return _try(descriptor, fcntl.LOCK_EX)


def is_locked(folder: Path) -> bool:
    """Whether a process is at work on the spool. Changes nothing."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
