"""Memory of the queue on systems that forbid `memfd_create`, and without descriptors."""

import errno
import os
import tempfile

import pytest

from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.slots import create_memory, read_all, write_all


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_a_file_without_a_name_is_the_memory_where_anonymous_files_are_forbidden(tmp_path, monkeypatch, number):
    def forbidden(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    descriptor = create_memory("slot")
    write_all(descriptor, [b"some", b"thing"])

    assert read_all(descriptor) == b"something"
    assert list(tmp_path.iterdir()) == []
    os.close(descriptor)


@pytest.mark.parametrize("free", [0, 5, 16, 17])
@pytest.mark.usefixtures("nothing_left_behind")
def test_a_worker_for_which_there_are_too_few_descriptors_leaves_none_open(tmp_path, monkeypatch, free):
    create, left = os.memfd_create, list(range(free))

    def none_left(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    def limited(*arguments):
        return create(*arguments) if left and left.pop() >= 0 else none_left()

    monkeypatch.setattr(os, "memfd_create", limited)
    monkeypatch.setattr(os, "pipe", none_left)

    with pytest.raises(OSError, match="Too many open files"):
        ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool", depth=16))
