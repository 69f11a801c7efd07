"""Metrics reach MLflow without delaying the training."""

import contextlib
import pickle
import sqlite3
import threading
import time
from collections import UserDict

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from tests.faults.harness import soon_s, wait_until
from tests.lightning.fitting import fit
from tests.lightning.foreign import ForeignModule

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def logger(tracking):
    return make_logger(tracking)


def make_logger(tracking, **settings):
    return QueuedMLFlowLogger(
        experiment_name=tracking.experiment,
        tracking_uri=tracking.uri,
        artifact_location=tracking.artifacts.as_uri(),
        **settings,
    )


def _finished(logger):
    return logger.experiment.get_run(logger.run_id)


def test_all_metrics_and_the_status_are_there_after_finalize(logger):
    for step in range(50):
        logger.log_metrics({"loss": 1.0 / (step + 1)}, step)
    logger.finalize("success")

    history = logger.experiment.get_metric_history(logger.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(s, 1.0 / (s + 1)) for s in range(50)]
    assert _finished(logger).info.status == "FINISHED"


def test_lightning_training_logs_through_it(tracking, logger):
    class Module(ForeignModule):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=5)
            return loss

    fit(tracking, None, epochs=2, logger=logger, module=Module())

    assert _finished(logger).info.status == "FINISHED"
    assert len(logger.experiment.get_metric_history(logger.run_id, "train_loss")) == 2


def test_a_server_that_does_not_answer_delays_nothing(tracking, monkeypatch, caplog):
    logger, release = make_logger(tracking, finish_timeout_s=1.0), threading.Event()
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *args, **more: release.wait(30))

    for step in range(1000):
        logger.log_metrics({"loss": 1.0}, step)
    started = time.monotonic()
    logger.finalize("success")

    assert time.monotonic() - started < soon_s()
    assert "Not sent to MLflow: 1000 batches of metrics and the run's status. The MLflow server does not answer." in (
        caplog.text
    )
    release.set()


def test_a_server_that_comes_back_gets_every_metric(logger, monkeypatch):
    failures = iter([ConnectionError("down")] * 3)
    send = MlflowClient.log_batch

    def flaky(*args, **more):
        for error in failures:
            raise error
        send(*args, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    for step in range(5):
        logger.log_metrics({"loss": float(step)}, step)
    time.sleep(0.1)
    logger._error = None
    logger.finalize("success")

    assert [m.value for m in logger.experiment.get_metric_history(logger.run_id, "loss")] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_failed_metrics_are_noticed_even_where_the_user_logs_asynchronously(tracking, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    logger = make_logger(tracking, finish_timeout_s=0)
    logger.experiment.delete_run(logger.run_id)
    logger.log_metrics({"loss": 1.0}, 1)
    wait_until(lambda: "did not accept metrics" in caplog.text, 30)
    with pytest.raises(MlflowException):
        logger.log_hyperparams({"nepochs": 1})
    logger.finalize("success")


def test_errors_of_a_database_are_reported_in_one_line_without_a_traceback(tracking, caplog):
    logger = make_logger(tracking, finish_timeout_s=0)
    assert logger.experiment.get_run(logger.run_id)
    with contextlib.closing(sqlite3.connect(tracking.uri.removeprefix("sqlite:///"))) as database:
        database.execute("ALTER TABLE metrics RENAME TO gone")
        try:
            logger.log_metrics({"loss": 1.0}, 1)
            wait_until(lambda: "did not accept metrics" in caplog.text, 30)
            logger.finalize("success")
        finally:
            database.execute("ALTER TABLE gone RENAME TO metrics")

    assert "Not sent to MLflow: 1 batch of metrics and the run's status. " in caplog.text
    assert caplog.text.count("no such table: metrics") >= 2  # at the start and at the end
    assert not [record for record in caplog.records if record.exc_info]


def test_it_can_be_used_again_after_finalize(logger):
    for step in (0, 1):
        logger.log_metrics({"loss": float(step)}, step)
        logger.finalize("success")

    assert len(logger.experiment.get_metric_history(logger.run_id, "loss")) == 2


def test_only_rank_zero_touches_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = QueuedMLFlowLogger(experiment_name="ranks", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")

    assert logger.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_a_copy_in_another_process_continues_in_the_same_run(logger):
    logger.log_metrics({"loss": 0.0}, 0)
    logger.finalize("success")
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"loss": 1.0}, 1)
    copy.finalize("success")

    assert copy.run_id == logger.run_id
    assert len(logger.experiment.get_metric_history(logger.run_id, "loss")) == 2


def test_metrics_that_mlflow_refuses_delay_no_others(logger, caplog):
    logger.log_metrics({"/val//loss/": 1.0, "损失": 2.0, "stage": "train", "x" * 300: 3.0}, 0)
    logger.log_metrics({"损失": 3.0, "loss": 4.0}, torch.tensor(1))
    logger.finalize("success")

    assert _finished(logger).data.metrics == {"val/loss": 1.0, "loss": 4.0, "x" * 250: 3.0}
    assert _finished(logger).info.status == "FINISHED"
    assert caplog.text.count("is not logged. Allowed: numbers, under names") == 2


def test_settings_may_be_any_mapping_or_none(logger):
    logger.log_hyperparams(UserDict({"optimiser": UserDict({"lr": 1e-3})}))
    logger.log_hyperparams(None)

    assert _finished(logger).data.tags["optimiser/lr"] == "0.001"


def test_metrics_wait_until_a_thread_can_be_started_for_them(logger, monkeypatch, caplog):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", no_more)
        for step in (1, 2):
            logger.log_metrics({"loss": float(step)}, step)
    logger.log_metrics({"loss": 3.0}, 3)
    logger.finalize("success")

    assert [m.value for m in logger.experiment.get_metric_history(logger.run_id, "loss")] == [1.0, 2.0, 3.0]
    assert [message for message in caplog.messages if "Metrics" in message] == [
        "Metrics cannot be sent to MLflow now; they are kept. RuntimeError: can't start new thread"
    ]
