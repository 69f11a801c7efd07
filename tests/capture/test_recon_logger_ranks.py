"""`ReconLogger` on several ranks of torch.distributed, without Lightning."""

import json
import subprocess
import sys

import pytest

from tests.capture.plain_loop import train
from tests.capture.test_recon_logger import correlations, new_run, pixels
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


@pytest.fixture
def run_id(tracking):
    return new_run(tracking)


def launch(tmp_path, ranks=2, **settings):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"train": settings, "results": str(tmp_path)}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*torchrun, "-m", "tests.capture.plain_loop", str(plan)]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=110, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)], done.stdout + done.stderr


def test_two_ranks_add_their_parts(tracking, new_tracking, run_id, tmp_path):
    alone = new_tracking()
    train(alone.uri, new_run(alone), None)

    found, output = launch(tmp_path, uri=tracking.uri, run_id=run_id, folder=str(tmp_path / "spool"))

    assert [one["errors"] for one in found] == [0, 0], output
    assert pixels(tracking) == pixels(alone)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_wrong_batch_on_one_rank_costs_that_batch(tracking, run_id, tmp_path, rank):
    found, _ = launch(tmp_path, uri=tracking.uri, run_id=run_id, folder=None, fails_on_rank=rank)

    assert [one["errors"] > 0 for one in found] == [one == rank for one in (0, 1)]
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]
    assert min(correlations(tracking, run_id)) > 0.99
