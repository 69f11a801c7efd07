"""Refinement of an object against simulated diffraction of a known one."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.data.scan_patterns import scan_positions
from ptycho_torch.data.simulation import simulate_raw_scan
from ptycho_torch.data.specimens import diffuser_probe, make_object
from ptycho_torch.workflows.refinement import UnrefinableError, _Scan, refine
from recon_worker.comparison import compare, quality
from recon_worker.stitching import Stitched, crop_to_footprint, stitch

N, SIDE = 64, 128
CPU = torch.device("cpu")


def _true_object():
    """Detail of a few pixels in amplitude and phase."""
    pictures = (gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 2) for seed in (0, 1))
    return make_object(*pictures, SIDE)


@pytest.fixture(scope="module", params=[1, 2], ids=["gridsize 1", "gridsize 2"])
def dataset(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    positions = scan_positions("spiral", (SIDE, SIDE), N, 8.0, np.random.default_rng(0))
    np.savez(path, **simulate_raw_scan(_true_object(), diffuser_probe(N, 14, seed=0), positions, nphotons=1e7, seed=0))
    module = PtychoDataModule(
        train_data_file=path, test_data_file=None, kind="raw", n_px=N, gridsize=request.param, batch_size=16
    )
    module.setup("fit")
    return module.train_dataset


def _start(dataset, blur_px=2.5):
    """The true object, blurred, as a network predicts it."""
    geometry = dataset.scan_geometry
    truth = crop_to_footprint(geometry, _true_object())
    amp, phase = gaussian_filter(np.abs(truth), blur_px), gaussian_filter(np.angle(truth), blur_px)
    lit = np.ones((*geometry.positions_px.shape[:2], geometry.crop_px, geometry.crop_px), np.complex64)
    (image,) = stitch(dataclasses.replace(geometry, weight="probe"), lit)
    image.coverage[:4] = 0
    blurred = np.where(image.scanned, amp * np.exp(1j * phase), 0).astype(np.complex64)
    return truth, Stitched(object=blurred, coverage=image.coverage)


def _correlations(image, truth):
    numbers = quality(compare(image.object, truth, image.coverage, ramp=True), truth, None)
    return numbers["phase_correlation"], numbers["amp_correlation"]


def test_a_blurred_object_becomes_the_true_one(dataset):
    truth, start = _start(dataset)
    refined = refine(dataset, start, dataset.scan_geometry, 15, CPU)

    assert max(_correlations(start, truth)) < 0.93
    assert min(_correlations(refined.image, truth)) > 0.98
    assert refined.deviance < 1.5 < 10 < refined.deviance_before
    np.testing.assert_array_equal(refined.image.object[:4], 0)


def test_what_the_true_object_predicts_is_what_was_measured(dataset):
    """Sub-pixel positions, margins and units, against the simulation: only the noise of the counts is left."""
    truth, geometry = _start(dataset)[0], dataset.scan_geometry
    scan = _Scan(dataset, geometry, CPU)
    inside = np.flatnonzero(np.abs(geometry.positions_px[:, 0] - SIDE / 2).max(axis=1) < 20)
    m = scan.margin_px
    whole = np.ones((truth.shape[0] + 2 * m, truth.shape[1] + 2 * m), np.complex64)
    whole[m:-m, m:-m] = truth / geometry.amplitude_scale
    with torch.no_grad():
        predicted, observed = scan.compare(torch.view_as_real(torch.from_numpy(whole)), inside)

    np.testing.assert_allclose(predicted.numpy(), observed.numpy(), atol=3.5)  # sqrt(counts) has a spread of 1/2
    assert float((predicted - observed).square().mean().sqrt()) < 0.6


def test_the_same_start_ends_at_the_same_object(dataset):
    _, start = _start(dataset)
    first, second = (refine(dataset, start, dataset.scan_geometry, 2, CPU) for _ in range(2))

    np.testing.assert_array_equal(first.image.object, second.image.object)
    assert first.metrics == second.metrics


def test_an_object_that_is_not_finite_is_refused(dataset):
    _, start = _start(dataset)
    start.object[20, 20] = np.nan

    with pytest.raises(UnrefinableError, match="not finite"):
        refine(dataset, start, dataset.scan_geometry, 1, CPU)
