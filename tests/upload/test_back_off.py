"""Workers that die are replaced after a while that doubles, until there have been five."""

import itertools
import time

from recon_worker.client import supervisor
from recon_worker.client.snapshot_queue import SnapshotQueue
from recon_worker.settings import WorkerSettings

FIRST_S = 0.02


def test_each_start_waits_twice_as_long_as_the_one_before_and_there_is_no_sixth(tmp_path, monkeypatch, caplog):
    starts = []

    def no_process(*_):
        starts.append(time.monotonic())
        raise OSError("no more processes")

    monkeypatch.setattr(supervisor, "WorkerProcess", no_process)
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", FIRST_S)
    queue = SnapshotQueue(WorkerSettings(spool_dir=tmp_path))
    keeper = supervisor.Supervisor(queue, silence_s=60, linger_s=0)
    keeper.launch()
    with queue.changed:
        assert queue.changed.wait_for(lambda: queue.abandoned, timeout=30)
    keeper.stop()
    queue.close()

    waits_s = [after - before for before, after in itertools.pairwise(starts)]
    assert len(waits_s) == 4
    assert all(waited >= FIRST_S * 2**number for number, waited in enumerate(waits_s))
    assert caplog.text.count("died (it cannot be started: no more processes)") == 5
    assert "5 workers died in a row: reconstructions go to the spool from now on." in caplog.text
