"""A check for tests that start worker processes."""

import pytest

from tests.leaks import nothing_left


@pytest.fixture
def nothing_left_behind(monkeypatch):
    with nothing_left(monkeypatch):
        yield
