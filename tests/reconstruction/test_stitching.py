"""Stitching against reference arrays, and against objects that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

from recon_worker.reconstruction.stitching import accumulate, crop_start_px, crop_to_footprint, stitch
from recon_worker.snapshot.records import GridGeometry, PositionGeometry
from tests.paths import REFERENCE


def _load(name):
    return np.load(REFERENCE / name, allow_pickle=False)


def _crop(patches, m):
    """Centre crops, N//2 on m//2 (N even)."""
    start = patches.shape[-1] // 2 - m // 2
    return patches[..., start : start + m, start : start + m]


def _smooth_object(shape, seed=0):
    rng = np.random.default_rng(seed)
    amp, phase = (gaussian_filter(rng.normal(size=shape), 3, mode="wrap") for _ in range(2))
    return ((0.7 + 1.5 * amp) * np.exp(12j * phase)).astype(np.complex64)


def _cut(true_object, positions_px, n_px):
    """Patches (n, N, N) around (x, y), their centre pixel at N // 2, cubic interpolation."""
    y, x = np.mgrid[:n_px, :n_px] - n_px // 2
    coordinates = np.stack([positions_px[:, 1, None, None] + y, positions_px[:, 0, None, None] + x])
    real, imaginary = (map_coordinates(part, coordinates) for part in (true_object.real, true_object.imag))
    return (real + 1j * imaginary).astype(np.complex64)


def _correlation(a, b, where):
    a, b = a[where] - a[where].mean(), b[where] - b[where].mean()
    return np.vdot(a, b).real / np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real)


