"""SIGTERM to two processes of a training while one of them waits for the other."""

import pytest

from tests.faults.harness import wait_until
from tests.lightning.forked_ranks import fork_ranks

pytestmark = [pytest.mark.timeout(100), pytest.mark.xdist_group("forked ranks")]


@pytest.fixture
def ranks(tmp_path):
    processes = fork_ranks("tests.lightning.ending_ranks", tmp_path, tmp_path)
    yield processes
    for one in processes:
        one.kill()
        one.join()
        one.close()


def test_all_ranks_end_although_one_of_them_waits_in_a_collective(ranks, tmp_path):
    said = tmp_path / "rank0.txt"
    wait_until(lambda: said.exists() and "validates" in said.read_text())
    for one in ranks:
        one.terminate()
    for one in ranks:
        one.join(30)

    assert [one.exitcode for one in ranks] == [0, 0]
