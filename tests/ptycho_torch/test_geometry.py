"""Groups, geometry and ground truth of a scan: stitched labels are the true object."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho_torch.data.grouping import nearest_groups
from recon_worker.reconstruction.stitching import crop_start_px, stitch
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
from tests.ptycho_torch.scans import N, grid_module_of, module_of, worst_mismatch


def test_group_members_are_the_nearest_and_ties_go_by_index():
    grid = np.array([(x, y) for y in range(5) for x in range(5)], float)

    groups = nearest_groups(grid, 4)

    assert groups[12].tolist() == [12, 7, 11, 13]
    assert groups[0].tolist() == [0, 1, 5, 6]


def test_a_pattern_leads_its_own_group_even_among_many_duplicates():
    positions = np.zeros((60, 2))

    groups = nearest_groups(positions, 4)

    assert (groups[:, 0] == np.arange(60)).all()
    assert all(len(set(group)) == 4 for group in groups.tolist())


def test_group_coordinates_point_from_the_mean_with_a_minus_sign(raw_arrays, write):
    fields, _, _ = module_of(write(raw_arrays), gridsize=2).train_dataset[3]

    absolute = fields["coords_global"].squeeze(1)
    expected = -(absolute - absolute.mean(dim=0))
    torch.testing.assert_close(fields["coords_relative"].squeeze(1), expected, atol=1e-4, rtol=0)


def test_stitched_labels_reproduce_the_ground_truth_of_a_raw_scan(raw_arrays, write):
    dataset = module_of(write(raw_arrays)).train_dataset

    (canvas,), (truth,) = stitch(dataset.scan_geometry, _label_crops(dataset)), dataset.ground_truth
    known = canvas.scanned & np.isfinite(truth)
    assert truth.shape == canvas.object.shape
    assert np.corrcoef(np.angle(canvas.object[known]), np.angle(truth[known]))[0, 1] > 0.99
    assert np.abs(canvas.object[known]).mean() == pytest.approx(np.abs(truth[known]).mean(), rel=1e-3)


@pytest.mark.parametrize("gridsize", [1, 2])
def test_stitched_labels_reproduce_the_ground_truth_of_grid_lines(grid_files, gridsize):
    dataset = grid_module_of(grid_files, gridsize).test_dataset

    stitched = stitch(dataset.scan_geometry, _label_crops(dataset))

    assert len(stitched) == len(dataset.ground_truth) == 2
    for canvas, truth in zip(stitched, dataset.ground_truth, strict=True):
        np.testing.assert_allclose(canvas.object, truth, atol=1e-4)


def test_the_ground_truth_of_a_test_file_is_the_files_own(grid_files):
    with np.load(grid_files[2][1], allow_pickle=False) as file:
        expected = file["YY_ground_truth"][..., 0]

    np.testing.assert_array_equal(grid_module_of(grid_files, 2).test_dataset.ground_truth[0], expected)


def _label_crops(dataset):
    """(n, C, m, m) labels, cropped for stitching."""
    m = dataset.scan_geometry.crop_px
    crop = slice(crop_start_px(N, m), crop_start_px(N, m) + m)
    fields = [dataset[i][0] for i in range(len(dataset))]
    patches = [torch.polar(f["label_amp"], f["label_phase"])[:, crop, crop].numpy() for f in fields]
    return np.stack(patches)


def test_only_the_test_split_of_grid_lines_is_stitched(grid_files):
    module = grid_module_of(grid_files)

    assert isinstance(module.test_dataset.scan_geometry, GridGeometry)
    assert module.train_dataset.scan_geometry is None
    assert "shuffled" in module.train_dataset.geometry_skip_reason
    assert module.train_dataset.ground_truth == ()
    assert "coords_global" not in module.test_dataset[0][0]


def test_a_raw_scan_knows_its_geometry(raw_arrays, write):
    geometry = module_of(write(raw_arrays), gridsize=2).train_dataset.scan_geometry

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

    dataset = module_of(train, write(arrays), kind="grid_lines").test_dataset

    assert dataset.scan_geometry is None
    assert reason in dataset.geometry_skip_reason
    assert worst_mismatch(dataset) < 1e-2


def test_objects_of_another_grid_are_left_out_with_a_warning(grid_files, write):
    train, test = grid_files[1]
    with np.load(test, allow_pickle=False) as file:
        arrays = {**file, "YY_full": file["YY_full"][:1]}

    with pytest.warns(UserWarning, match="YY_full holds 1 objects"):
        dataset = module_of(train, write(arrays), kind="grid_lines").test_dataset

    np.testing.assert_array_equal(dataset.ground_truth[0], arrays["YY_ground_truth"][..., 0])
    assert dataset.ground_truth[1] is None