def _scan(n=120, n_px=32, seed=1, **settings):
    """An object of 150 x 130 px and n patches at random sub-pixel places."""
    positions = np.random.default_rng(seed).uniform(n_px, (130 - n_px, 150 - n_px), (n, 2))
    true_object = _smooth_object((150, 130))
    geometry = PositionGeometry(patch_px=n_px, crop_px=n_px // 2, positions_px=positions[:, None], **settings)
    return true_object, geometry, _crop(_cut(true_object, positions, n_px), n_px // 2)[:, None]


# --- reference arrays -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_objects", "scale"),
    [("stitch_grid_a1", 2, 1.0), ("stitch_grid_a3_n64_oo20", 1, 1.0), ("stitch_predictions_gs1", 2, 3.0)],
)
def test_grid_tiling_equals_the_reference(name, n_objects, scale):
    ref = _load(f"{name}.npz")
    n_px, offset = int(ref["N"]), int(ref["outer_offset_test"])
    patches = ref["patches"][..., 0]
    geometry = GridGeometry(patch_px=n_px, outer_offset_px=offset, n_objects=n_objects, n_samples=len(patches))
    stitched = stitch(geometry, _crop(patches, geometry.crop_px)[:, None])

    for image, expected in zip(stitched, ref["complex"][..., 0], strict=True):
        unscaled = expected / np.complex64(scale) if scale != 1 else expected
        np.testing.assert_allclose(image.object, unscaled, rtol=0 if scale == 1 else 1e-6)
        assert image.scanned.all()


def test_amplitude_scale_multiplies_the_amplitude_and_leaves_the_phase():
    ref = _load("stitch_grid_a1.npz")
    geometry = GridGeometry(patch_px=16, outer_offset_px=8, n_objects=2, n_samples=18, amplitude_scale=2.5)
    stitched = stitch(geometry, _crop(ref["patches"][..., 0], 4)[:, None])

    objects = np.stack([image.object for image in stitched])
    np.testing.assert_allclose(np.abs(objects), ref["amp_norm"][..., 0], rtol=1e-6)
    np.testing.assert_allclose(np.angle(objects), ref["phase"][..., 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "probe"])
def test_sums_weights_and_average_equal_the_barycentric_reference(kind):
    ref = _load("barycentric.npz")
    weight = ref["probe_mag_sq"] if kind == "probe" else None
    inside = slice(1, None)  # the reference drops patch 0, which leaves the canvas
    corners = ref["positions_xy"][inside].astype(float) - 6
    sums, weights = accumulate(ref["patches"][inside], corners, (40, 44), weight)

    for found, name in ((sums, "canvas_sum"), (weights, "weights"), (sums / (weights + 1e-12), "final")):
        expected = ref[f"{name}_{kind}"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_positions_reassemble_like_the_reference_merge():
    ref = _load("reassemble_pos_crop10_allpatches.npz")
    relative = -ref["offsets_xy"][0, :, 0].astype(float)
    corners = relative - relative.mean(axis=0) + 15 - 5
    sums, weights = accumulate(np.ascontiguousarray(_crop(ref["patches"][0], 10)), corners, (30, 30))
    merged = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 1e-6)

    np.testing.assert_array_equal(weights > 1e-6, ref["mask"][0])
    np.testing.assert_allclose(merged, ref["merged"][0], rtol=1e-4, atol=1e-4 * np.abs(ref["merged"]).max())


# --- known objects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["uniform", "probe"])
def test_patches_of_a_known_object_stitch_to_that_object(weight):
    probe = np.outer(np.hanning(18)[1:-1], np.hanning(18)[1:-1]).astype(np.float32)
    true_object, geometry, patches = _scan(weight=weight, probe_intensity=probe)
    (image,) = stitch(geometry, patches)
    truth = crop_to_footprint(geometry, true_object)

    assert image.object.shape == truth.shape
    assert image.scanned.mean() > 0.85
    assert _correlation(image.object, truth, image.scanned) > 0.995


@pytest.mark.parametrize("wrong", [(slice(None), slice(None, None, -1)), None], ids=["x and y swapped", "sign"])
def test_wrong_coordinates_lose_the_object(wrong):
    true_object, geometry, patches = _scan()
    positions = geometry.positions_px[:, 0]
    mistaken = 2 * positions.mean(axis=0) - positions if wrong is None else positions[wrong]
    wrong_geometry = PositionGeometry(patch_px=32, crop_px=16, positions_px=mistaken[:, None])
    (image,) = stitch(wrong_geometry, patches)
    truth = crop_to_footprint(wrong_geometry, true_object)

    assert _correlation(image.object, truth, image.scanned & np.isfinite(truth)) < 0.5


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
    true_object = _smooth_object((60, 50))
    positions = np.array([[20, 16], [24, 16], [20, 40], [30, 30]], float)
    geometry = PositionGeometry(patch_px=16, crop_px=8, positions_px=positions[:, None])
    patches = np.stack([true_object[y - 4 : y + 4, x - 4 : x + 4] for x, y in positions.astype(int)])
    (image,) = stitch(geometry, patches[:, None])

    assert image.object.shape == (32, 18)
    truth = crop_to_footprint(geometry, true_object)
    np.testing.assert_allclose(image.object[image.scanned], truth[image.scanned], atol=1e-6)
    assert image.coverage.sum() == 4 * 64
    assert image.coverage.max() == 2


@pytest.mark.parametrize(("offset", "outer"), [(4, 20), (4, 10), (3, 20), (6, 16)])
def test_grid_with_groups_of_four_stitches_the_known_object(offset, outer):
    n_px, side, tile = 32, 5, outer // 2
    size = (side - 1) * tile + n_px + offset + 1  # one pixel more than the scan uses
    true_object = _smooth_object((size, size))
    first = np.stack(np.meshgrid(np.arange(side) * tile, np.arange(side) * tile), -1).reshape(-1, 1, 2)
    members = first + n_px // 2 + np.array([[0, 0], [offset, 0], [0, offset], [offset, offset]])
    relative = members.mean(axis=1, keepdims=True) - members
    geometry = GridGeometry(
        patch_px=n_px,
        outer_offset_px=outer,
        n_objects=1,
        n_samples=25,
        group_extent_px=offset,
        coords_relative_px=relative,
    )
    patches = _cut(true_object, members.reshape(-1, 2), n_px).reshape(25, 4, n_px, n_px)
    (image,) = stitch(geometry, _crop(patches, geometry.crop_px))

    truth = crop_to_footprint(geometry, true_object)
    assert image.scanned.all()
    np.testing.assert_allclose(image.object, truth, atol=1e-4 if offset % 2 == 0 else 0.05)


# --- footprint --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_px", "extent", "outer", "size"), [(64, 0, 20, 392), (128, 0, 20, 392), (64, 4, 20, 392), (16, 0, 10, 71)]
)
def test_grid_footprint_is_the_object_without_remainder_and_border(n_px, extent, outer, size):
    group, tile = n_px + extent, outer // 2
    extra, border = (size - group) % tile, (n_px - tile) / 2 + extent // 2
    true_object = np.arange(size * size).reshape(size, size).astype(np.complex64)
    expected = true_object[: size - extra, : size - extra][
        int(np.ceil(border)) : size - extra - int(border), int(np.ceil(border)) : size - extra - int(border)
    ]
    n_samples = ((size - group) // tile + 1) ** 2
    geometry = GridGeometry(
        patch_px=n_px, outer_offset_px=outer, n_objects=1, n_samples=n_samples, group_extent_px=extent
    )

    np.testing.assert_array_equal(crop_to_footprint(geometry, true_object), expected)


def test_default_grid_is_330_pixels_wide():
    geometry = GridGeometry(patch_px=64, outer_offset_px=20, n_objects=1, n_samples=1089)
    (image,) = stitch(geometry, np.zeros((0, 1, 10, 10), np.complex64))

    assert image.object.shape == (330, 330)


def test_an_object_that_the_grid_does_not_fit_is_refused():
    geometry = GridGeometry(patch_px=64, outer_offset_px=20, n_objects=1, n_samples=1089)
    with pytest.raises(ValueError, match=r"shape \(372, 392\)"):
        crop_to_footprint(geometry, np.zeros((372, 392), np.complex64))


def test_truth_is_nan_where_the_scan_leaves_the_object():
    true_object = np.ones((20, 30), np.complex64)
    geometry = PositionGeometry(patch_px=8, crop_px=8, positions_px=np.array([[[1.0, 2.0]], [[29.0, 17.0]]]))
    truth = crop_to_footprint(geometry, true_object)

    assert truth.shape == (23, 36)
    np.testing.assert_array_equal(np.isfinite(truth), np.pad(np.ones((20, 30), bool), ((2, 1), (3, 3))))


def test_truth_far_away_from_the_scan_is_all_nan():
    geometry = PositionGeometry(patch_px=8, crop_px=8, positions_px=np.array([[[-50.0, 200.0]]]))

    assert np.isnan(crop_to_footprint(geometry, np.ones((20, 30), np.complex64))).all()


@pytest.mark.parametrize("n_px", [8, 64, 128])
@pytest.mark.parametrize("m", [1, 4, 5, 8])
def test_centre_crop_keeps_the_centre_pixel_and_the_tiling_margins(n_px, m):
    start = crop_start_px(n_px, m)

    assert start + m // 2 == n_px // 2
    assert (start, n_px - start - m) == (int(np.ceil((n_px - m) / 2)), (n_px - m) // 2)


# --- parts of a scan, several objects, faults -------------------------------------------------------------------------


def test_the_first_samples_keep_the_canvas_and_leave_the_rest_not_scanned():
    _, geometry, patches = _scan()
    (whole,), (part,) = stitch(geometry, patches), stitch(geometry, patches[:5])
    filled = np.arange(len(patches)) < 5
    (masked,) = stitch(geometry, np.where(filled[:, None, None, None], patches, np.nan), filled)

    assert part.object.shape == whole.object.shape
    assert 0 < part.scanned.sum() < whole.scanned.sum()
    assert not part.object[~part.scanned].any()
    np.testing.assert_array_equal(part.object, masked.object)


def test_the_first_samples_of_a_grid_fill_their_tiles_and_later_objects_stay_empty():
    geometry = GridGeometry(patch_px=16, outer_offset_px=8, n_objects=2, n_samples=18)
    filled = np.array([True, True, False, True, True])
    first, second = stitch(geometry, np.full((5, 1, 4, 4), 2 + 1j, np.complex64), filled)

    tiles = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(first.scanned, np.kron(tiles, np.ones((4, 4), bool)))
    np.testing.assert_array_equal(first.object, np.where(first.scanned, 2 + 1j, 0))
    assert not second.scanned.any()


def test_every_object_has_its_own_canvas_and_samples():
    true_object, alone, patches = _scan()
    index = np.arange(len(patches)) % 2
    both = PositionGeometry(patch_px=32, crop_px=16, positions_px=alone.positions_px, object_index=index)
    images = stitch(both, patches)

    for number, image in enumerate(images):
        own = PositionGeometry(patch_px=32, crop_px=16, positions_px=alone.positions_px[index == number])
        (expected,) = stitch(own, patches[index == number])
        np.testing.assert_array_equal(image.object, expected.object)
        assert crop_to_footprint(both, true_object, number).shape == image.object.shape


def test_channels_of_a_sample_are_stitched_at_their_own_positions():
    _, geometry, patches = _scan(n=40)
    grouped = PositionGeometry(patch_px=32, crop_px=16, positions_px=geometry.positions_px.reshape(10, 4, 2))
    (alone,), (together,) = stitch(geometry, patches), stitch(grouped, patches.reshape(10, 4, 16, 16))

    np.testing.assert_array_equal(alone.object, together.object)


def test_a_patch_that_is_not_finite_stays_visible_and_does_not_spread():
    _, geometry, patches = _scan()
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


@pytest.mark.parametrize(("n_objects", "n_samples"), [(1, 1088), (2, 9), (2, 1089)])
def test_samples_that_make_no_square_grids_are_refused_and_the_key_is_named(n_objects, n_samples):
    with pytest.raises(ValueError, match="nimgs_test"):
        GridGeometry(patch_px=64, outer_offset_px=20, n_objects=n_objects, n_samples=n_samples)
