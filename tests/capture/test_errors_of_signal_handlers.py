"""Errors of the application's signal handlers reach the training, once, wherever in the logging the signal comes."""

import enum
import logging
import signal
import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Callback

from recon_worker import Sample, WorkerSettings
from recon_worker.capture.given_scan import GivenScan, SampleAdapter
from recon_worker.client.inline_backend import MlflowSink
from recon_worker.client.slot_memory import SlotMemory
from tests.capture.test_recon_logger import add_all, logger_of, run_id
from tests.leaks import nothing_left
from tests.lightning.clients import DIFFRACTION, N_SAMPLES, POSITIONS, Container, Module
from tests.lightning.test_clients import callback_of, fit

__all__ = ["logger_of", "run_id"]
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


class WalltimeError(Exception):
    pass


def ends_in_time(_number, _frame):
    raise WalltimeError


def ends_in_time_once(number, frame):
    """A second signal ends the program at once."""
    signal.signal(number, signal.SIG_DFL)
    ends_in_time(number, frame)


@pytest.fixture(autouse=True)
def _installed():
    before = signal.signal(signal.SIGUSR2, ends_in_time)
    yield
    signal.signal(signal.SIGUSR2, before)


def interrupt(*_, **__):
    signal.raise_signal(signal.SIGUSR2)


def ends_in_time_without_cycle(_number, frame):
    del frame
    raise WalltimeError


def ends_in_time_with_closure(number, frame):
    signal.signal(number, signal.SIG_DFL)
    raise WalltimeError(lambda: (number, frame))


@pytest.mark.parametrize("handler", [ends_in_time_once, ends_in_time_without_cycle, ends_in_time_with_closure])
def test_a_handler_may_restore_the_default_or_delete_its_frame(logger_of, monkeypatch, handler):
    monkeypatch.setattr("recon_worker.capture.shot._numbers", interrupt)
    signal.signal(signal.SIGUSR2, handler)

    with logger_of() as recon, pytest.raises(WalltimeError), recon.epoch(1) as shot:
        add_all(shot)


def test_an_error_that_the_training_handles_is_not_raised_again_by_one_of_the_logging(logger_of, caplog):
    with logger_of() as recon:
        try:
            interrupt()
        except WalltimeError:
            with recon.epoch(1) as shot:
                shot.add([0], amp=torch.zeros(3), phase=torch.zeros(3))

    assert recon.errors == 1
    assert "Training continues." in caplog.text


def test_an_upload_that_fails_at_the_end_leaves_on_exception_to_other_callbacks(tracking, monkeypatch):
    def no_server(*_):
        raise OSError("no server")

    class Interrupted(Module):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 2:
                monkeypatch.setattr(MlflowSink, "upload", no_server)
                interrupt()
            return super().training_step(batch, batch_idx)

    class Saves(Callback):
        saved = False

        def on_exception(self, trainer, module, exception):
            self.saved = True

    saves = Saves()
    with pytest.raises(WalltimeError):
        fit(tracking, Interrupted(), Container(), callback_of(every_n_epochs=1), epochs=3, callbacks=[saves])

    assert saves.saved


def test_an_error_while_the_worker_is_started(logger_of, tmp_path, monkeypatch):
    real = subprocess.Popen.__init__

    def starts(*arguments, **settings):
        interrupt()
        real(*arguments, **settings)

    monkeypatch.setattr(subprocess.Popen, "__init__", starts)
    with nothing_left(monkeypatch), pytest.raises(WalltimeError):
        logger_of(worker=WorkerSettings(spool_dir=tmp_path / "spool"))


class Interrupting:
    """A dataset that takes long to read."""

    def __len__(self):
        return N_SAMPLES

    def __getitem__(self, number):
        if number == 7:
            interrupt()
        pattern, position = torch.from_numpy(DIFFRACTION[number]), torch.from_numpy(POSITIONS[number])
        return Sample(diffraction=pattern[None], position_px=position)


class Mode(enum.Enum):
    A = 1


def of_caller(depth=1):
    frame = sys._getframe(depth)
    return frame.f_globals["nowhere"]


@pytest.mark.parametrize("fails", [lambda *_: Mode("B"), lambda *_: of_caller()], ids=["enum", "frame of the caller"])
def test_other_errors_count_as_logging_errors(logger_of, monkeypatch, fails):
    """Also those that look alike: a call of an enum member, such as SIG_DFL, or a helper that reads a frame."""
    monkeypatch.setattr("recon_worker.capture.shot._numbers", fails)

    with logger_of() as recon, recon.epoch(1) as shot:
        add_all(shot)

    assert recon.errors > 0


class LateTruth(GivenScan):
    @property
    def ground_truth(self):
        interrupt()


def test_an_error_while_the_ground_truth_is_read(logger_of):
    scan = LateTruth(length=N_SAMPLES, diffraction=DIFFRACTION, positions=POSITIONS, probe=None)
    with pytest.raises(WalltimeError):
        logger_of(dataset=scan, adapter=SampleAdapter(), ground_truth=None)


def test_an_error_while_positions_are_read(logger_of):
    with pytest.raises(WalltimeError):
        logger_of(dataset=Interrupting(), adapter=SampleAdapter(), positions=None, ground_truth=None)


def test_an_error_while_measured_patterns_are_compared(logger_of, monkeypatch):
    monkeypatch.setattr("recon_worker.capture.capture.misfit", interrupt)

    with logger_of() as recon, pytest.raises(WalltimeError), recon.epoch(1) as shot:
        add_all(shot, diffraction=DIFFRACTION, observed=DIFFRACTION)


def test_an_error_while_predictions_of_validation_are_copied_ends_it_at_that_batch(tracking, monkeypatch):
    monkeypatch.setattr("recon_worker.capture.capture.Capture.add", interrupt)
    module = Module()

    with pytest.raises(WalltimeError):
        fit(tracking, module, Container(), callback_of(every_n_epochs=1, strict=False))

    assert len(module.oracle.calls) == 1


def test_an_error_while_a_message_is_logged(logger_of):
    class Slow(logging.Handler):
        def emit(self, record):
            interrupt()

    slow = Slow()
    logging.getLogger("recon_worker").addHandler(slow)
    try:
        with pytest.raises(WalltimeError):
            logger_of(patch_px=16)
    finally:
        logging.getLogger("recon_worker").removeHandler(slow)


def test_an_alarm_while_a_snapshot_is_stored_loses_nothing(logger_of, tmp_path, monkeypatch, caplog):
    """Handlers of SIGALRM often raise TimeoutError, which is an OSError."""

    def late(_number, _frame):
        raise TimeoutError

    real, before = SlotMemory.store, signal.signal(signal.SIGALRM, late)

    def store(*arguments, **settings):
        signal.raise_signal(signal.SIGALRM)
        real(*arguments, **settings)

    monkeypatch.setattr(SlotMemory, "store", store)
    try:
        recon = logger_of(worker=WorkerSettings(spool_dir=tmp_path / "spool"))
        with recon, pytest.raises(TimeoutError), recon.epoch(1) as shot:
            add_all(shot)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert "1 submitted = 1 logged + 0 dropped + 0 spooled + 0 failed" in caplog.text
