"""`ReconLogger` on several ranks of torch.distributed, without Lightning."""

import json
import subprocess
import sys

import numpy as np
import pytest

from recon_worker import open_run
from tests.capture.plain_loop import train
from tests.capture.test_recon_logger import correlations, new_run
from tests.lightning.forked_ranks import fork_ranks
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


@pytest.fixture
def run_id(tracking):
    return new_run(tracking)


def plan_of(tmp_path, settings):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"train": settings, "results": str(tmp_path)}))
    return plan


def results(tmp_path):
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]


def torchrun(tmp_path, **settings):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "tests.capture.plain_loop", str(plan_of(tmp_path, settings))]
    done = subprocess.run(words, cwd=REPOSITORY, timeout=110, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return results(tmp_path)


def forked(tmp_path, **settings):
    ranks = fork_ranks("tests.capture.plain_loop", plan_of(tmp_path, settings), tmp_path)
    for one in ranks:
        one.join(100)
        one.kill()  # no effect on a rank that has ended
        one.join()
    output = "".join((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert [one.exitcode for one in ranks] == [0, 0], output
    return results(tmp_path)


@pytest.mark.xdist_group("forked ranks")
def test_two_ranks_add_their_parts_also_in_double_precision(tracking, new_tracking, run_id, tmp_path):
    alone = new_tracking()
    train(alone.uri, new_run(alone), None)

    found = forked(tmp_path, uri=tracking.uri, run_id=run_id, folder=str(tmp_path / "spool"), dtype="float64")

    assert [one["errors"] for one in found] == [0, 0]
    assert tracking.pictures() == alone.pictures()
    misfit = open_run(run_id, tracking.uri).misfit()
    np.testing.assert_allclose(misfit.r_factor, misfit.samples / 100, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_wrong_batch_on_one_rank_costs_that_batch(tracking, run_id, tmp_path, rank):
    found = torchrun(tmp_path, uri=tracking.uri, run_id=run_id, folder=None, fails_on_rank=rank)

    assert [one["errors"] > 0 for one in found] == [one == rank for one in (0, 1)]
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]
    assert min(correlations(tracking, run_id)) > 0.99
