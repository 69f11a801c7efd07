"""Settings and a scan for tests with a real worker."""

import pytest

from recon_worker.settings import WorkerSettings
from tests.faults.harness import FLUSH_S
from tests.samples import make_scan


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S)


@pytest.fixture
def scan():
    """Without ground truth: 14 artifacts to upload per snapshot instead of 22."""
    return make_scan(n_samples=12, n_fixed=1, truth=False)
