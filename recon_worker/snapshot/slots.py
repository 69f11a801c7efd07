"""The bounded queue's memory: slots of shared memory that both processes map.

    | header page: generation, state, header length, JSON header | arrays, as `SnapshotLayout` places them |

A slot is an anonymous file (`memfd`), inherited as a descriptor: it has no name that could leak, no mount limit, grows
by `ftruncate`, and the kernel frees it with the last process. Where memfd is missing an unlinked temporary file does
the same. Only the training process writes slots. While it lives it says over the pipe what to read; once it is dead
the worker finds what was ready by the state in the header.
"""

import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon_worker.snapshot.records import SnapshotArrays, SnapshotLayout

HEADER_BYTES = 4096
_FIELDS = struct.Struct("<QII")
_FREE, _READY = 0, 1


def create_memory(name: str) -> int:
    """A descriptor of anonymous shared memory, empty; the caller owns it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp(prefix=name)
    Path(path).unlink()
    return descriptor


def allocate(descriptor: int, nbytes: int) -> None:
    """Make a file so long, with all its room set aside now where the system can do that."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)
    else:
        os.ftruncate(descriptor, nbytes)


def write_all(descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
    """Replace the content of shared memory; the parts lie one after the other."""
    os.ftruncate(descriptor, sum(map(len, parts)))
    place = 0
    for part in parts:
        left = memoryview(part)
        while left:
            written = os.pwrite(descriptor, left, place)
            left, place = left[written:], place + written


def read_all(descriptor: int) -> bytes:
    """The content of shared memory."""
    size, parts, done = os.fstat(descriptor).st_size, [], 0
    while done < size:
        parts.append(os.pread(descriptor, size - done, done))
        done += len(parts[-1])
    return b"".join(parts)


@dataclass(frozen=True)
class SlotContent:
    """What a slot holds when it is ready."""

    generation: int
    """Counts up with every snapshot of the run; tells two uses of a slot apart."""
    header: bytes


class Slot:
    """One slot, seen from one process. Reuses its mapping; grows when a larger snapshot needs it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._mapping_lock = threading.Lock()

    def reserve(self, nbytes: int) -> None:
        """Make room for arrays of `nbytes`, with its pages allocated now, not at the first write."""
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
        """Touch all pages, so that whoever uses the slot first need not wait for the kernel. Changes nothing."""
        if os.fstat(self.descriptor).st_size:
            np.frombuffer(self._mapping(), np.uint8)[:: mmap.PAGESIZE].max()  # without the interpreter's lock

    def arrays(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Arrays in the slot; `reserve` must have made room."""
        return layout.views(self.array_bytes(layout.nbytes))

    def array_bytes(self, nbytes: int) -> memoryview:
        """The part of the slot that holds the arrays."""
        return memoryview(self._mapping())[HEADER_BYTES : HEADER_BYTES + nbytes]

    def mark_ready(self, content: SlotContent) -> None:
        """Publish the slot. The state is written last: a slot is never ready with half a header."""
        if len(content.header) > HEADER_BYTES - _FIELDS.size:
            raise ValueError(f"the header has {len(content.header)} bytes; {HEADER_BYTES - _FIELDS.size} fit.")
        memory = self._mapping()
        memory[_FIELDS.size : _FIELDS.size + len(content.header)] = content.header
        memory[: _FIELDS.size] = _FIELDS.pack(content.generation, _READY, len(content.header))

    def mark_free(self) -> None:
        """Take the slot back; nothing once it is closed."""
        if self.descriptor >= 0 and os.fstat(self.descriptor).st_size:
            self._mapping()[: _FIELDS.size] = _FIELDS.pack(0, _FREE, 0)

    def content(self) -> SlotContent | None:
        """What the slot holds, or None if it is not ready."""
        if os.fstat(self.descriptor).st_size < HEADER_BYTES:
            return None
        memory = self._mapping()
        generation, state, length = _FIELDS.unpack_from(memory)
        if state != _READY:
            return None
        return SlotContent(generation, bytes(memory[_FIELDS.size : _FIELDS.size + length]))

    def close(self) -> None:
        """Give the descriptor back; arrays that still use the memory keep it alive."""
        self._map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
