"""Work at low priority: where the number of threads is limited, and after an error."""

import gc
import threading
import weakref

import pytest

from recon_worker.worker import priority
from tests.faults.harness import wait_until


@pytest.fixture
def low(tmp_path, monkeypatch):
    monkeypatch.setattr(priority, "_AUTOGROUP", tmp_path / "autogroup")
    return priority.LowPriority(2)


def test_work_for_which_no_thread_can_be_started_runs_once_in_the_caller(low, monkeypatch):
    ran_in = []

    def work():
        ran_in.append(threading.current_thread())

    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", no_more)
        low.run(work)
    low.run(work)

    assert [thread is threading.current_thread() for thread in ran_in] == [True, False]


def test_work_that_failed_is_not_kept_in_memory(low):
    class Arrays:
        pass

    def fail():
        arrays = Arrays()
        kept.append(weakref.ref(arrays))
        raise ValueError("damaged")

    kept = []
    gc.disable()
    try:
        with pytest.raises(ValueError, match="damaged"):
            low.run(fail)
        wait_until(lambda: kept[0]() is None, 5)
    finally:
        gc.enable()
