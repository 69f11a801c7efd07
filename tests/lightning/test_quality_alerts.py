"""A broken reconstruction causes one warning line and a tag of the run, never an exception."""

import math

import mlflow
import pytest

from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.lightning.quality_training import kept, logging, train

pytestmark = [pytest.mark.timeout(110), pytest.mark.usefixtures("nothing_left_behind", "plain_sheets")]


@pytest.mark.parametrize("with_worker", [pytest.param(True, marks=pytest.mark.slow), False], ids=["worker", "inline"])
def test_a_reconstruction_that_is_not_finite_or_collapses_is_a_warning_and_a_tag(
    tracking, tmp_path, caplog, with_worker
):
    worker = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60) if with_worker else None
    quality = ReconQuality(dirpath=tmp_path / "best")
    trainer = train(tracking, [0.1, math.nan, 3.0, math.nan], quality, logs=logging(worker))

    warned = [one.getMessage() for one in caplog.records if one.name.startswith("recon_worker.client")]
    warned = [text for text in warned if "NaN" in text or "fell" in text]
    assert [text[:8] for text in warned] == ["Epoch 2:", "Epoch 3:"]
    tags = mlflow.MlflowClient(tracking.uri).get_run(trainer.logger.run_id).data.tags
    assert tags["recon_log.alert"] == "; ".join(text[0].lower() + text[1:].rstrip(".") for text in warned)
    assert kept(tmp_path / "best") == [1]
    assert quality.best_model_score > 0.9
