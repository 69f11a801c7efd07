"""Losses against reference arrays and closed forms."""

import numpy as np
import torch

from ptycho_torch.model import losses
from tests.paths import REFERENCE


def _physics():
    ref = {key: torch.from_numpy(value) for key, value in np.load(REFERENCE / "physics.npz").items()}
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
