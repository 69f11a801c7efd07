"""A socket beside the worker's pipe, for what it must get even while it works and does not read the pipe."""

import socket

SPOOL, HURRY = b"S", b"!"
"""Descriptors of the spool's lock and folder are attached; stop yielding to other processes."""


def take_over(handover: socket.socket) -> tuple[bytes, tuple[int, int] | None]:
    """In the worker: what it was told by now, and given by `hand_over`; None if the training was killed before that."""
    try:
        said, descriptors, *_ = socket.recv_fds(handover, 64, 2, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b"", None
    return said, (descriptors[0], descriptors[1]) if len(descriptors) == 2 else None
