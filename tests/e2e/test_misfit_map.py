"""The misfit map of a scan with ten corrupted patterns marks just these."""

import mlflow
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from recon_worker import ReconLogger, WorkerSettings, open_run
from recon_worker.lightning import PtychoReconLoggingCallback
from tests.lightning.clients import (
    DIFFRACTION,
    N_SAMPLES,
    PATCHES,
    POSITIONS,
    TRUTH,
    Container,
    CountIntensity,
    CountModule,
    Module,
    loader,
)
from tests.lightning.quiet import QUIET
from tests.samples import make_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]

CORRUPTED = sorted(np.random.default_rng(5).choice(N_SAMPLES, 10, replace=False).tolist())
AMP, PHASE = np.abs(PATCHES), np.angle(PATCHES).astype(np.float32)


def corrupted(patterns):
    """Patterns of which ten are rolled by a quarter: the photons are right, their places are not."""
    found = patterns.copy()
    found[CORRUPTED] = np.roll(found[CORRUPTED], 8, axis=-1)
    return found


class CorruptedScan(Container):
    def fields(self, number):
        return super().fields(number) | {"observed_images": torch.from_numpy(corrupted(DIFFRACTION)[number])[None]}


class CorruptedCounts(CountIntensity):
    def fields(self, number):
        counts = torch.from_numpy(corrupted(DIFFRACTION)[number])[None] ** 2 * self.scale
        return super().fields(number) | {"observed_images": counts, "measured_intensity": counts}


def assert_marked(run_id, tracking, epoch=-1):
    """Table, metrics and map show the corrupted samples and no others."""
    run = open_run(run_id, tracking.uri)
    misfit = run.misfit(epoch)
    assert misfit.samples.tolist() == list(range(N_SAMPLES))
    for values in (misfit.r_factor, misfit.deviance_per_photon):
        assert np.flatnonzero(values > 0.1).tolist() == CORRUPTED
        assert values[values <= 0.1].max() < 1e-3
    assert sorted(misfit.samples[misfit.worst_first()[:10]].tolist()) == CORRUPTED
    metrics = run.metrics.iloc[-1]
    assert metrics["recon/stitched/misfit_r_factor_median"] < 1e-3
    assert metrics["recon/stitched/misfit_r_factor_p95"] > 0.1
    picture = run.picture(epoch, "stitched/misfit")
    x, y = np.rint(misfit.positions_px).astype(int).T
    assert np.flatnonzero(picture.values[y, x] > 0.1).tolist() == CORRUPTED
    assert picture.values.shape == run.object(epoch).object.shape


@pytest.mark.parametrize("worker", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["inline", "worker"])
def test_in_a_plain_loop(tracking, tmp_path, worker):
    target = make_run(tracking)
    settings = WorkerSettings(spool_dir=tmp_path) if worker else None
    patterns = corrupted(DIFFRACTION)

    with ReconLogger(
        tracking_uri=tracking.uri, run_id=target.run_id, positions=POSITIONS, ground_truth=TRUTH,
        diffraction=patterns, worker=settings, strict=True,
    ) as recon, recon.epoch(5) as shot:  # fmt: skip
        for rows in np.array_split(np.random.default_rng(0).permutation(N_SAMPLES), 4):
            shot.add(rows, amp=AMP[rows], phase=PHASE[rows], diffraction=DIFFRACTION[rows])

    assert_marked(target.run_id, tracking)


def test_in_a_plain_loop_whose_batches_bring_the_patterns(tracking):
    target = make_run(tracking)
    patterns = torch.from_numpy(corrupted(DIFFRACTION))

    with ReconLogger(
        tracking_uri=tracking.uri, run_id=target.run_id, positions=POSITIONS, ground_truth=TRUTH, strict=True
    ) as recon, recon.epoch(5) as shot:  # fmt: skip
        shot.add(range(N_SAMPLES), amp=AMP, phase=PHASE, diffraction=DIFFRACTION, observed=patterns)

    assert_marked(target.run_id, tracking)


@pytest.mark.parametrize("returns", [False, True], ids=["hook", "returned"])
@pytest.mark.parametrize(("module", "scan"), [(Module, CorruptedScan), (CountModule, CorruptedCounts)])
def test_in_a_lightning_training(tracking, module, scan, returns):
    callback = PtychoReconLoggingCallback(every_n_epochs=1, num_patches=2, log_stitch=True, strict=True)

    trainer = fit(tracking, module(returns=returns), scan(), callback)

    assert_marked(trainer.logger.run_id, tracking)


def test_without_predicted_diffraction_there_is_no_misfit(tracking):
    target = make_run(tracking)

    with ReconLogger(
        tracking_uri=tracking.uri, run_id=target.run_id, positions=POSITIONS, diffraction=DIFFRACTION, strict=True
    ) as recon, recon.epoch(5) as shot:  # fmt: skip
        shot.add(range(N_SAMPLES), amp=AMP, phase=PHASE)

    assert not [name for name in tracking.files() if "misfit" in name]
    metrics = mlflow.MlflowClient(tracking.uri).get_run(target.run_id).data.metrics
    assert not [name for name in metrics if "misfit" in name]


def fit(tracking, module, dataset, callback):
    torch.manual_seed(1)
    trainer = Trainer(
        max_epochs=1,
        logger=tracking.logger(),
        callbacks=[callback] if callback else [],
        num_sanity_val_steps=0,
        **QUIET,
    )
    trainer.fit(module, loader(dataset, batch_size=30), loader(dataset))
    return trainer
