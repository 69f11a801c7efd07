"""A resumed training keeps the checkpoints that an uninterrupted one would."""

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.lightning.quality_training import kept, logging, train

pytestmark = [pytest.mark.timeout(110), pytest.mark.usefixtures("nothing_left_behind", "plain_sheets")]
ERRORS_RAD = [0.3, 0.8, 0.1, 0.5, 0.2, 0.6]
"""The best reconstructions are those of epochs 3, 5, 1."""


@pytest.mark.parametrize(
    ("checkpoint", "with_worker"),
    [  # test_quality_spooled.py resumes with a worker
        ("its own", False),
        ("another callback's", False),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("its own", "another callback's")),
    ],
)
def test_a_resumed_training_keeps_what_an_uninterrupted_one_keeps(tracking, tmp_path, checkpoint, with_worker):
    worker = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60) if with_worker else None
    last = ModelCheckpoint(tmp_path / "last", save_last=True)
    folder = tmp_path / "best"
    first = train(
        tracking, ERRORS_RAD, ReconQuality(save_top_k=2, dirpath=folder), logs=logging(worker), epochs=3,
        callbacks=[last],
    )  # fmt: skip
    assert kept(folder) == [1, 3]

    quality = ReconQuality(save_top_k=2, dirpath=folder)
    start = folder / "recon-epoch=003.ckpt" if checkpoint == "its own" else last.last_model_path
    train(
        tracking, ERRORS_RAD, quality, logs=logging(worker), resume=str(start),
        logger=tracking.logger(run_id=first.logger.run_id), callbacks=[ModelCheckpoint(tmp_path / "last")],
    )  # fmt: skip

    assert kept(folder) == [3, 5]
    assert quality.best_model_path == str(folder / "recon-epoch=003.ckpt")
    assert sorted(quality._ranking.numbers) == [1, 2, 3, 4, 5, 6]
