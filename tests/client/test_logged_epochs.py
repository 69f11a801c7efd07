"""The lines of logged epochs: their metrics come from the worker, or from the training itself without one."""

import logging
import re
from dataclasses import replace

import pytest

from recon_worker.client.inline_backend import InlineBackend
from recon_worker.client.ledger import Ledger
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.samples import layout_of, log_epoch, make_run, make_scan

LINE = r"Epoch (\d): phase SSIM -?0\.\d{3}( \([+-]0\.\d{3}\))?(, (half-data )?FRC \d+\.\d px)?, logged in \d+\.\d s"


def lines_of(*epochs, took_s=1.14):
    stats, lines = Ledger(), []
    for number, one in enumerate(epochs, 1):
        stats.add_rendered(number, {"metrics": one, "alert": ""})
        lines.append(stats.add_logged(number, took_s))
    return stats, lines


def test_a_line_has_the_metric_of_the_object_its_change_and_the_resolution():
    stitched = {"recon/stitched/phase_ssim": 0.57, "recon/stitched/phase_correlation": 0.9}
    _, lines = lines_of(
        {**stitched, "recon/patches/phase_ssim": 0.1},
        {**stitched, "recon/stitched/phase_ssim": 0.612, "recon/stitched/frc_resolution_half_px": 2.68},
    )

    assert lines == [
        "Epoch 1: phase SSIM 0.570, logged in 1.1 s",
        "Epoch 2: phase SSIM 0.612 (+0.042), FRC 2.7 px, logged in 1.1 s",
    ]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"recon/stitched/phase_correlation": 0.5}, "phase correlation 0.500"),
        ({"recon/patches/phase_ssim": 0.25, "recon/patches/r_factor": 0.3}, "phase SSIM of patches 0.250"),
        (
            {"recon/patches/r_factor": 0.3, "recon/stitched/half_data_frc_half_period_px": 3.0},
            "R-factor of patches 0.300, half-data FRC 3.0 px",
        ),
        ({"recon/patches/deviance": 1.5}, "deviance of patches 1.500"),
    ],
)
def test_a_line_without_phase_ssim_has_the_next_best_metric(metrics, said):
    assert lines_of(metrics)[1] == [f"Epoch 1: {said}, logged in 1.1 s"]


def test_a_line_without_metrics_says_that_the_epoch_is_logged():
    assert lines_of({}, {"recon/stitched/phase_ssim": 0.5})[1] == [
        "Epoch 1: logged in 1.1 s",
        "Epoch 2: phase SSIM 0.500, logged in 1.1 s",
    ]


@pytest.mark.parametrize(("name", "best"), [("stitched/phase_ssim", "2, phase SSIM"), ("patches/r_factor", "1, R-fac")])
def test_the_best_epoch_has_the_highest_ssim_or_the_lowest_r_factor(name, best):
    stats, _ = lines_of(*({f"recon/{name}": value} for value in (0.3, 0.5, 0.4)))

    assert stats.best().startswith(f"Best: epoch {best}")
    assert lines_of({f"recon/{name}": 0.3})[0].best() == ""


@pytest.mark.parametrize("with_worker", [pytest.param(True, marks=pytest.mark.slow), False], ids=["worker", "inline"])
def test_a_backend_logs_a_line_for_each_epoch_and_keeps_its_metrics(tracking, tmp_path, caplog, with_worker):
    scan = make_scan()
    backend = ReconWorker(WorkerSettings(spool_dir=tmp_path)) if with_worker else InlineBackend()
    with caplog.at_level(logging.INFO, "recon_worker"):
        backend.launch()
        backend.start(make_run(tracking), scan, layout_of(scan))
        for epoch in (1, 2):
            log_epoch(backend, layout_of(scan), epoch)
        backend.close(60)

    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [re.fullmatch(LINE, line)[1] for line in lines] == ["1", "2"], lines
    assert backend.stats.epochs == list(backend.stats.metrics) == [1, 2]
    assert all({"recon/stitched/phase_ssim", "recon/patches/amp_mae"} <= set(backend.stats.metrics[n]) for n in (1, 2))
    assert all(backend.settled(epoch) for epoch in (1, 2))
    assert "Best: epoch " in backend.summary()


def test_metrics_of_epochs_that_a_resumed_training_repeats_are_its_own(tracking, tmp_path):
    scan, target, first = make_scan(), make_run(tracking), InlineBackend()
    first.start(target, scan, layout_of(scan))
    for epoch in (1, 2, 3):
        log_epoch(first, layout_of(scan), epoch)
    Outbox(tmp_path / target.run_id).keep_history(first._history.files())  # as if its spool was not empty

    resumed = ReconWorker(WorkerSettings(spool_dir=tmp_path))
    resumed.start(replace(target, earlier_run_id=target.run_id, earlier_epoch=1), scan, layout_of(scan))
    log_epoch(resumed, layout_of(scan), 2)
    resumed.close(60)

    assert sorted(resumed.stats.metrics) == [1, 2]
