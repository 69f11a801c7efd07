"""A spool for each test, and servers that do not answer."""

import os
import socket

import pytest

from tests.cli.spools import make_spool
from tests.samples import make_run


@pytest.fixture(autouse=True)
def same_environment():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def target(tracking):
    return make_run(tracking)


@pytest.fixture
def outbox(tmp_path, target):
    return make_spool(tmp_path / "spool", target)


@pytest.fixture
def silent_server():
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def dead_server():
    """A port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
