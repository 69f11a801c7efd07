"""Losses against reference arrays and closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from ptycho_torch.model import losses
from tests.paths import REFERENCE, read_npz


def _physics():
    ref = {key: torch.from_numpy(value) for key, value in read_npz(REFERENCE / "physics.npz").items()}
    return ref["pred_amp"], ref["obs_amp"], ref


def test_poisson_likelihood_agrees_with_the_reference():
    pred, obs, ref = _physics()

    torch.testing.assert_close(losses.poisson_nll(pred, obs), ref["poisson_nll"], rtol=1e-4, atol=0)


def test_poisson_likelihood_agrees_with_torch_distributions():
    pred, obs, _ = _physics()
    counts = obs.square().round()

    expected = -torch.distributions.Poisson(pred.square()).log_prob(counts).sum((1, 2, 3))

    torch.testing.assert_close(losses.poisson_nll(pred, counts.sqrt()), expected, rtol=1e-4, atol=0)


def test_mean_absolute_error_agrees_with_the_reference():
    pred, obs, ref = _physics()

    torch.testing.assert_close(losses.mean_absolute_error(pred, obs), ref["mae"].mean((1, 2, 3)), rtol=1e-4, atol=0)


def test_normalised_loss_divides_each_sample_by_its_mean_amplitude():
    per_sample, obs = torch.tensor([2.0, 6.0]), torch.stack([torch.ones(1, 2, 2), 3 * torch.ones(1, 2, 2)])

    torch.testing.assert_close(losses.normalised(per_sample, obs), torch.tensor(2.0))


def test_supervised_loss_weighs_phase_twice_as_much_as_amplitude():
    zero, one = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)

    torch.testing.assert_close(losses.supervised(one, zero, zero, zero), torch.tensor(8.0))
    torch.testing.assert_close(losses.supervised(zero, one, zero, zero), torch.tensor(16.0))


def test_nothing_predicted_where_something_was_measured_is_expensive_but_finite():
    loss = losses.poisson_nll(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))

    assert torch.isfinite(loss).all()
    assert loss.item() > 50


def test_supervised_loss_takes_phases_the_short_way_round():
    label, zero = torch.full((1, 1, 1, 1), torch.pi - 0.1), torch.zeros(1, 1, 1, 1)
    phase = (-label).requires_grad_()

    loss = losses.supervised(zero, phase, zero, label)
    loss.backward()

    torch.testing.assert_close(loss, torch.tensor(4 * 0.2))
    assert phase.grad.item() == 4  # the shorter way leads through -pi


def test_deviance_agrees_with_the_log_likelihood_ratio():
    pred, obs, _ = _physics()
    counts, rate = obs.double().numpy().round() ** 2, pred.double().numpy() ** 2

    ratio = stats.poisson.logpmf(counts, counts) - stats.poisson.logpmf(counts, rate)  # saturated model, model
    found = losses.poisson_deviance(pred, obs.round())

    assert 0 < np.count_nonzero(counts == 0) < counts.size
    assert found.item() == pytest.approx(2 * ratio.mean(), rel=1e-5)


@pytest.mark.parametrize("photons", [100.0, 1e4, 1e8])
def test_deviance_of_a_perfect_model_is_one_where_there_are_photons(photons):
    counts = np.random.default_rng(0).poisson(photons, (4, 1, 64, 64))
    pred, obs = torch.full(counts.shape, photons**0.5), torch.from_numpy(np.sqrt(counts).astype(np.float32))

    assert losses.poisson_deviance(pred, obs).item() == pytest.approx(1, abs=0.04)


def test_deviance_is_zero_for_the_counts_themselves_and_twice_the_rate_where_nothing_was_counted():
    _, obs, _ = _physics()

    assert losses.poisson_deviance(obs, obs).item() == 0
    assert losses.poisson_deviance(torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 2, 2)).item() == 18
