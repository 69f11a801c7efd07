"""Positions and true objects are found in datasets of other projects: patches of a known object stitch back to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recon_worker.capture.placement import sources
from recon_worker.capture.placement.samples import ItemPosition, Samples, place_samples
from recon_worker.capture.plan import ScanOptions
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
from tests.capture.known_scans import (
    CONTAINERS,
    TRUTH,
    N,
    Scan,
    assert_true_patches,
    dict_of_tensors,
    global_offsets,
    place,
    stitched_correlations,
)
from tests.reconstruction.known_objects import smooth_object


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("container", CONTAINERS)
def test_patches_at_the_positions_of_a_container_stitch_to_the_true_object(container, channels):
    scan = CONTAINERS[container](Scan(channels=channels))

    placement = place(scan, count=100, channels=channels)

    assert placement.geometry.positions_px.shape == (100, channels, 2)
    assert placement.skip_reason == ""
    assert stitched_correlations(placement, scan)[0] > 0.99
    assert_true_patches(placement, scan, [0, 99, 119])


@pytest.mark.parametrize("channels", [1, 4])
def test_patches_at_the_positions_of_items_stitch_to_the_true_object_of_the_container(channels):
    scan = Scan(channels=channels)
    scan.container = SimpleNamespace(YY_full=TRUTH, norm_Y_I=0.8)

    placement = place(scan, count=100, item_position=scan.item_position)

    assert stitched_correlations(placement, scan)[0] > 0.99
    assert placement.geometry.amplitude_scale == 0.8
    amplitude, _ = placement.true_patch(119)
    np.testing.assert_allclose(0.8 * amplitude, np.abs(scan[119][0]), atol=0.01)


def _swapped(scan):
    scan.container.global_offsets = scan.container.global_offsets[:, :, ::-1]


def _mirrored(scan):
    scan.container.global_offsets = scan.mean_px.mean(axis=0)[None, None, :, None] * 2 - scan.container.global_offsets


@pytest.mark.parametrize("damage", [_swapped, _mirrored])
def test_swapped_axes_and_a_wrong_sign_in_the_data_would_not_pass_this_oracle(damage):
    square = smooth_object((130, 130))  # so that swapped axes fit
    scan = global_offsets(Scan(truth=square), truth=square)
    assert stitched_correlations(place(scan), scan)[0] > 0.99

    damage(scan)

    assert stitched_correlations(place(scan), scan)[0] < 0.11


def test_swapped_axes_found_in_a_dataset_cost_the_stitched_pictures_and_the_true_patches():
    scan = global_offsets(Scan())
    _swapped(scan)

    placement = place(scan)

    assert placement.geometry is None
    assert "fit with x and y swapped" in placement.skip_reason
    assert placement.true_patch(0) is None


def test_positions_in_metres_found_in_a_dataset_cost_the_stitched_pictures():
    scan = global_offsets(Scan())
    scan.container.global_offsets = scan.container.global_offsets * 1e-8

    placement = place(scan)

    assert placement.geometry is None
    assert "less than one pixel" in placement.skip_reason
    assert "divide them by the pixel size" in placement.skip_reason


def test_a_truth_of_other_positions_found_in_a_dataset_is_not_used(caplog):
    scan = global_offsets(Scan())
    scan.container.global_offsets = scan.container.global_offsets + 1000

    placement = place(scan)

    assert placement.geometry is not None
    assert (placement.ground_truth, placement.true_patch(0)) == ((), None)
    assert sum("The true object is not used" in record.message for record in caplog.records) == 1


class Broken(Scan):
    @property
    def container(self):
        raise OSError("no file")


UNUSABLE = {
    "a container without positions": (lambda scan: setattr(scan, "container", {}), "neither grid metadata nor"),
    "no container": (lambda scan: None, "neither grid metadata nor absolute positions (coords_global"),
    "another length": (lambda scan: setattr(scan, "container", {"global_offsets": np.ones((3, 1, 2, 1))}),
                       "container.global_offsets of Scan has shape (3, 1, 2, 1)"),
    "no numbers": (lambda scan: setattr(scan, "container", {"global_offsets": ["a"]}), "numbers are expected"),
    "repeated": (lambda scan: setattr(scan, "container", {"coords_offsets": np.ones((120, 1, 2, 1))}),
                 "repeats positions, as with several objects"),
    "not finite": (lambda scan: setattr(scan, "container", {"global_offsets": np.full((120, 1, 2, 1), np.nan)}),
                   "not finite (first: 0)"),
    "nanometres": (lambda scan: setattr(scan, "container", {"global_offsets": scan.mean_px[..., None] * 1e4}),
                   "check their unit"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_positions_are_a_reason_never_an_exception(case):
    scan = Scan()
    change, said = UNUSABLE[case]
    change(scan)

    placement = place(scan)

    assert placement.geometry is None
    assert said in placement.skip_reason
    assert not placement.skip_reason.endswith(".")


def test_a_container_that_raises_is_a_reason():
    placement = place(Broken())

    assert "the sample positions of Broken are unknown (OSError: no file)" in placement.skip_reason


def test_items_come_before_the_container_and_are_read_once_for_each_stitched_sample():
    scan, read = global_offsets(Scan()), []
    scan.container.global_offsets = np.zeros((120, 1, 2, 1))

    def item_position(i):
        read.append(i)
        return scan.item_position(i)

    placement = place(scan, count=70, item_position=item_position)

    assert stitched_correlations(placement, scan)[0] > 0.99
    assert sorted({*read}) == list(range(70))
    assert len(read) <= 71


def test_items_that_take_too_long_are_replaced_by_the_container(monkeypatch):
    monkeypatch.setattr(sources, "_POSITIONS_S", -1.0)
    scan = Scan()

    slow = place(scan, item_position=scan.item_position)
    other = place(global_offsets(scan), item_position=scan.item_position)

    assert slow.skip_reason.startswith("only 0 of 120 sample positions were read within")
    assert other.geometry is not None


def test_experiments_of_items_are_objects():
    scan = Scan(40)
    scan.container = {"YY_full": np.stack([TRUTH, 2 * TRUTH])[..., None]}

    placement = place(
        scan, count=30, item_position=lambda i: ItemPosition(position_px=scan.positions[i], experiment=i % 2)
    )

    assert placement.geometry.object_index.tolist() == [0, 1] * 15
    np.testing.assert_allclose(np.nanmax(np.abs(placement.ground_truth[1])), 2 * np.abs(TRUTH).max(), rtol=0.2)
    np.testing.assert_allclose(placement.true_patch(39)[0], 2 * np.abs(scan[39][0]), atol=0.02)


def test_overlapping_patches_are_weighted_by_the_probe_on_the_crop_where_it_is_known(caplog):
    scan, intensity = global_offsets(Scan()), np.arange(N * N, dtype=np.float32).reshape(N, N)

    known = place(scan, weight="probe", probe_intensity=intensity).geometry
    assert caplog.text == ""
    unknown = place(scan, weight="probe").geometry

    np.testing.assert_array_equal(known.probe_intensity, intensity[8:24, 8:24])
    assert (known.weight, unknown.weight) == ("probe", "uniform")
    assert "Overlapping patches are averaged equally: weight 'probe' needs probe_intensity" in caplog.text


def test_own_geometry_and_truth_of_a_dataset_are_used_as_they_are():
    scan = global_offsets(Scan())
    geometry = GridGeometry(patch_px=N, outer_offset_px=8, n_objects=1, n_samples=100)
    scan.scan_geometry, scan.ground_truth = geometry, (TRUTH[:40, :40],)

    placement = place(scan)

    assert placement.geometry is geometry
    assert placement.ground_truth == scan.ground_truth
    assert placement.true_patch(0) is None


def test_the_skip_reason_of_a_dataset_ends_the_search():
    scan = global_offsets(Scan())
    scan.scan_geometry, scan.geometry_skip_reason = None, "shuffled"

    placement = place(scan, item_position=scan.item_position)

    assert (placement.geometry, placement.skip_reason) == (None, "shuffled")


@pytest.mark.parametrize("geometry", ["a spiral", 7])
def test_a_geometry_of_another_type_is_a_reason(geometry):
    scan = Scan()
    scan.scan_geometry = geometry

    assert place(scan).skip_reason == f"scan_geometry of Scan is a {type(geometry).__name__}"


def test_without_stitched_samples_true_patches_are_still_known():
    scan = dict_of_tensors(Scan())

    placement = place(scan, count=0)

    assert placement.geometry is None
    assert_true_patches(placement, scan, [0, 119])


def test_without_a_dataset_only_what_is_passed_is_known():
    scan = Scan()

    samples = Samples(dataset=None, length=120, count=120, n_px=N)

    told = place_samples(samples, ScanOptions(positions=torch.from_numpy(scan.positions), ground_truth=TRUTH))
    nothing = place_samples(samples, ScanOptions())

    assert isinstance(told.geometry, PositionGeometry)
    assert stitched_correlations(told, scan)[0] > 0.99
    assert "neither grid metadata nor" in nothing.skip_reason
