"""The recommended queue depth, replayed from recorded times."""

from collections import deque
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.client.depth_advice import advice, depth_without_overflow, events_csv
from recon_worker.client.job import Job
from recon_worker.client.ledger import Ledger


def _times(acquired, submitted, service):
    done = submitted + service
    return Job(acquired=acquired, submitted=submitted, started=submitted, stitched=done, rendered=done)


def test_slow_events_need_one_slot():
    assert depth_without_overflow([_times(10 * i, 10 * i + 1, 5) for i in range(20)]) == 1


def test_a_burst_needs_as_many_slots_as_it_has_snapshots():
    assert depth_without_overflow([_times(0.1 * i, 0.1 * i, 100) for i in range(5)]) == 5


def test_a_snapshot_occupies_its_slot_until_it_is_rendered():
    # One snapshot arrives every 2 s and renders in 3 s.
    assert depth_without_overflow([_times(2 * i, 2 * i, 3) for i in range(3)]) == 2


def test_a_run_without_snapshots_needs_one_slot():
    assert depth_without_overflow([]) == 1


def test_the_table_of_events_has_a_header_and_a_line_per_snapshot():
    lines = events_csv([_times(1, 2, 3)]).decode().splitlines()

    assert lines[0].split(",")[:6] == ["acquired", "submitted", "started", "stitched", "rendered", "logged"]
    assert lines[1].split(",")[:6] == ["1", "2", "2", "5", "5", "0"]


@pytest.mark.parametrize(
    ("nbytes", "stats", "words"),
    [
        (2**20, Ledger(spilled=1), "1 spilled with queue depth 2; a depth of 3 would have avoided every spill."),
        (2**20, Ledger(dropped=4), "4 dropped with queue depth 2; a depth of 3 would have avoided every drop."),
        (2**20, Ledger(waited=2), "2 waited with queue depth 2; a depth of 3 would have avoided every wait."),
        (
            2**20, Ledger(spilled=1, dropped=2),
            "1 spilled and 2 dropped with queue depth 2; a depth of 3 would have avoided every spill and every drop.",
        ),
        (2**20, Ledger(), ""),
        (
            2**30, Ledger(spilled=1),
            "1 spilled with queue depth 2; at 1.0 GiB each, 1 of 2 slots were in memory, the others on disk. A "
            "depth of 3 and 3.0 GiB of memory (--recon-log-queue-gib) would have avoided the disk.",
        ),
    ],
)  # fmt: skip
def test_the_advice_names_the_overflows_and_the_memory_that_the_depth_needs(nbytes, stats, words):
    times = [replace(_times(0.1 * i, 0.1 * i, 100), nbytes=nbytes) for i in range(3)]

    assert advice(times, 2, stats, 3 * 2**29) == words


def test_a_depth_beyond_the_limit_is_not_advised():
    times = [_times(0.1 * i, 0.1 * i, 100) for i in range(65)]

    assert "no depth up to 64 would have been enough" in advice(times, 2, Ledger(spilled=63), 2**30)


def test_a_snapshot_that_is_never_rendered_keeps_its_slot():
    waiting = [Job(acquired=10 + i, submitted=10 + i) for i in range(3)]

    assert depth_without_overflow([_times(1, 1, 5), *waiting]) == 3


def test_snapshots_that_wait_for_the_workers_start_need_slots():
    # The worker is ready after 4.5 s. One snapshot arrives per second and renders in 0.5 s.
    times = [Job(acquired=i, submitted=i, started=4.5 + i / 2, rendered=5 + i / 2) for i in range(1, 10)]

    assert depth_without_overflow(times) == 5


class Simulation:
    """Simulates the queue second by second under an overflow policy.

    Args:
        policy: Overflow policy.
        depth: Number of slots.
        gaps: Seconds between the snapshots.
        pauses: Seconds for which the worker pauses before it renders each snapshot.
        services: Seconds that rendering takes.
    """

    def __init__(self, policy, depth, gaps, pauses, services):
        self.policy, self.depth, self.pauses, self.services = policy, depth, pauses, services
        self.times = [Job() for _ in gaps]
        self.waiting, self.placed = deque(), set()
        self.at_work, self.busy_until, self.done = None, 0, 0
        self.stats, self.arrivals, next_s = Ledger(), deque(enumerate(gaps)), 1 + gaps[0]
        for now in count(1):
            self._work(now)
            while self.arrivals and now >= next_s and self._submit(now):
                self.arrivals.popleft()
                next_s = now + (self.arrivals[0][1] if self.arrivals else 0)
                self._work(now)
            if not self.arrivals and self.at_work is None and not self.waiting:
                return

    def _work(self, now):
        if self.at_work is not None and now == self.busy_until:
            self.times[self.at_work].rendered = now
            self.placed.discard(self.at_work)
            self.at_work = None
        if self.at_work is None and self.waiting:
            self.at_work = self.waiting.popleft()
            self.times[self.at_work].started = now + self.pauses[self.done]
            self.busy_until = now + self.pauses[self.done] + self.services[self.done]
            self.done += 1

    def _submit(self, now):
        """Submit the next snapshot. Returns False if the training waits for a slot."""
        number, one = self.arrivals[0][0], self.times[self.arrivals[0][0]]
        one.acquired = one.submitted = one.submitted or now
        if len(self.placed) == self.depth:
            if self.policy == "block":
                self.stats.waited += one.waited_s == 0
                one.waited_s = now + 1 - one.submitted
                return False
            if self.policy == "drop-oldest":
                self.placed.discard(self.waiting.popleft())
                self.stats.dropped += 1
            else:
                self.stats.spilled += 1
        if len(self.placed) < self.depth:
            self.placed.add(number)
        self.waiting.append(number)
        return True

    @property
    def full(self):
        return self.stats.spilled + self.stats.dropped + self.stats.waited


_GAPS = st.lists(st.integers(0, 6), min_size=1, max_size=12)
_PAUSES = st.lists(st.sampled_from([0, 0, 0, 7]), min_size=12, max_size=12)
_SERVICES = st.lists(st.integers(1, 9), min_size=12, max_size=12)


def _assert_just_enough(policy, depth, *load):
    advised = depth_without_overflow(Simulation(policy, depth, *load).times)

    assert Simulation(policy, advised, *load).full == 0
    assert advised == 1 or Simulation("spill", advised - 1, *load).full > 0


@given(st.sampled_from(["spill", "block"]), st.integers(1, 4), _GAPS, _PAUSES, _SERVICES)
def test_the_advised_depth_is_the_smallest_with_which_nothing_spills_or_waits(policy, depth, gaps, pauses, services):
    _assert_just_enough(policy, depth, gaps, pauses, services)


@given(st.integers(2, 4), _GAPS, st.integers(0, 20), st.integers(1, 9))
def test_the_advised_depth_is_the_smallest_with_which_nothing_is_dropped(depth, gaps, ready_s, service):
    """Each takes the same time to render: that of a dropped snapshot is unknown."""
    _assert_just_enough("drop-oldest", depth, gaps, [ready_s, *[0] * 11], [service] * 12)
