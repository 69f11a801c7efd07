"""The advice on queue depth, from recorded times."""

from recon_worker.queueing import Times, depth_without_spill, events_csv


def _times(acquired, submitted, service):
    return Times(acquired=acquired, submitted=submitted, started=submitted, rendered=submitted + service)


def test_slow_events_need_one_slot():
    assert depth_without_spill([_times(10 * i, 10 * i + 1, 5) for i in range(20)]) == 1


def test_a_burst_needs_as_many_slots_as_it_has_snapshots():
    assert depth_without_spill([_times(0.1 * i, 0.1 * i, 100) for i in range(5)]) == 5


def test_snapshots_that_wait_for_each_other_are_counted_until_they_are_rendered():
    # Each takes 3 s and one comes every 2 s: the third begins at 6 s, when two are not finished.
    assert depth_without_spill([_times(2 * i, 2 * i, 3) for i in range(3)]) == 2


def test_a_run_without_events_needs_one_slot():
    assert depth_without_spill([]) == 1


def test_the_table_has_a_header_and_a_line_per_event():
    lines = events_csv([_times(1, 2, 3)]).decode().splitlines()

    assert lines[0].split(",")[:3] == ["acquired", "submitted", "started"]
    assert lines[1].split(",")[:4] == ["1", "2", "2", "5"]
