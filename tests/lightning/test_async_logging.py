"""The worker process makes the same artifacts as inline logging, and disturbs the training less."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import MLFlowLogger

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from recon_worker.settings import WorkerSettings
from tests.leaks import child_processes
from tests.lightning.fitting import epochs_logged, fit, weights
from tests.lightning.foreign import ForeignModule

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60)


def _callback(worker, **more):
    return PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, worker=worker, strict=True, **more)


def _seeded(**more):
    torch.manual_seed(3)
    return ForeignModule(**more)


class _Reusing(ForeignModule):
    """Reuses the memory of its predictions and of the batch immediately."""

    def __init__(self):
        super().__init__(returns_predictions=True)
        self.memory = {}

    def validation_step(self, batch, batch_idx):
        predictions = super().validation_step(batch, batch_idx)
        for name, values in predictions.items():
            self.memory.setdefault(name, torch.empty(2 * len(values), *values.shape[1:]))[: len(values)] = values
        return {name: self.memory[name][: len(values)] for name, values in predictions.items()}

    def on_validation_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
        for values in [*self.memory.values(), *batch[0].values()]:
            values.zero_()


def test_inline_and_async_runs_leave_the_same_bytes_and_weights_even_if_memory_is_used_again(
    tracking, settings, new_tracking
):
    other = new_tracking()
    torch.manual_seed(3)
    reusing = _Reusing()

    plain, _ = fit(tracking, None, epochs=2, module=_seeded(returns_predictions=True), logger=False)
    inline, _ = fit(tracking, _callback(None, arrays="npz"), epochs=2, module=_seeded(returns_predictions=True))
    fit(other, _callback(settings, arrays="npz"), epochs=2, module=reusing)

    assert reusing.losses == inline.losses == plain.losses
    assert torch.equal(weights(reusing), weights(plain))
    assert torch.equal(weights(inline), weights(plain))
    assert all(memory.eq(0).all() for memory in reusing.memory.values())
    assert tracking.files() | {"recon_log/events.csv"} == other.files()
    assert tracking.cards() == other.cards()
    assert all(tracking.path(name).read_bytes() == other.path(name).read_bytes() for name in tracking.files())
    assert list(settings.spool_dir.iterdir()) == []


@pytest.mark.slow  # the test above compares weights
@pytest.mark.parametrize("returns_predictions", [True, False])
def test_training_with_the_worker_is_bit_identical_to_training_without_logging(tracking, settings, returns_predictions):
    plain, _ = fit(tracking, None, epochs=3, module=_seeded(returns_predictions=returns_predictions), logger=False)

    logged, _ = fit(tracking, _callback(settings), epochs=3, module=_seeded(returns_predictions=returns_predictions))

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02", "epoch_03"]
    assert logged.losses == plain.losses
    assert torch.equal(weights(logged), weights(plain))


class _FailAtStep(Callback):
    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("bad batch"), pytest.param(SystemExit(3), marks=pytest.mark.slow)],
    ids=["exception", "sys.exit"],
)
def test_an_exception_in_training_still_flushes_what_was_submitted(tracking, settings, error):
    with pytest.raises(type(error)):
        fit(tracking, _callback(settings), epochs=3, callbacks=[_FailAtStep(5, error)])

    assert epochs_logged(tracking) == ["epoch_01"]


def test_a_failure_before_the_first_step_ends_the_worker(tracking, settings):
    before = child_processes()

    with pytest.raises(ValueError, match="samples; allowed"):
        fit(tracking, PtychoReconLoggingCallback(1, fixed_indices=[99], worker=settings))

    assert child_processes() == before


@pytest.mark.slow
def test_one_callback_serves_two_fits(tracking, new_tracking, settings):
    other = new_tracking()
    callback = _callback(settings)

    fit(tracking, callback, epochs=1)
    fit(other, callback, epochs=2)

    assert epochs_logged(tracking) == ["epoch_01"]
    assert epochs_logged(other) == ["epoch_01", "epoch_02"]


@pytest.mark.slow
def test_a_callback_with_a_running_worker_can_be_pickled(tracking, settings):
    copies = []

    class Pickle(Callback):
        def on_train_epoch_end(self, trainer, module):
            copies.append(pickle.loads(pickle.dumps(callback)))

    callback = _callback(settings)
    fit(tracking, callback, epochs=1, callbacks=[Pickle()])

    assert copies[0].every_n_epochs == 1
    assert "epoch_01/stitched/amp_pred.png" in tracking.files()


class _ChangesDirectory(Callback):
    """Changes the working directory, as Hydra and some launchers do."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_start(self, trainer, pl_module):
        os.chdir(self.folder)


@pytest.mark.parametrize("make_logger", [pytest.param(MLFlowLogger, marks=pytest.mark.slow), QueuedMLFlowLogger])
@pytest.mark.parametrize("inside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_relative_database_and_spool_are_where_the_logger_was_made(
    tracking, tmp_path, monkeypatch, caplog, make_logger, inside
):
    database, elsewhere = Path(tracking.uri.removeprefix("sqlite:///")), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(database.parent)
    logger = make_logger(
        experiment_name=tracking.experiment,
        tracking_uri=f"sqlite:///{database.name}?timeout=20",
        artifact_location=tracking.artifacts.as_uri(),
    )
    callback = _callback(WorkerSettings(spool_dir=Path("spool"), flush_timeout_s=60))
    if not inside:
        os.chdir(elsewhere)

    fit(tracking, callback, epochs=1, logger=logger, callbacks=[_ChangesDirectory(elsewhere)] if inside else [])

    assert epochs_logged(tracking) == ["epoch_01"]
    assert "died" not in caplog.text
    assert (list(elsewhere.iterdir()), (database.parent / "spool").is_dir()) == ([], True)
