"""Refinement of an object against simulated diffraction of a known one."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.simulation.raw_scan import simulate_raw_scan
from ptycho_torch.simulation.scan_patterns import scan_positions
from ptycho_torch.simulation.specimens import diffuser_probe, make_object
from ptycho_torch.workflows.refinement import UnrefinableError, refine
from recon_worker.reconstruction.comparison import compare, quality
from recon_worker.reconstruction.stitching import Stitched, crop_to_footprint, stitch

N, SIDE = 64, 128
CPU = torch.device("cpu")


def _true_object():
    """An object with details of a few pixels in amplitude and phase."""
    pictures = (gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 2) for seed in (0, 1))
    return make_object(*pictures, SIDE)


def _island():
    """The same in the middle, uniform at the edge of the stitched canvas, so that everything beyond it is known."""
    inside = np.pad(np.ones((SIDE - 48, SIDE - 48), bool), 24)
    return np.where(inside, _true_object(), np.complex64(0.9 * np.exp(0.75j)))


def _dataset(folder, object_, gridsize):
    positions = scan_positions("spiral", (SIDE, SIDE), N, 8.0, np.random.default_rng(0))
    np.savez(
        folder / "scan.npz",
        **simulate_raw_scan(object_, diffuser_probe(N, 14, seed=0), positions, nphotons=1e7, seed=0),
    )
    module = PtychoDataModule(
        train_data_file=folder / "scan.npz", test_data_file=None, kind="raw", n_px=N, gridsize=gridsize, batch_size=16
    )
    module.setup("fit")
    return module.train_dataset


@pytest.fixture(scope="module", params=[1, 2], ids=["gridsize 1", "gridsize 2"])
def dataset(request, tmp_path_factory):
    return _dataset(tmp_path_factory.mktemp("scan"), _true_object(), request.param)


@pytest.fixture(scope="module", params=[1, 2], ids=["gridsize 1", "gridsize 2"])
def island(request, tmp_path_factory):
    return _dataset(tmp_path_factory.mktemp("scan"), _island(), request.param)


def _start(dataset, blur_px=2.5, factor=1.0, object_=None):
    """The truth, and a blurred object of another brightness, like a network's prediction."""
    geometry = dataset.scan_geometry
    truth = crop_to_footprint(geometry, _true_object() if object_ is None else object_)
    amp, phase = gaussian_filter(np.abs(truth), blur_px), gaussian_filter(np.angle(truth), blur_px)
    lit = np.ones((*geometry.positions_px.shape[:2], geometry.crop_px, geometry.crop_px), np.complex64)
    (image,) = stitch(dataclasses.replace(geometry, weight="probe"), lit)
    image.coverage[:4] = 0
    blurred = np.where(image.scanned, factor * amp * np.exp(1j * phase), 0).astype(np.complex64)
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


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_a_wrong_brightness_is_corrected(dataset, factor):
    truth, start = _start(dataset, factor=factor)
    refined = refine(dataset, start, dataset.scan_geometry, 3, CPU)

    inside = refined.image.scanned
    assert np.abs(refined.image.object[inside]).mean() == pytest.approx(np.abs(truth[inside]).mean(), rel=0.02)


def test_the_deviance_of_the_true_object_is_that_of_the_noise(island):
    """Sub-pixel positions, margins and units, against the simulation: only counting noise remains."""
    refined = refine(island, _start(island, 0, object_=_island())[1], island.scan_geometry, 15, CPU)

    assert 0.3 < refined.deviance_before < 1.2
    assert 0.3 < refined.deviance < refined.deviance_before


def test_a_refinement_that_comes_no_nearer_to_the_patterns_is_no_result(island):
    """One pass from the true object: the first steps are larger than the possible gain."""
    with pytest.raises(UnrefinableError, match=r"did not improve .* 0\.\d+ before and is \d"):
        refine(island, _start(island, 0, object_=_island())[1], island.scan_geometry, 1, CPU)


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
