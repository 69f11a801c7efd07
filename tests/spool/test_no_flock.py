"""A spool on a file system that cannot lock: the training continues, a sync refuses."""

import errno
import fcntl
import logging
import os

import pytest

from recon_worker.cli.console import ExitCode
from recon_worker.cli.main import main as recon_worker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.lock import is_alone, is_locked, take_lock
from recon_worker.spool.outbox import Outbox
from tests.faults.harness import epochs, interpreter_with, started
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def no_flock(request, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_flock")
def test_without_file_locks_a_training_continues_after_one_warning(tmp_path, caplog):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        descriptor = take_lock(folder, shared=True)
        assert not is_alone(descriptor)
        assert not is_locked(folder)
        os.close(descriptor)

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{tmp_path} lies on a file system that cannot lock files" in record.getMessage()


@pytest.mark.usefixtures("no_flock")
def test_without_file_locks_a_sync_refuses_and_changes_nothing(tracking, tmp_path, caplog):
    target, scan = make_run(tracking), make_scan()
    outbox = Outbox(tmp_path / "spool" / target.run_id)
    outbox.describe(target, scan)
    before = {path: path.read_bytes() for path in outbox.folder.glob("*.*")}

    assert recon_worker(["sync", str(tmp_path / "spool")]) == ExitCode.ERROR
    assert f"{outbox.folder} cannot be locked, so nothing is uploaded from it" in caplog.text
    assert {path: path.read_bytes() for path in outbox.folder.glob("*.*")} == before


def test_other_errors_of_flock_are_raised(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(OSError, match="broken disk"):
        take_lock(tmp_path, shared=True)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_a_worker_logs_everything_without_file_locks(tracking, tmp_path, monkeypatch, caplog):
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl\ndef flock(*_): raise OSError(errno.ENOSYS, 'none')\nfcntl.flock = flock\n"
    )
    interpreter_with(monkeypatch, tmp_path, PYTHONPATH=str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "none")))
    scan = make_scan(n_samples=12, n_fixed=1, truth=False)
    settings = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=120)
    with started(settings, make_run(tracking), scan) as worker:
        log_epoch(worker, layout_of(scan), 1)

    assert (worker.stats.logged, worker.stats.restarts) == (1, 0)
    assert epochs(tracking) == {1}
    assert caplog.text.count("cannot lock files") == 1
