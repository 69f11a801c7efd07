"""A tracking server for all tests of this room, and a proxy in front of it for each."""

import pytest

from tests.faults.servers import FaultyProxy, MlflowServer
from tests.faults.training import Training
from tests.leaks import nothing_left


@pytest.fixture(scope="session")
def server(new_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    new_database(folder)
    one = MlflowServer(folder)
    one.start()
    yield one
    one.close()


@pytest.fixture
def proxy(server):
    one = FaultyProxy(server.port)
    yield one
    one.close()


@pytest.fixture
def nothing_left_but_the_server(server, proxy, monkeypatch):
    """Which a test may have started again."""
    with nothing_left(monkeypatch, allowed=lambda: {server.pid}):
        yield
        proxy.close()


@pytest.fixture
def train(tracking, tmp_path):
    """Starts trainings; none of them outlives the test."""
    trainings = []

    def start(there=tracking, **options):
        trainings.append(Training(there, tmp_path, **options))
        return trainings[-1]

    yield start
    for one in trainings:
        one.end()
