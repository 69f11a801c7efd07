"""Snapshot files that are captured into in place, for snapshots beyond the queue's memory budget.

The capture writes its arrays into the mapped file under a temporary name; `publish` adds the header and renames it to a
waiting snapshot. So a file of that name is complete, and no second copy of the arrays is ever in memory: the mapping is
the kernel's page cache, which is written out as needed.

Writing to a file whose pages are cached is ten times as fast as writing to a fresh one. So the worker writes the files
of the queue's slots beforehand (`make_ready`), and files of rendered snapshots are reused.
"""

import contextlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from recon_worker.snapshot.codec import FILE_HEADER_BYTES, dump_snapshot
from recon_worker.snapshot.slots import allocate

_ZEROS = bytes(1 << 20)
_REPORT_BYTES = 16 * len(_ZEROS)


class RawFile:
    """A mapped file for the arrays of one snapshot. Arrays that use its memory keep the mapping alive.

    Args:
        temporary: Path until it is published. An existing file is reused.
        nbytes: Size of the arrays.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """

    def __init__(self, temporary: Path, nbytes: int) -> None:
        self._temporary = temporary
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            size = FILE_HEADER_BYTES + nbytes
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, size)
                allocate(descriptor, size)  # else a disk that fills up later would kill the process (SIGBUS)
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            temporary.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def memory(self) -> memoryview:
        """Memory of the arrays: zero, or as an earlier snapshot left it."""
        return memoryview(self._map)[FILE_HEADER_BYTES:]

    def publish(self, place: Path, header: bytes) -> None:
        """Rename the file to the snapshot file `place`; `header` is from `codec.snapshot_header`."""
        self._map[:FILE_HEADER_BYTES] = dump_snapshot(header, self.memory)[0]
        self._temporary.rename(place)

    def discard(self) -> None:
        """Remove the file unless it was published."""
        self._temporary.unlink(missing_ok=True)


def make_ready(temporary: Path, nbytes: int, on_progress: Callable[[], None]) -> None:
    """Write the file that `RawFile` will open, unless it exists, so that its pages are cached.

    Args:
        temporary: Path of the file.
        nbytes: Size of the arrays.
        on_progress: Called every 16 MiB, as the disk may be slow.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    own = temporary.with_name(f"{temporary.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for start in range(0, FILE_HEADER_BYTES + nbytes, len(_ZEROS)):
                file.write(_ZEROS[: FILE_HEADER_BYTES + nbytes - start])
                if start % _REPORT_BYTES == 0:
                    on_progress()
        with contextlib.suppress(FileExistsError):
            os.link(own, temporary)
    finally:
        own.unlink(missing_ok=True)
