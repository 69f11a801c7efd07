"""The socket beside a worker's pipe, for messages that must reach a worker even while it does not read the pipe."""

import socket

SPOOL, HURRY = b"S", b"!"
"""The descriptors of the spool's lock and folder are attached; stop yielding the CPU to other processes."""


def take_over(handover: socket.socket) -> tuple[bytes, tuple[int, int] | None]:
    """Receive, in the worker, what the training process has sent so far, without blocking.

    Returns:
        The messages, and the descriptors (lock, folder) if they were sent (SCM_RIGHTS); None where the training process
        was killed before it sent them.
    """
    try:
        said, descriptors, *_ = socket.recv_fds(handover, 64, 2, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b"", None
    return said, (descriptors[0], descriptors[1]) if len(descriptors) == 2 else None
