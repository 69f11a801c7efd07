"""A proxy in front of the tracking server for each test, and training runs."""

import os
import re
import time

import pytest

from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from tests.faults.harness import FLUSH_S
from tests.faults.proxy import FaultyProxy
from tests.faults.servers import new_run
from tests.faults.tracked import SCAN
from tests.faults.training import Training
from tests.leaks import nothing_left
from tests.samples import layout_of


@pytest.fixture
def proxy(server):
    one = FaultyProxy(server.port)
    yield one
    one.close()


@pytest.fixture
def nothing_left_but_the_server(server, proxy, monkeypatch):
    """Fails a test that leaves anything behind except the server, which a test may restart."""
    with nothing_left(monkeypatch, allowed=lambda: {server.pid}):
        yield
        proxy.close()


@pytest.fixture
def train(tracking, tmp_path):
    """Starts training runs, and ends them after the test."""
    trainings = []

    def start(there=tracking, **options):
        trainings.append(Training(there, tmp_path, **options))
        return trainings[-1]

    yield start
    for one in trainings:
        one.end()


@pytest.fixture
def short_timeouts(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")


@pytest.fixture
def target(short_timeouts, server, proxy, request):
    """A run created on the healthy server and reached through the proxy."""
    made = new_run(server.uri, re.sub(r"\W", "-", request.node.name) + f"-{os.getpid()}-{time.time_ns()}")
    return type(made)(run_id=made.run_id, tracking_uri=proxy.uri)


@pytest.fixture
def worker(tmp_path, target):
    one = ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S, depth=4))
    one.launch()
    one.start(target, SCAN, layout_of(SCAN))
    yield one
    one.close(0)
