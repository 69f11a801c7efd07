"""A second connection to a worker, for messages that must reach it even while it does not read its pipe."""

import socket

SPOOL, HURRY = b"S", b"!"
"""SPOOL: the descriptors of the spool's lock and folder are attached. HURRY: run at normal priority from now on."""


def take_over(handover: socket.socket) -> tuple[bytes, tuple[int, int] | None]:
    """Receive, in the worker, the messages sent so far by the training process, without blocking.

    Returns:
        The messages, and the descriptors (lock, folder) sent with SCM_RIGHTS; None if the training process was killed
        before it sent them.
    """
    try:
        messages, descriptors, *_ = socket.recv_fds(handover, 64, 2, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b"", None
    return messages, (descriptors[0], descriptors[1]) if len(descriptors) == 2 else None
