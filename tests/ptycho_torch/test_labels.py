"""Labels, ground truth and geometry of a dataset agree with its diffraction and with each other."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptycho_torch.data.patches import cut_patch
from ptycho_torch.data.simulation import simulate_raw_scan
from ptycho_torch.data.specimens import disc_probe
from recon_worker.reconstruction.stitching import stitch
from recon_worker.snapshot.records import GridGeometry, PositionGeometry
from tests.ptycho_torch.datasets import N, data_module, grid_module, label_crops, worst_mismatch


@pytest.mark.parametrize("gridsize", [1, 2])
def test_labels_of_a_raw_scan_explain_its_diffraction(raw_arrays, write, gridsize):
    dataset = data_module(write(raw_arrays), gridsize=gridsize).train_dataset

    assert worst_mismatch(dataset) < 1e-5


@pytest.mark.parametrize("gridsize", [1, 2])
def test_labels_of_grid_lines_explain_their_diffraction(grid_files, gridsize):
    module = grid_module(grid_files, gridsize)

    assert worst_mismatch(module.test_dataset) < 1e-5
    assert worst_mismatch(module.train_dataset) < 1e-2  # the object is unknown where the probe is dark


def test_labels_explain_the_diffraction_under_several_modes(raw_arrays, write):
    modes = np.concatenate([disc_probe(N, 5), 0.4j * disc_probe(N, 3)])
    positions = np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]], axis=1)
    arrays = simulate_raw_scan(raw_arrays["objectGuess"], modes, positions, seed=0, noise=False)

    dataset = data_module(write(arrays)).train_dataset

    assert dataset[0][1].shape == (1, 2, N, N)
    assert worst_mismatch(dataset) < 1e-5


def test_labels_times_the_amplitude_scale_are_the_object(raw_arrays, write):
    dataset = data_module(write({**raw_arrays, "probeGuess": 7 * raw_arrays["probeGuess"]})).train_dataset

    fields, _, _ = dataset[9]
    x, y = fields["coords_global"].numpy().reshape(2).astype(float)
    expected = cut_patch(raw_arrays["objectGuess"], np.array([x, y]), N)
    label = fields["label_amp"][0].numpy() * dataset.amplitude_scale
    np.testing.assert_allclose(label, np.abs(expected), rtol=1e-4)
    np.testing.assert_allclose(fields["label_phase"][0], np.angle(expected), atol=1e-4)


def test_stitched_labels_reproduce_the_ground_truth_of_a_raw_scan(raw_arrays, write):
    dataset = data_module(write(raw_arrays)).train_dataset

    (canvas,), (truth,) = stitch(dataset.scan_geometry, label_crops(dataset)), dataset.ground_truth
    known = canvas.scanned & np.isfinite(truth)
    assert truth.shape == canvas.object.shape
    assert np.corrcoef(np.angle(canvas.object[known]), np.angle(truth[known]))[0, 1] > 0.99
    assert np.abs(canvas.object[known]).mean() == pytest.approx(np.abs(truth[known]).mean(), rel=1e-3)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_stitched_labels_reproduce_the_ground_truth_of_grid_lines(grid_files, gridsize):
    dataset = grid_module(grid_files, gridsize).test_dataset

    stitched = stitch(dataset.scan_geometry, label_crops(dataset))

    assert len(stitched) == len(dataset.ground_truth) == 2
    for canvas, truth in zip(stitched, dataset.ground_truth, strict=True):
        np.testing.assert_allclose(canvas.object, truth, atol=1e-4)


def test_the_ground_truth_of_a_test_file_is_the_files_own(grid_files):
    with np.load(grid_files[2][1], allow_pickle=False) as file:
        expected = file["YY_ground_truth"][..., 0]

    np.testing.assert_array_equal(grid_module(grid_files, 2).test_dataset.ground_truth[0], expected)


def test_only_the_test_split_of_grid_lines_is_stitched(grid_files):
    module = grid_module(grid_files)

    assert isinstance(module.test_dataset.scan_geometry, GridGeometry)
    assert module.train_dataset.scan_geometry is None
    assert "shuffled" in module.train_dataset.geometry_skip_reason
    assert module.train_dataset.ground_truth == ()
    assert "coords_global" not in module.test_dataset[0][0]


def test_a_raw_scan_knows_its_geometry(raw_arrays, write):
    geometry = data_module(write(raw_arrays), gridsize=2).train_dataset.scan_geometry

    assert isinstance(geometry, PositionGeometry)
    assert geometry.positions_px.shape == (len(raw_arrays["diff3d"]), 4, 2)
    assert replace(geometry, weight="probe").probe_intensity.shape == (N // 2, N // 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outer_offset_test": 0}, "outer_offset is 0 px"),
        ({"outer_offset_test": None}, "no whole number for outer_offset_test"),
        ({"outer_offset_test": 2 * N}, "twice the patch side"),
        ({"outer_offset_test": 2 * N + 2}, "twice the patch side"),
        ({"nimgs_test": 3}, "square"),
    ],
)
def test_a_grid_that_cannot_be_stitched_says_why_and_still_gives_samples(grid_files, write, changes, reason):
    train, test = grid_files[1]
    with np.load(test, allow_pickle=False) as file:
        arrays = dict(file)
    document = json.loads(arrays["_metadata"].item())
    document["additional_parameters"].update(changes)
    arrays["_metadata"] = np.array(json.dumps(document))

    dataset = data_module(train, write(arrays), kind="grid_lines").test_dataset

    assert dataset.scan_geometry is None
    assert reason in dataset.geometry_skip_reason
    assert worst_mismatch(dataset) < 1e-2


def test_objects_of_another_grid_are_left_out_with_a_warning(grid_files, write):
    train, test = grid_files[1]
    with np.load(test, allow_pickle=False) as file:
        arrays = {**file, "YY_full": file["YY_full"][:1]}

    with pytest.warns(UserWarning, match="YY_full holds 1 objects"):
        dataset = data_module(train, write(arrays), kind="grid_lines").test_dataset

    np.testing.assert_array_equal(dataset.ground_truth[0], arrays["YY_ground_truth"][..., 0])
    assert dataset.ground_truth[1] is None


def test_supervised_grid_lines_are_scaled_by_the_files_norm(grid_files):
    dataset = grid_module(grid_files, model_type="supervised").test_dataset

    with np.load(grid_files[1][1], allow_pickle=False) as file:
        assert dataset.amplitude_scale == dataset.scan_geometry.amplitude_scale == file["norm_Y_I"]
        expected = np.abs(file["YY_full"][0, :N, :N, 0])
    np.testing.assert_allclose(dataset[0][0]["label_amp"][0] * dataset.amplitude_scale, expected, rtol=1e-5)


def test_patches_that_stick_out_of_the_object_have_no_label(raw_arrays, write):
    smaller = {**raw_arrays, "objectGuess": raw_arrays["objectGuess"][:48, :48]}
    dataset = data_module(write(smaller)).train_dataset

    fits = (np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]]) <= 48 - N / 2).all(axis=0)
    labelled = np.array([bool(dataset[i][0]["label_amp"].any()) for i in range(len(dataset))])
    np.testing.assert_array_equal(labelled, fits)
    assert np.isnan(dataset.ground_truth[0][-1, -1])


def test_a_scan_without_truth_has_zero_labels(raw_arrays, write):
    bare = {key: value for key, value in raw_arrays.items() if key != "objectGuess"}

    dataset = data_module(write(bare)).train_dataset

    assert not dataset[0][0]["label_amp"].any()
    assert dataset.ground_truth == (None,)
    assert dataset.amplitude_scale == dataset.scan_geometry.amplitude_scale == 1


def test_true_patches_of_the_file_serve_where_there_is_no_object(raw_arrays, write):
    positions = np.stack([raw_arrays["xcoords"], raw_arrays["ycoords"]], axis=1)
    patches = np.stack([cut_patch(raw_arrays["objectGuess"], p, N) for p in positions])
    arrays = {**raw_arrays, "Y": patches[..., None]}
    del arrays["objectGuess"]

    assert worst_mismatch(data_module(write(arrays)).train_dataset) < 1e-5
