"""`ReconLogger`, where the machine lacks what it needs, or a signal comes in between."""

import errno
import os
import signal
import threading

import pytest

from recon_worker import WorkerSettings
from tests.capture.test_recon_logger import add_all, logger_of, run_id

__all__ = ["logger_of", "run_id"]
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


def test_a_worker_that_cannot_be_launched_costs_the_pictures_only(logger_of, tmp_path, monkeypatch, caplog):
    def too_many(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", too_many)
    with logger_of(worker=WorkerSettings(spool_dir=tmp_path / "spool")) as recon, recon.epoch(1) as shot:
        add_all(shot)

    (message,) = caplog.messages
    assert message == "Reconstruction logging failed in the launch of the worker; training continues."
    assert "Too many open files" in caplog.text


def test_a_logger_for_which_no_thread_can_be_started_does_not_end_the_training(logger_of, tmp_path, monkeypatch):
    def no_more(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    with logger_of(worker=WorkerSettings(spool_dir=tmp_path / "spool")) as recon, recon.epoch(1) as shot:
        add_all(shot)

    assert [path.name for path in tmp_path.glob("spool/*/raw/*")] == ["00000001_epoch_1.snapshot"]


class WalltimeError(Exception):
    pass


class EndsInTime:
    """A signal handler that ends the training before the time limit of its job."""

    def __call__(self, number, frame):
        raise WalltimeError


DURING = [
    "recon_worker.capture.shot._numbers",
    "recon_worker.pictures.artifacts.encode_png",
    "mlflow.MlflowClient.log_artifact",
]


@pytest.mark.parametrize("handler", [EndsInTime(), EndsInTime().__call__], ids=["object", "method"])
@pytest.mark.parametrize("during", DURING)
def test_an_error_that_a_signal_handler_raises_during_the_logging_ends_the_training(
    logger_of, monkeypatch, caplog, during, handler
):
    recon, before = logger_of(), signal.signal(signal.SIGUSR2, handler)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(during, lambda *_: signal.raise_signal(signal.SIGUSR2))
        with pytest.raises(WalltimeError), recon.epoch(1) as shot:
            add_all(shot)
    signal.signal(signal.SIGUSR2, before)
    recon.close()

    assert recon.errors == 0
    assert "submitted" not in caplog.text or "1 submitted = 0 logged + 0 dropped + 0 spooled + 1 failed" in caplog.text


@pytest.mark.parametrize("during", DURING)
def test_an_error_of_a_signal_handler_does_not_hide_that_of_the_training(logger_of, monkeypatch, during):
    """As in `on_exception`, during which SIGTERM may arrive."""
    recon, before, own = logger_of(), signal.signal(signal.SIGUSR2, EndsInTime()), KeyError("of the training")

    def train():
        try:
            raise own
        except KeyError:
            with recon.epoch(1) as shot:
                add_all(shot)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(during, lambda *_: signal.raise_signal(signal.SIGUSR2))
        with pytest.raises(WalltimeError) as raised:
            train()
    signal.signal(signal.SIGUSR2, before)
    recon.close()

    assert raised.value.__context__ is own
    assert not raised.value.__suppress_context__
