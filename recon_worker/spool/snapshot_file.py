"""A snapshot file that is written in place, for a snapshot that does not fit into the queue's memory.

The capture writes its arrays straight into the mapped file, under a temporary name; `publish` puts the header before
them and gives it the name of a waiting snapshot. So a file that is found under such a name is whole, and no second
copy of the arrays is ever in memory: what is mapped is the system's file cache, which it writes out as it needs to.

Writing to a file whose pages are in that cache is ten times as fast as to a fresh one. So the worker writes the files
of the queue's places beforehand (`make_ready`), and once its snapshot is rendered a file is used again.
"""

import contextlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from recon_worker.snapshot.codec import FILE_HEADER_BYTES, file_header
from recon_worker.snapshot.slots import allocate

_ZEROS = bytes(1 << 20)
_REPORT_BYTES = 16 * len(_ZEROS)


class RawFile:
    """One such file. Given up unless it is published; arrays that still use the memory keep it alive.

    Args:
        temporary: Its name until it is published. A file of that name is used again.
        nbytes: Size of the arrays.

    Raises:
        OSError: There is no room for it, or the folder cannot be written.
    """

    def __init__(self, temporary: Path, nbytes: int) -> None:
        self._temporary = temporary
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            size = FILE_HEADER_BYTES + nbytes
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, size)
                allocate(descriptor, size)  # a disk that fills up later would kill the process
            self._map = mmap.mmap(descriptor, size)
        except BaseException:
            temporary.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def memory(self) -> memoryview:
        """What holds the arrays; as an earlier snapshot left it, or zero."""
        return memoryview(self._map)[FILE_HEADER_BYTES:]

    def publish(self, place: Path, header: bytes) -> None:
        """Make it the snapshot file `place`; `header`: of `codec.snapshot_header`."""
        self._map[:FILE_HEADER_BYTES] = file_header(header, self.memory)
        self._temporary.rename(place)

    def discard(self) -> None:
        """Remove it, unless it was published."""
        self._temporary.unlink(missing_ok=True)


def make_ready(temporary: Path, nbytes: int, on_progress: Callable[[], None]) -> None:
    """Write the file that `RawFile` will open, unless it is there already: its pages are in memory then.

    Args:
        temporary: Its name.
        nbytes: Size of the arrays.
        on_progress: Called every 16 MiB: the disk may be slow.

    Raises:
        OSError: See `RawFile`.
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
