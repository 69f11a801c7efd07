"""A check for tests that start worker processes."""

import pytest

from tests.leaks import child_processes, descriptors, recon_threads


@pytest.fixture
def nothing_left_behind():
    before = child_processes(), descriptors()
    yield
    assert child_processes() <= before[0]
    assert recon_threads() == []
    assert descriptors() <= before[1] + 3  # sqlite and mlflow keep a few
