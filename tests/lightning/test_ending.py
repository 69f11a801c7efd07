"""SIGTERM to two processes of a training while one of them waits for the other."""

import os
import signal
import subprocess
import sys

import pytest

from tests.faults.servers import free_port
from tests.paths import REPOSITORY

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def ranks(tmp_path):
    processes = []
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "test"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    words = [sys.executable, "-m", "tests.lightning.ending_ranks", str(tmp_path)]
    for rank in ("0", "1"):
        own = {**environment, "RANK": rank, "LOCAL_RANK": rank}
        processes.append(subprocess.Popen(words, env=own, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
    yield processes
    for one in processes:
        one.kill()
        one.wait()
        one.stdout.close()


def test_all_ranks_end_though_one_of_them_waits_in_a_collective(ranks):
    for line in ranks[0].stdout:
        if line.startswith("validates"):
            break
    for one in ranks:
        one.send_signal(signal.SIGTERM)

    assert [one.wait(30) for one in ranks] == [0, 0]
