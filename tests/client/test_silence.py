"""When a worker that says nothing is taken to hang."""

import pytest

from recon_worker.client.supervisor import allowed_silence_s
from recon_worker.spool.snapshot_file import make_ready

MIB = 2**20


@pytest.mark.parametrize(("nbytes", "allowed_s"), [(0, 120), (4 * MIB, 121), (1200 * MIB, 420)])
def test_a_worker_may_be_silent_for_longer_over_a_larger_snapshot(nbytes, allowed_s):
    assert allowed_silence_s(120, nbytes) == allowed_s


def test_whoever_makes_a_large_file_ready_says_every_16_mib_that_it_is_alive(tmp_path):
    said = []
    make_ready(tmp_path / "capture", 40 * MIB, lambda: said.append(sum(p.stat().st_size for p in tmp_path.iterdir())))

    assert len(said) == 3
    assert said[-1] - said[0] == 32 * MIB
