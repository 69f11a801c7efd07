"""Several training runs with one callback or in one run keep their artifacts apart."""

# ruff: noqa: F811
import pytest
from lightning.pytorch import Trainer

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.cli.console import ExitCode
from recon_worker.settings import WorkerSettings
from tests.faults.harness import ALWAYS, PYTHON, epochs, inject, nothing_left_behind, sync  # noqa: F401
from tests.lightning.fitting import fit
from tests.lightning.foreign import ForeignDataset, loader

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]
slow = pytest.mark.slow


@pytest.fixture
def callback(tmp_path):
    return logging_callback(WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60))


def logging_callback(worker, **more):
    return PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, worker=worker, strict=True, **more)


@slow
def test_fit_twice_with_one_callback_logs_both_trainings(tracking, callback, mlflow_database, tmp_path):
    other = type(tracking)(mlflow_database, tracking.experiment + "b", tmp_path / "other")
    fit(tracking, callback, epochs=1)
    fit(other, callback, epochs=2)

    assert epochs(tracking) == {1}
    assert epochs(other) == {1, 2}
    assert list(callback.worker.spool_dir.iterdir()) == []


@slow
def test_fit_that_continues_with_the_same_trainer_continues_in_the_same_run(tracking, callback):
    module, trainer = fit(tracking, callback, epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader(ForeignDataset(20)), loader(ForeignDataset(12)))

    assert epochs(tracking) == {1, 2, 3}
    assert list(callback.worker.spool_dir.iterdir()) == []


@slow
def test_fit_then_validate_logs_nothing_more(tracking, callback):
    module, trainer = fit(tracking, callback, epochs=2)
    before = tracking.files()
    trainer.validate(module, loader(ForeignDataset(12)), verbose=False)

    assert tracking.files() == before
    assert epochs(tracking) == {1, 2}


def contents(tracking):
    return {name: tracking.path(name).read_bytes() for name in tracking.files()}


@pytest.mark.parametrize("with_worker", [False, pytest.param(True, marks=slow)])
def test_a_second_fit_in_the_same_run_has_a_folder_and_cards_and_metrics_of_its_own(tracking, tmp_path, with_worker):
    logger = tracking.logger()
    worker = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60) if with_worker else None
    fit(tracking, logging_callback(worker), epochs=1, logger=logger)
    first, cards = contents(tracking), tracking.cards()
    fit(tracking, logging_callback(worker, description=True), epochs=2, logger=logger)

    both = contents(tracking)
    assert {name: both[name] for name in first} == first
    second = {name.removeprefix("fit_2/") for name in both.keys() - first.keys()}
    assert {name for name in first if "events" not in name} <= second
    assert {"epoch_02/summary.png", "recon_log/gallery.html"} <= second
    new = [card for card in tracking.cards() if card not in cards]
    assert {key.split("/")[0] for key, _ in new} == {"fit_2"}
    data = logger.experiment.get_run(logger.run_id).data
    assert {f"fit_2/{name}" for name in data.metrics if name.startswith("recon/")} <= data.metrics.keys()
    assert "fit_2%2Fepoch_02%2Fsummary.png" in data.tags["mlflow.note.content"]


@slow  # the test above has the second fit, cli/test_sync.py the sync
def test_what_a_first_fit_has_left_in_the_spool_and_the_second_fit_are_both_uploaded_by_a_sync(
    tracking, tmp_path, inject, monkeypatch
):
    logger, spool = tracking.logger(), tmp_path / "spool"
    inject("upload", "raise", ALWAYS)
    for _ in range(2):
        fit(tracking, logging_callback(WorkerSettings(spool_dir=spool, flush_timeout_s=1)), epochs=1, logger=logger)
    assert (len(list(spool.iterdir())), tracking.files()) == (2, set())
    monkeypatch.setattr("sys.executable", PYTHON)

    assert sync(spool) == ExitCode.DONE

    files = tracking.files()
    assert {name.removeprefix("fit_2/") for name in files if name.startswith("fit_2/")} == {
        name for name in files if not name.startswith("fit_2/")
    }


@slow
def test_a_training_that_is_resumed_continues_in_the_folder_of_its_own_fit(tracking, tmp_path):
    logger, callback = tracking.logger(), logging_callback(None)
    module, trainer = fit(tracking, callback, epochs=1, logger=logger)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    fit(tracking, logging_callback(None), epochs=1, logger=logger)
    resumed = Trainer(
        max_epochs=2,
        logger=logger,
        callbacks=[logging_callback(None)],
        accelerator="cpu",
        enable_checkpointing=False,  # checkpoints would go to the working directory
    )
    data = loader(ForeignDataset(20)), loader(ForeignDataset(12))
    resumed.fit(module, *data, ckpt_path=tmp_path / "first.ckpt", weights_only=False)

    assert {"epoch_02/summary.png", "fit_2/epoch_01/summary.png"} <= tracking.files()
    assert "fit_2/epoch_02/summary.png" not in tracking.files()
