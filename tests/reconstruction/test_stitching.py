"""Stitching by position, against reference arrays and known objects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon_worker.reconstruction.stitching import accumulate, crop_to_footprint, stitch
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry
from tests.reconstruction.known_objects import (
    centre_crop,
    correlation,
    load_reference,
    random_scan,
    smooth_object,
)


def test_amplitude_scale_multiplies_the_amplitude_and_leaves_the_phase():
    ref = load_reference("stitch_grid_a1.npz")
    geometry = GridGeometry(patch_px=16, outer_offset_px=8, n_objects=2, n_samples=18, amplitude_scale=2.5)
    stitched = stitch(geometry, centre_crop(ref["patches"][..., 0], 4)[:, None])

    objects = np.stack([image.object for image in stitched])
    np.testing.assert_allclose(np.abs(objects), ref["amp_norm"][..., 0], rtol=1e-6)
    np.testing.assert_allclose(np.angle(objects), ref["phase"][..., 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "probe"])
def test_sums_weights_and_average_equal_the_barycentric_reference(kind):
    ref = load_reference("barycentric.npz")
    weight = ref["probe_mag_sq"] if kind == "probe" else None
    inside = slice(1, None)  # the reference drops patch 0, which leaves the canvas
    corners = ref["positions_xy"][inside].astype(float) - 6
    sums, weights = accumulate(ref["patches"][inside], corners, (40, 44), weight)

    for found, name in ((sums, "canvas_sum"), (weights, "weights"), (sums / (weights + 1e-12), "final")):
        expected = ref[f"{name}_{kind}"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_positions_reassemble_like_the_reference_merge():
    ref = load_reference("reassemble_pos_crop10_allpatches.npz")
    relative = -ref["offsets_xy"][0, :, 0].astype(float)
    corners = relative - relative.mean(axis=0) + 15 - 5
    sums, weights = accumulate(np.ascontiguousarray(centre_crop(ref["patches"][0], 10)), corners, (30, 30))
    merged = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 1e-6)

    np.testing.assert_array_equal(weights > 1e-6, ref["mask"][0])
    np.testing.assert_allclose(merged, ref["merged"][0], rtol=1e-4, atol=1e-4 * np.abs(ref["merged"]).max())


@pytest.mark.parametrize("weight", ["uniform", "probe"])
def test_patches_of_a_known_object_stitch_to_that_object(weight):
    probe = np.outer(np.hanning(18)[1:-1], np.hanning(18)[1:-1]).astype(np.float32)
    true_object, geometry, patches = random_scan(weight=weight, probe_intensity=probe)
    (image,) = stitch(geometry, patches)
    truth = crop_to_footprint(geometry, true_object)

    assert image.object.shape == truth.shape
    assert image.scanned.mean() > 0.85
    assert correlation(image.object, truth, image.scanned) > 0.995


@pytest.mark.parametrize("wrong", [(slice(None), slice(None, None, -1)), None], ids=["x and y swapped", "sign"])
def test_wrong_coordinates_lose_the_object(wrong):
    true_object, geometry, patches = random_scan()
    positions = geometry.positions_px[:, 0]
    mistaken = 2 * positions.mean(axis=0) - positions if wrong is None else positions[wrong]
    wrong_geometry = PositionGeometry(patch_px=32, crop_px=16, positions_px=mistaken[:, None])
    (image,) = stitch(wrong_geometry, patches)
    truth = crop_to_footprint(wrong_geometry, true_object)

    assert correlation(image.object, truth, image.scanned & np.isfinite(truth)) < 0.5


@given(st.floats(-40, 40), st.floats(-40, 40), st.floats(-3, 3), st.floats(-3, 3))
def test_a_plane_keeps_its_values_at_any_subpixel_place(x_px, y_px, slope_x, slope_y):
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=np.array([[[x_px, y_px]]]))
    y, x = np.mgrid[:8, :8] - 4
    patch = slope_x * (x + x_px) + 1j * slope_y * (y + y_px)
    (image,) = stitch(geometry, patch.astype(np.complex64)[None, None])
    rows, columns = np.indices(image.object.shape) + np.floor([y_px - 4, x_px - 4])[:, None, None]

    # Bilinear weights reproduce a plane where all four neighbours are inside; the rim has fewer.
    inside = (slice(1, 8), slice(1, 8))
    plane = slope_x * columns + 1j * slope_y * rows
    np.testing.assert_allclose(image.object[inside], plane[inside], atol=1e-3)


def test_integer_positions_give_back_the_exact_pixels():
    true_object = smooth_object((60, 50))
    positions = np.array([[20, 16], [24, 16], [20, 40], [30, 30]], float)
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=positions[:, None])
    patches = np.stack([true_object[y - 4 : y + 4, x - 4 : x + 4] for x, y in positions.astype(int)])
    (image,) = stitch(geometry, patches[:, None])

    assert image.object.shape == (32, 18)
    truth = crop_to_footprint(geometry, true_object)
    np.testing.assert_allclose(image.object[image.scanned], truth[image.scanned], atol=1e-6)
    assert image.coverage.sum() == 4 * 64
    assert image.coverage.max() == 2


def test_truth_is_nan_where_the_scan_leaves_the_object():
    true_object = np.ones((20, 30), np.complex64)
    geometry = PositionGeometry(patch_px=8, crop_px=8, positions_px=np.array([[[1.0, 2.0]], [[29.0, 17.0]]]))
    truth = crop_to_footprint(geometry, true_object)

    assert truth.shape == (23, 36)
    np.testing.assert_array_equal(np.isfinite(truth), np.pad(np.ones((20, 30), bool), ((2, 1), (3, 3))))


def test_truth_far_away_from_the_scan_is_all_nan():
    geometry = PositionGeometry(patch_px=8, crop_px=8, positions_px=np.array([[[-50.0, 200.0]]]))

    assert np.isnan(crop_to_footprint(geometry, np.ones((20, 30), np.complex64))).all()


def test_the_first_samples_keep_the_canvas_and_leave_the_rest_not_scanned():
    _, geometry, patches = random_scan()
    (whole,), (part,) = stitch(geometry, patches), stitch(geometry, patches[:5])
    filled = np.arange(len(patches)) < 5
    (masked,) = stitch(geometry, np.where(filled[:, None, None, None], patches, np.nan), filled)

    assert part.object.shape == whole.object.shape
    assert 0 < part.scanned.sum() < whole.scanned.sum()
    assert not part.object[~part.scanned].any()
    np.testing.assert_array_equal(part.object, masked.object)


def test_every_object_has_its_own_canvas_and_samples():
    true_object, alone, patches = random_scan()
    index = np.arange(len(patches)) % 2
    both = PositionGeometry(patch_px=32, crop_px=16, positions_px=alone.positions_px, object_index=index)
    images = stitch(both, patches)

    for number, image in enumerate(images):
        own = PositionGeometry(patch_px=32, crop_px=16, positions_px=alone.positions_px[index == number])
        (expected,) = stitch(own, patches[index == number])
        np.testing.assert_array_equal(image.object, expected.object)
        assert crop_to_footprint(both, true_object, number).shape == image.object.shape


def test_channels_of_a_sample_are_stitched_at_their_own_positions():
    _, geometry, patches = random_scan(n=40)
    grouped = PositionGeometry(patch_px=32, crop_px=16, positions_px=geometry.positions_px.reshape(10, 4, 2))
    (alone,), (together,) = stitch(geometry, patches), stitch(grouped, patches.reshape(10, 4, 16, 16))

    np.testing.assert_array_equal(alone.object, together.object)


def test_a_patch_that_is_not_finite_stays_visible_and_does_not_spread():
    _, geometry, patches = random_scan()
    (clean,) = stitch(geometry, patches)
    patches[3, 0, 5, 5], patches[7, 0, 2, 2] = np.nan, np.inf
    (image,) = stitch(geometry, patches)

    assert 2 <= (~np.isfinite(image.object)).sum() <= 8
    finite = np.isfinite(image.object)
    np.testing.assert_array_equal(image.object[finite], clean.object[finite])


def test_a_probe_without_power_leaves_its_pixels_not_scanned():
    intensity = np.zeros((8, 8), np.float32)
    intensity[2:6, 2:6] = 1
    geometry = PositionGeometry(
        patch_px=16, crop_px=8, positions_px=np.array([[[20.0, 20.0]]]), weight="probe", probe_intensity=intensity
    )
    (image,) = stitch(geometry, np.ones((1, 1, 8, 8), np.complex64))

    np.testing.assert_array_equal(image.scanned, intensity > 0)


def test_a_patch_outside_the_canvas_is_named():
    with pytest.raises(ValueError, match=r"patch 1 of 2 does not fit: its corner is \(y, x\) = \(500, 12\) px"):
        accumulate(np.ones((2, 64, 64), np.complex64), np.array([[0.0, 0], [12, 500]]), (512, 512))


@pytest.mark.parametrize("shape", [(10, 1, 16, 16), (3, 4, 16, 16), (3, 1, 8, 8)])
def test_patches_of_another_scan_are_refused(shape):
    geometry = PositionGeometry(patch_px=32, crop_px=16, positions_px=np.zeros((9, 1, 2)))
    with pytest.raises(ValueError, match="this scan needs"):
        stitch(geometry, np.zeros(shape, np.complex64))


def test_positions_in_the_wrong_unit_do_not_exhaust_the_memory():
    geometry = PositionGeometry(patch_px=32, crop_px=16, positions_px=np.array([[[0.0, 0]], [[1e6, 1e6]]]))
    with pytest.raises(ValueError, match="check their unit"):
        stitch(geometry, np.zeros((2, 1, 16, 16), np.complex64))


def test_two_half_scans_together_are_the_whole_scan():
    rng = np.random.default_rng(0)
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=rng.uniform(12, 30, (41, 1, 2)))
    patches = (rng.random((41, 1, 8, 8)) * np.exp(1j * rng.random((41, 1, 8, 8)))).astype(np.complex64)
    filled, is_even = rng.random(41) > 0.2, np.arange(41) % 2 == 0

    (even,), (odd,) = (stitch(geometry, patches, filled & half) for half in (is_even, ~is_even))
    (whole,) = stitch(geometry, patches, filled)
    np.testing.assert_allclose(even.coverage + odd.coverage, whole.coverage, rtol=1e-5)
    together = even.object * even.coverage + odd.object * odd.coverage
    np.testing.assert_allclose(together, whole.object * whole.coverage, atol=1e-4)
