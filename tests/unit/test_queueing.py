"""The advice on queue depth, from recorded times."""

from dataclasses import replace

import pytest

from recon_worker.queueing import Times, advice, depth_without_spill, events_csv


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


@pytest.mark.parametrize(
    ("nbytes", "spilled", "words"),
    [
        (2**20, 1, "1 spilled with queue depth 2; a depth of 3 would have avoided every spill."),
        (
            2**30, 1,
            "1 spilled with queue depth 2; at 1.0 GiB each, 1 of these places were in memory, the others on disk. A "
            "depth of 3 and 3.0 GiB of memory (--recon-log-queue-gib) would have avoided the disk.",
        ),
    ],
)  # fmt: skip
def test_the_advice_counts_the_memory_that_a_depth_needs(nbytes, spilled, words):
    times = [replace(_times(0.1 * i, 0.1 * i, 100), nbytes=nbytes) for i in range(3)]

    assert advice(times, 2, spilled, 3 * 2**29) == words
