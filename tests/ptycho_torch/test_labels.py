"""Labels are the true object in the network's units, and explain the diffraction."""

import numpy as np
import pytest

from ptycho_torch.simulation.raw_scan import simulate_raw_scan
from ptycho_torch.simulation.specimens import disc_probe
from recon_worker.reconstruction.patches import cut_patch
from tests.ptycho_torch.scans import N, grid_module_of, module_of, worst_mismatch


@pytest.mark.parametrize("gridsize", [1, 2])
def test_labels_of_a_raw_scan_explain_its_diffraction(raw_arrays, write, gridsize):
    dataset = module_of(write(raw_arrays), gridsize=gridsize).train_dataset

    assert worst_mismatch(dataset) < 1e-5


@pytest.mark.parametrize("gridsize", [1, 2])
def test_labels_of_grid_lines_explain_their_diffraction(grid_files, gridsize):
    module = grid_module_of(grid_files, gridsize)

    assert worst_mismatch(module.test_dataset) < 1e-5
    assert worst_mismatch(module.train_dataset) < 1e-2  # the object is unknown where the probe is dark


def test_labels_explain_the_diffraction_under_several_modes(raw_arrays, write):
    modes = np.concatenate([disc_probe(N, 5), 0.4j * disc_probe(N, 3)])
    positions = np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]], axis=1)
    arrays = simulate_raw_scan(raw_arrays["objectGuess"], modes, positions, seed=0, noise=False)

    dataset = module_of(write(arrays)).train_dataset

    assert dataset[0][1].shape == (1, 2, N, N)
    assert worst_mismatch(dataset) < 1e-5


def test_labels_times_the_amplitude_scale_are_the_object(raw_arrays, write):
    dataset = module_of(write({**raw_arrays, "probeGuess": 7 * raw_arrays["probeGuess"]})).train_dataset

    fields, _, _ = dataset[9]
    x, y = fields["coords_global"].numpy().reshape(2).astype(float)
    expected = cut_patch(raw_arrays["objectGuess"], np.array([x, y]), N)
    label = fields["label_amp"][0].numpy() * dataset.amplitude_scale
    np.testing.assert_allclose(label, np.abs(expected), rtol=1e-4)
    np.testing.assert_allclose(fields["label_phase"][0], np.angle(expected), atol=1e-4)


def test_supervised_grid_lines_are_scaled_by_the_files_norm(grid_files):
    dataset = grid_module_of(grid_files, model_type="supervised").test_dataset

    with np.load(grid_files[1][1], allow_pickle=False) as file:
        assert dataset.amplitude_scale == dataset.scan_geometry.amplitude_scale == file["norm_Y_I"]
        expected = np.abs(file["YY_full"][0, :N, :N, 0])
    np.testing.assert_allclose(dataset[0][0]["label_amp"][0] * dataset.amplitude_scale, expected, rtol=1e-5)


def test_patches_that_stick_out_of_the_object_have_no_label(raw_arrays, write):
    smaller = {**raw_arrays, "objectGuess": raw_arrays["objectGuess"][:48, :48]}
    dataset = module_of(write(smaller)).train_dataset

    fits = (np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]]) <= 48 - N / 2).all(axis=0)
    labelled = np.array([bool(dataset[i][0]["label_amp"].any()) for i in range(len(dataset))])
    np.testing.assert_array_equal(labelled, fits)
    assert np.isnan(dataset.ground_truth[0][-1, -1])


def test_a_scan_without_truth_has_zero_labels(raw_arrays, write):
    bare = {key: value for key, value in raw_arrays.items() if key != "objectGuess"}

    dataset = module_of(write(bare)).train_dataset

    assert not dataset[0][0]["label_amp"].any()
    assert dataset.ground_truth == (None,)
    assert dataset.amplitude_scale == dataset.scan_geometry.amplitude_scale == 1


def test_true_patches_of_the_file_serve_where_there_is_no_object(raw_arrays, write):
    positions = np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]], axis=1)
    patches = np.stack([cut_patch(raw_arrays["objectGuess"], p, N) for p in positions])
    arrays = {**raw_arrays, "Y": patches[..., None]}
    del arrays["objectGuess"]

    assert worst_mismatch(module_of(write(arrays)).train_dataset) < 1e-5
