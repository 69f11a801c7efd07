"""A tracking server for all tests of this room, and a proxy in front of it for each."""

import pytest

from tests.faults.servers import FaultyProxy, MlflowServer


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    one = MlflowServer(tmp_path_factory.mktemp("server"))
    one.start()
    yield one
    one.kill()


@pytest.fixture
def proxy(server):
    one = FaultyProxy(server.port)
    yield one
    one.close()
