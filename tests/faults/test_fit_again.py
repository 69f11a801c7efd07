"""One callback through several calls of the Trainer."""

import pytest

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.settings import WorkerSettings
from tests.faults.harness import epochs, nothing_left_behind  # noqa: F401
from tests.lightning.foreign import ForeignDataset, loader
from tests.lightning.test_recon_logging import fit

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]


@pytest.fixture
def callback(tmp_path):
    worker = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60)
    return PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, worker=worker, strict=True)


def test_fit_twice_with_one_callback_logs_both_trainings(tracking, callback, mlflow_database, tmp_path):
    other = type(tracking)(mlflow_database, tracking.experiment + "b", tmp_path / "other")
    fit(tracking, callback, epochs=1)
    fit(other, callback, epochs=2)

    assert epochs(tracking) == {0, 1}
    assert epochs(other) == {0, 1, 2}
    assert list(callback.worker.spool_dir.iterdir()) == []


def test_fit_that_goes_on_with_the_same_trainer_goes_on_in_the_same_run(tracking, callback):
    module, trainer = fit(tracking, callback, epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader(ForeignDataset(20)), loader(ForeignDataset(12)))

    assert epochs(tracking) == {0, 1, 2, 3}
    assert list(callback.worker.spool_dir.iterdir()) == []


def test_fit_then_validate_logs_nothing_more(tracking, callback):
    module, trainer = fit(tracking, callback, epochs=2)
    before = tracking.files()
    trainer.validate(module, loader(ForeignDataset(12)), verbose=False)

    assert tracking.files() == before
    assert epochs(tracking) == {0, 1, 2}
