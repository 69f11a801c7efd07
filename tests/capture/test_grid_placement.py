"""Grid-lines test splits are placed by their metadata; training splits, which are shuffled, never."""

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Subset

from ptycho_torch.data.grouping import grid_corners
from recon_worker.capture.errors import WrongSettingError
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
from tests.capture.known_scans import (
    N,
    Scan,
    Wrapper,
    assert_true_patches,
    centres_of_patches,
    place,
    stitched_correlations,
)
from tests.reconstruction.known_objects import cut_patches, smooth_object

SIZE, OUTER, OFFSET = 81, 12, 4
OBJECTS = np.stack([smooth_object((SIZE, SIZE), seed) for seed in (3, 4)])
NESTED = {
    "shuffled subset": lambda scan: Subset(scan, np.random.default_rng(0).permutation(len(scan))),
    "concatenation": lambda scan: ConcatDataset([Subset(scan, range(30)), Subset(scan, range(30, len(scan)))]),
}


class GridScan(Scan):
    """Samples of gridsize² patches on the grid of a test split, object after object."""

    def __init__(self, gridsize=1, objects=OBJECTS, stride=OUTER // 2):
        extent = (gridsize - 1) * OFFSET
        corners = grid_corners(SIZE, N + extent, stride)[:, None, ::-1]
        members = OFFSET * np.array([(c, r) for r in range(gridsize) for c in range(gridsize)])
        one = corners + members + N // 2
        self.positions = np.tile(one, (len(objects), 1, 1)).astype(float)
        patches = [cut_patches(truth, one.reshape(-1, 2), N) for truth in objects]
        self.patches = np.concatenate(patches).reshape(-1, gridsize**2, N, N)
        self.metadata = {
            "N": N, "gridsize": gridsize, "offset": OFFSET, "outer_offset_test": OUTER, "nimgs_test": len(objects),
        }  # fmt: skip
        self.container = {"YY_full": objects[..., None], "coords_nominal": self.relative}


@pytest.mark.parametrize("gridsize", [1, 2])
@pytest.mark.parametrize("wrap", [lambda scan: scan, Wrapper, lambda scan: Subset(scan, range(len(scan) - 3))])
def test_a_test_split_is_stitched_on_its_grid(gridsize, wrap):
    dataset = wrap(GridScan(gridsize))

    placement = place(dataset, channels=gridsize**2)

    assert isinstance(placement.geometry, GridGeometry)
    assert placement.geometry.n_objects == 2
    assert min(stitched_correlations(placement, dataset)) > 0.99
    assert_true_patches(placement, dataset, [0, 50, len(dataset) - 1])


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("gridsize", [1, 2])
def test_samples_in_another_order_are_placed_by_position(gridsize, nested):
    dataset = NESTED[nested](GridScan(gridsize))

    placement = place(dataset)

    assert isinstance(placement.geometry, PositionGeometry)
    assert placement.geometry.n_objects == 2
    assert min(stitched_correlations(placement, dataset)) > 0.99
    assert_true_patches(placement, dataset, [0, 50, len(dataset) - 1])


def test_without_offsets_in_the_container_the_patches_of_a_sample_lie_on_the_nominal_grid():
    scan = GridScan(2)
    expected = place(scan).geometry.coords_relative_px

    scan.container = {}

    np.testing.assert_array_equal(place(scan).geometry.coords_relative_px, expected)


def test_metadata_may_be_nested_and_the_amplitude_factor_is_that_of_the_container():
    scan = GridScan()
    scan.metadata = {"schema_version": "1.0", "additional_parameters": scan.metadata}
    scan.container = {"norm_Y_I": np.array(0.7)}

    assert place(scan).geometry.amplitude_scale == 0.7


def test_a_truth_of_the_stitched_area_is_that_of_the_first_object(caplog):
    scan = GridScan()
    whole = place(scan).ground_truth[0]

    scan.container = {"YY_ground_truth": whole[..., None]}
    placement = place(scan)

    np.testing.assert_array_equal(placement.ground_truth[0], whole)
    assert placement.ground_truth[1] is None
    assert placement.true_patch(0) is None  # its rim is unknown
    assert_true_patches(placement, scan, [40])
    assert caplog.text == ""


def _stride_in_positions(scan):
    scan.container["coords_offsets"] = scan.positions[..., ::-1].swapaxes(1, 2)[:, None]


def _size_in_metadata(scan):
    scan.metadata["size"] = SIZE


def _size_of_truth(scan):
    pass


TRAINING_SPLIT = {
    _stride_in_positions: "at a stride of 6 px, but coords_offsets has 2 px; only the test split",
    _size_in_metadata: "at a stride of 6 px, but 9 x 9 fit into 81 px; only the test split",
    _size_of_truth: "(9, 9) samples fit along its axes, but the scan has 25 along each",
}


@pytest.mark.parametrize("sign", TRAINING_SPLIT)
def test_a_training_split_with_the_same_metadata_is_not_stitched(sign):
    scan = GridScan(stride=2)
    sign(scan)

    placement = place(scan)

    assert placement.geometry is None
    assert TRAINING_SPLIT[sign] in placement.skip_reason
    assert placement.true_patch(0) is None


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_split_without_metadata_is_stitched_unless_its_patches_are_elsewhere(shuffled):
    scan = GridScan(objects=OBJECTS[:1])
    del scan.metadata
    order = np.random.default_rng(0).permutation(81) if shuffled else np.arange(81)
    _stride_in_positions(scan)
    scan.container["Y_phi"] = np.moveaxis(np.angle(scan.patches[order]), 1, -1)

    placement = place(scan)

    assert (placement.geometry is None) == shuffled
    assert ("the phases in Y_phi are not those of the true object" in placement.skip_reason) == shuffled


def test_offsets_on_a_grid_that_nothing_confirms_are_not_stitched_unless_passed():
    scan = GridScan(objects=OBJECTS[:1])
    del scan.metadata
    _stride_in_positions(scan)

    assert "coords_offsets lie on a grid" in place(scan).skip_reason
    assert stitched_correlations(place(scan, positions=scan.positions, ground_truth=OBJECTS[0]), scan)[0] > 0.99


def test_offsets_off_any_grid_need_no_confirmation():
    scan = centres_of_patches(Scan())
    del scan.container["objectGuess"]

    assert isinstance(place(scan).geometry, PositionGeometry)


def test_measured_positions_off_the_grid_win_over_metadata_of_a_grid():
    raw = Scan(n=81)
    raw.metadata = GridScan().metadata | {"nimgs_test": 1}
    raw.container = {"global_offsets": raw.mean_px[:, None, :, None], "coords_relative": raw.relative}

    assert isinstance(place(raw).geometry, PositionGeometry)


UNUSABLE = {
    "nimgs_test": (3, "do not make square grids"),
    "outer_offset_test": (13, "it must be even"),
    "N": (64, "are for patches of N = 64 px, but they have 32 px"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_metadata_that_do_not_match_are_a_reason(name):
    scan = GridScan()
    value, said = UNUSABLE[name]
    scan.metadata = scan.metadata | {name: value}

    assert said in place(scan).skip_reason


@pytest.mark.parametrize("metadata", [{}, {"N": N}, {"outer_offset_test": 12}, {"outer_offset_test": "12"}, "grid", 7])
def test_metadata_without_a_grid_are_ignored(metadata):
    scan = GridScan()
    scan.metadata = metadata

    assert "neither grid metadata nor" in place(scan).skip_reason


def test_explicit_truth_is_placed_on_the_grid_whole_or_clipped():
    scan = GridScan(objects=OBJECTS[:1])
    whole = place(scan).ground_truth[0]
    scan.container = {}

    for truth in (OBJECTS[0], whole):
        np.testing.assert_array_equal(place(scan, ground_truth=truth).ground_truth[0], whole)
    with pytest.raises(WrongSettingError, match=r"ground_truth does not match the grid.*\(5, 5\) samples fit"):
        place(scan, ground_truth=OBJECTS[0, :60, :60])


def test_explicit_object_numbers_place_a_grid_by_position():
    scan = GridScan()
    numbers = np.arange(len(scan)) // 81

    placement = place(scan, object_index=1 - numbers, ground_truth=OBJECTS[::-1])

    assert isinstance(placement.geometry, PositionGeometry)
    assert min(stitched_correlations(placement, scan)) > 0.99
