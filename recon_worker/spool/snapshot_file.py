"""Snapshot files that the capture writes in place, for snapshots beyond the queue's memory budget.

The capture writes its arrays into the mapped file under a temporary name; `Outbox.publish_raw` adds the header and
renames it. A file named as a snapshot is therefore complete, and memory never holds a second copy of the arrays: the
mapping is the kernel's page cache, which is written out as needed.

Writing to cached pages is ten times as fast as writing to a new file. The worker therefore writes the files of the
queue's slots in advance (`make_ready`), and files of rendered snapshots are reused.
"""

import contextlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from recon_worker.snapshot.codec import FILE_HEADER_BYTES
from recon_worker.snapshot.slots import allocate

_ZEROS = bytes(1 << 20)
_REPORT_BYTES = 16 * len(_ZEROS)


class RawFile:
    """A mapped file for the arrays of one snapshot. Arrays that use its memory keep the mapping alive.

    Args:
        path: Path until publication. An existing file is reused.
        nbytes: Size of the arrays.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            size = FILE_HEADER_BYTES + nbytes
            if os.fstat(descriptor).st_size != size:
                os.ftruncate(descriptor, size)
                allocate(descriptor, size)  # otherwise a disk that fills up later would kill the process (SIGBUS)
            mapped = memoryview(mmap.mmap(descriptor, size))
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        self.header, self.memory = mapped[:FILE_HEADER_BYTES], mapped[FILE_HEADER_BYTES:]
        """Memory of the header and of the arrays: zero, or the content of an earlier snapshot."""


def make_ready(path: Path, nbytes: int, on_progress: Callable[[], None]) -> None:
    """Write the file that `RawFile` will open, unless it exists, so that its pages are cached.

    Args:
        path: Path of the file.
        nbytes: Size of the arrays.
        on_progress: Called every 16 MiB, as the disk may be slow.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    own = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for start in range(0, FILE_HEADER_BYTES + nbytes, len(_ZEROS)):
                file.write(_ZEROS[: FILE_HEADER_BYTES + nbytes - start])
                if start % _REPORT_BYTES == 0:
                    on_progress()
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink(missing_ok=True)
