"""Memory of the bounded queue: shared memory slots mapped by both processes.

    | header page: generation, state, header length, JSON header | arrays, at the offsets of `SnapshotLayout` |

A slot is an anonymous file (`memfd`), inherited as a descriptor: it leaves no name behind, is not bound by the limit of
a mount, grows on demand, and is freed by the kernel with the last process. Without memfd, an unlinked temporary file
replaces it. Only the training process writes slots. While alive it announces ready slots over the pipe; after its death
the worker finds them by the state in the header.
"""

import errno
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HEADER_BYTES = 4096
_FIELDS = struct.Struct("<QII")
_FREE, _READY = 0, 1
_FORBIDDEN = {errno.ENOSYS, errno.EPERM, errno.EACCES}
"""Errors of `memfd_create` in a container on an old kernel, in a sandbox, or where such files may not be executable."""


def create_memory(name: str) -> int:
    """Create empty anonymous shared memory and return its descriptor, which the caller owns."""
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create(name, os.MFD_CLOEXEC)
        except OSError as error:
            if error.errno not in _FORBIDDEN:
                raise
    descriptor, path = tempfile.mkstemp(prefix=name)
    Path(path).unlink()
    return descriptor


def allocate(descriptor: int, nbytes: int) -> None:
    """Extend a file to `nbytes` and, where supported, allocate its blocks immediately."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)
    else:
        os.ftruncate(descriptor, nbytes)


def write_all(descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
    """Replace the content of shared memory with the concatenated parts."""
    os.ftruncate(descriptor, sum(map(len, parts)))
    offset = 0
    for part in parts:
        left = memoryview(part)
        while left:
            written = os.pwrite(descriptor, left, offset)
            left, offset = left[written:], offset + written


def read_all(descriptor: int) -> bytes:
    """Return the content of shared memory."""
    size, parts, done = os.fstat(descriptor).st_size, [], 0
    while done < size:
        parts.append(os.pread(descriptor, size - done, done))
        done += len(parts[-1])
    return b"".join(parts)


class Slot:
    """One process's view of a slot. Reuses its mapping and grows for larger snapshots."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._mapping_lock = threading.Lock()

    def reserve(self, nbytes: int) -> None:
        """Grow the slot to hold arrays of `nbytes`, allocating its pages now rather than at the first write."""
        size = HEADER_BYTES + nbytes
        if os.fstat(self.descriptor).st_size < size:
            allocate(self.descriptor, size)

    def _mapping(self) -> mmap.mmap:
        size = os.fstat(self.descriptor).st_size
        with self._mapping_lock:
            if self._map is None or len(self._map) < size:
                self._map = mmap.mmap(self.descriptor, size)  # an older mapping lives on in arrays that use it
            return self._map

    def fault_in(self) -> None:
        """Read from every page, so that the first use of the slot does not wait for page faults."""
        if os.fstat(self.descriptor).st_size:
            np.frombuffer(self._mapping(), np.uint8)[:: mmap.PAGESIZE].max()  # releases the GIL

    def array_bytes(self, nbytes: int) -> memoryview:
        """Return the array part of the slot; call `reserve` with this size first."""
        return memoryview(self._mapping())[HEADER_BYTES : HEADER_BYTES + nbytes]

    def mark_ready(self, generation: int, header: bytes) -> None:
        """Publish the slot. The state is written after the header, so a ready slot has a complete header.

        Args:
            generation: Number of the snapshot in the run, from 1; distinguishes successive uses of a slot.
            header: Output of `codec.snapshot_header`.
        """
        if len(header) > HEADER_BYTES - _FIELDS.size:
            raise ValueError(f"the header has {len(header)} bytes; {HEADER_BYTES - _FIELDS.size} fit.")
        memory = self._mapping()
        memory[_FIELDS.size : _FIELDS.size + len(header)] = header
        memory[: _FIELDS.size] = _FIELDS.pack(generation, _READY, len(header))

    def mark_free(self) -> None:
        """Mark the slot as free; no effect on an empty or closed slot."""
        if self.descriptor >= 0 and os.fstat(self.descriptor).st_size:
            os.pwrite(self.descriptor, _FIELDS.pack(0, _FREE, 0), 0)  # without a mapping, which may have failed

    def content(self) -> tuple[int, bytes]:
        """Return generation and header of the snapshot in the slot; generation 0 if the slot is not ready."""
        if os.fstat(self.descriptor).st_size < HEADER_BYTES:
            return 0, b""
        memory = self._mapping()
        generation, state, length = _FIELDS.unpack_from(memory)
        return (generation, bytes(memory[_FIELDS.size : _FIELDS.size + length])) if state == _READY else (0, b"")

    def close(self) -> None:
        """Close the descriptor; arrays that still use the memory keep it alive."""
        self._map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    __del__ = close
