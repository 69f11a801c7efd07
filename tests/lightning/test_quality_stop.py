"""Early stopping by the quality of the reconstructions: at the same step on all ranks, with bounded waits."""

import json
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.faults.harness import freeze, no_last_words  # noqa: F401
from tests.lightning.forked_ranks import fork_ranks
from tests.lightning.quality_ranks import ERRORS_RAD
from tests.lightning.quality_training import kept, logging, train

pytestmark = pytest.mark.timeout(110)


@pytest.mark.parametrize("with_worker", [pytest.param(True, marks=pytest.mark.slow), False], ids=["worker", "inline"])
def test_a_training_stops_after_reconstructions_that_are_no_better(tracking, tmp_path, with_worker, caplog):
    worker = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60) if with_worker else None
    quality = ReconQuality(dirpath=tmp_path / "best", patience=2, deterministic=True)
    caplog.set_level("INFO", "recon_worker")
    trainer = train(tracking, ERRORS_RAD, quality, logs=logging(worker))

    assert trainer.current_epoch == 4
    assert kept(tmp_path / "best") == [2]
    assert "no better reconstruction in 2 logged epochs" in caplog.text


class Frozen(Callback):
    """Stops the worker before the first epoch."""

    def __init__(self, logs):
        self.logs = logs

    def on_train_start(self, trainer, pl_module):
        freeze(self.logs._backend)


@pytest.mark.usefixtures("nothing_left_behind", "no_last_words")
@pytest.mark.parametrize("deterministic", [True, False])
def test_metrics_that_do_not_arrive_delay_training_for_a_bounded_time(tracking, tmp_path, caplog, deterministic):
    quality = ReconQuality(dirpath=tmp_path / "best", patience=1, deterministic=deterministic)
    logs = logging(WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=0.6))
    trainer = train(tracking, [0.1, 0.2, 0.3], quality, logs=logs, callbacks=[Frozen(logs)])

    assert trainer.current_epoch == 3
    assert kept(tmp_path / "best") == [1, 2, 3]
    assert ("metrics of epoch 1 have not arrived within 1 s" in caplog.text) is deterministic


@pytest.mark.xdist_group("forked ranks")
def test_all_ranks_stop_together_and_know_the_best_checkpoint(mlflow_database, tmp_path):
    (tmp_path / "uri.txt").write_text(mlflow_database)
    processes = fork_ranks("tests.lightning.quality_ranks", tmp_path, tmp_path)
    for one in processes:
        one.join(100)
    output = "".join((tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1))

    assert [one.exitcode for one in processes] == [0, 0], output
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    best = Path(first["best"])
    assert (first["epochs"], best.name) == (4, "recon-epoch=002.ckpt")
    assert best.is_relative_to(tmp_path)
    assert kept(best.parent) == [2]
    assert output.count("Best reconstruction: epoch 2") == 1
