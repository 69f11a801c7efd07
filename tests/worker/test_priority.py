"""Work at low priority, where the number of threads is limited."""

import threading

from recon_worker.worker import priority


def test_work_for_which_no_thread_can_be_started_runs_once_in_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(priority, "_AUTOGROUP", tmp_path / "autogroup")
    low, ran_in, here = priority.LowPriority(2), [], threading.current_thread()

    def work():
        ran_in.append(threading.current_thread())

    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", no_more)
        low.run(work)
    low.run(work)

    assert ran_in[0] is here
    assert ran_in[1] is not here
    assert len(ran_in) == 2
