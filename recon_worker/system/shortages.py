"""Which errors are the machine's: no snapshot is to blame for them, and it can be rendered when they are over.

A full disk or quota, too little memory, too few descriptors or threads, and a file system that is read-only or does not
answer. Whoever meets one keeps the snapshot and tries again; everything else is taken for the snapshot's own fault.
"""

import errno

_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,  # no process or thread may be started
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
}
_NO_THREAD = "can't start new thread"


def is_shortage(error: BaseException | None) -> bool:
    """Whether the machine is to blame for an error, or for the one that it was raised from."""
    while error is not None:
        by_number = isinstance(error, OSError) and error.errno in _ERRNOS
        no_thread = isinstance(error, RuntimeError) and _NO_THREAD in str(error)
        if by_number or no_thread or isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False
