"""Alerts on the reconstructions of a run, from their metrics."""

import pytest

from recon_worker.reconstruction.alerts import STAGNATION_EPOCHS, alerts

SSIM, CUTOFF, R_FACTOR = "recon/stitched/phase_ssim", "recon/stitched/frc_cutoff_half", "recon/patches/r_factor"


def history(name, *values):
    """Metrics of epochs 1, 2, ... with these values of one of them."""
    return {epoch: {name: value} for epoch, value in enumerate(values, 1)}


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        (SSIM, (0.5, 0.8, 0.39), "recon/stitched/phase_ssim fell from 0.8 (epoch 2) to 0.39"),
        (CUTOFF, (0.2, 0.1), "recon/stitched/frc_cutoff_half fell from 0.2 (epoch 1) to 0.1"),
        (R_FACTOR, (0.3, 0.2, 0.5), "recon/patches/r_factor rose from 0.2 (epoch 2) to 0.5"),
    ],
)
def test_a_metric_that_is_half_as_good_as_its_best_is_a_collapse(name, values, text):
    assert alerts(history(name, *values)) == {len(values): text}


@pytest.mark.parametrize(
    ("name", "values"),
    [(SSIM, (0.8, 0.5)), (SSIM, (0.1, 0.01)), (CUTOFF, (0.155, 0.05)), (R_FACTOR, (0.05, 0.15)), (SSIM, (0.1, 0.8))],
)
def test_smaller_changes_and_those_of_poor_values_are_no_collapse(name, values):
    assert alerts(history(name, *values)) == {}


def test_the_r_factor_counts_only_without_a_ground_truth():
    rising = history(R_FACTOR, 0.2, 0.9)

    assert alerts({epoch: {SSIM: 0.5, **one} for epoch, one in rising.items()}) == {}
    assert list(alerts(rising)) == [2]


def test_values_that_are_not_finite_are_named_with_their_share():
    found = alerts({1: {"recon/stitched/finite_share": 1.0}, 2: {"recon/stitched/finite_share": 0.75}})

    assert found == {2: "NaN or infinite values in 25 % of the prediction (recon/stitched/finite_share)"}


def test_no_better_value_for_ten_logged_epochs_is_stagnation():
    assert alerts(history(SSIM, 0.5, *[0.5] * (STAGNATION_EPOCHS - 1))) == {}

    found = alerts(history(SSIM, 0.4, 0.5, *[0.5] * STAGNATION_EPOCHS))
    assert found == {12: "no better reconstruction for 10 logged epochs, since epoch 2 (recon/stitched/phase_ssim 0.5)"}


def test_each_kind_of_alert_occurs_once_and_never_for_the_untrained_network():
    collapses = history(SSIM, 0.8, 0.1, 0.8, 0.1)

    assert list(alerts(collapses)) == [2]
    assert alerts({0: {SSIM: 0.9}} | history(SSIM, 0.3)) == {}


def test_two_alerts_of_an_epoch_are_one_text():
    found = alerts({1: {SSIM: 0.8}, 2: {SSIM: 0.1, "recon/patches/finite_share": 0.5}})

    assert found[2].count(",") == 1
    assert "NaN" in found[2]
    assert "fell" in found[2]


@pytest.mark.parametrize("truth", [SSIM, "recon/patches/phase_mae_rad"])
def test_with_a_ground_truth_the_r_factor_never_counts(truth):
    undefined = {1: {truth: 0.5, R_FACTOR: 0.2}, 2: {R_FACTOR: 0.9}}  # NaN: nothing is compared with the truth
    worse = {epoch: {truth: 0.5 + epoch / 100, R_FACTOR: 0.2 + epoch / 100} for epoch in range(1, 20)}

    assert alerts(undefined) == alerts(worse) == {}
