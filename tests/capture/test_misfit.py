"""The misfit of each sample's diffraction, from validation's predictions to the snapshot."""

import numpy as np
import pytest
import torch

from recon_worker.capture.adapters import Predictions, PtychoPinnAdapter, TupleAdapter
from recon_worker.capture.capture import Capture, Measured, misfit
from recon_worker.capture.copying import Copier
from recon_worker.capture.plan import CapturePlan
from recon_worker.reconstruction.diffraction_metrics import poisson_deviance, r_factor
from recon_worker.snapshot.records import SnapshotLayout

N, N_SAMPLES = 16, 30
LAYOUT = SnapshotLayout(n_fixed=1, patch_px=N, n_stitch=N_SAMPLES, crop_px=8)


def patterns(seed, n=N_SAMPLES, channels=1):
    """Measured and predicted diffraction amplitude, (n, C, N, N) each."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(2, 20, (n, channels, N, N))
    return np.sqrt(rng.poisson(rate)).astype(np.float32), np.sqrt(rate).astype(np.float32)


@pytest.mark.parametrize("intensity", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_numbers_are_those_of_their_definitions(intensity, channels):
    observed, predicted = patterns(1, 6, channels)
    power = 2 if intensity else 1

    found = misfit(torch.from_numpy(predicted**power), torch.from_numpy(observed**power), intensity=intensity).numpy()

    pairs = list(zip(predicted, observed, strict=True))
    photons_per_pixel = np.mean(observed.astype(np.float64) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found[:, 0], [r_factor(*pair) for pair in pairs], rtol=1e-5)
    np.testing.assert_allclose(
        found[:, 1] * photons_per_pixel, [poisson_deviance(*pair, photon_scale=1) for pair in pairs], rtol=1e-4
    )


def test_the_scale_of_amplitudes_does_not_matter():
    observed, predicted = map(torch.from_numpy, patterns(2))

    found = misfit(1e-3 * predicted, 1e-3 * observed, intensity=False)

    torch.testing.assert_close(found, misfit(predicted, observed, intensity=False), rtol=1e-4, atol=0)


def test_the_misfit_of_dark_or_infinite_patterns_is_infinite_and_that_of_dark_pixels_is_not():
    observed, predicted = map(torch.from_numpy, patterns(3, 4))
    observed[0], predicted[1, 0, 3, 3], predicted[2] = 0, torch.nan, 0

    found = misfit(predicted, observed, intensity=False)

    assert found[:2].isinf().all()
    assert found[2:].isfinite().all()
    assert found[2, 0].item() == pytest.approx(1)


@pytest.mark.parametrize("staged", [False, True], ids=["direct", "staged"])
@pytest.mark.parametrize("order", [np.arange(N_SAMPLES), np.random.default_rng(0).permutation(N_SAMPLES)])
def test_each_misfit_arrives_in_the_row_of_its_sample(staged, order):
    observed, predicted = map(torch.from_numpy, patterns(4))
    plan, arrays = CapturePlan(fixed_indices=(0,), layout=LAYOUT), LAYOUT.allocate()
    capture = Capture(plan, arrays, Copier(torch.device("cpu"), staged=staged))

    for batch in np.array_split(order, 4):
        amp = torch.ones(len(batch), 1, N, N)
        known = Measured("patterns", lambda batch=batch: None if 7 in batch else observed[batch])
        capture.add(capture.target_of(batch), Predictions(amp, amp, predicted[batch]), known)
    capture.finish()

    expected = misfit(predicted, observed, intensity=False).numpy()
    unknown = next(batch for batch in np.array_split(order, 4) if 7 in batch)
    expected[unknown] = np.nan
    np.testing.assert_allclose(arrays.misfit, expected, rtol=1e-6)


def test_adapters_find_the_measured_patterns_of_a_batch():
    images = torch.rand(4, 3, N, N)  # the network's input: a pattern, and two channels of conditions
    fields = {"images": images, "coords_relative": torch.zeros(4, 1, 1, 2)}

    assert PtychoPinnAdapter().observed((fields, None, None)).equal(images[:, :1])
    assert PtychoPinnAdapter().observed((fields | {"observed_images": images[:, 2:]}, None, None)).equal(images[:, 2:])
    assert TupleAdapter().observed((images[:, 0], images[:, 1], images[:, 2])).equal(images[:, 0])
