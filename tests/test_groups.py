"""Tests that share an expensive fixture run in one process."""

import pytest


@pytest.mark.xdist_group("a group")
def test_groups_are_known_to_the_scheduler(request):
    """A version of pytest made pytest-xdist ignore them: fixtures were then made once for each process."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("the tests are not distributed by group")

    assert request.node.nodeid.endswith("@a group")
