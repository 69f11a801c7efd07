"""Stitching of grid-lines scans, against reference arrays and known objects."""

import numpy as np
import pytest

from recon_worker.reconstruction.stitching import crop_start_px, crop_to_footprint, stitch
from recon_worker.snapshot.geometry import GridGeometry
from tests.reconstruction.known_objects import (
    centre_crop,
    cut_patches,
    load_reference,
    smooth_object,
)


@pytest.mark.parametrize(
    ("name", "n_objects", "scale"),
    [("stitch_grid_a1", 2, 1.0), ("stitch_grid_a3_n64_oo20", 1, 1.0), ("stitch_predictions_gs1", 2, 3.0)],
)
def test_grid_tiling_equals_the_reference(name, n_objects, scale):
    ref = load_reference(f"{name}.npz")
    n_px, offset = int(ref["N"]), int(ref["outer_offset_test"])
    patches = ref["patches"][..., 0]
    geometry = GridGeometry(patch_px=n_px, outer_offset_px=offset, n_objects=n_objects, n_samples=len(patches))
    stitched = stitch(geometry, centre_crop(patches, geometry.crop_px)[:, None])

    for image, expected in zip(stitched, ref["complex"][..., 0], strict=True):
        unscaled = expected / np.complex64(scale) if scale != 1 else expected
        np.testing.assert_allclose(image.object, unscaled, rtol=0 if scale == 1 else 1e-6)
        assert image.scanned.all()


@pytest.mark.parametrize(("offset", "outer"), [(4, 20), (4, 10), (3, 20), (6, 16)])
def test_grid_with_groups_of_four_stitches_the_known_object(offset, outer):
    n_px, side, tile = 32, 5, outer // 2
    size = (side - 1) * tile + n_px + offset + 1  # one pixel more than the scan uses
    true_object = smooth_object((size, size))
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
    patches = cut_patches(true_object, members.reshape(-1, 2), n_px).reshape(25, 4, n_px, n_px)
    (image,) = stitch(geometry, centre_crop(patches, geometry.crop_px))

    truth = crop_to_footprint(geometry, true_object)
    assert image.scanned.all()
    np.testing.assert_allclose(image.object, truth, atol=1e-4 if offset % 2 == 0 else 0.05)


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


@pytest.mark.parametrize("n_px", [8, 64, 128])
@pytest.mark.parametrize("m", [1, 4, 5, 8])
def test_centre_crop_keeps_the_centre_pixel_and_the_tiling_margins(n_px, m):
    start = crop_start_px(n_px, m)

    assert start + m // 2 == n_px // 2
    assert (start, n_px - start - m) == (int(np.ceil((n_px - m) / 2)), (n_px - m) // 2)


def test_the_first_samples_of_a_grid_fill_their_tiles_and_later_objects_stay_empty():
    geometry = GridGeometry(patch_px=16, outer_offset_px=8, n_objects=2, n_samples=18)
    filled = np.array([True, True, False, True, True])
    first, second = stitch(geometry, np.full((5, 1, 4, 4), 2 + 1j, np.complex64), filled)

    tiles = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_array_equal(first.scanned, np.kron(tiles, np.ones((4, 4), bool)))
    np.testing.assert_array_equal(first.object, np.where(first.scanned, 2 + 1j, 0))
    assert not second.scanned.any()


@pytest.mark.parametrize(("n_objects", "n_samples"), [(1, 1088), (2, 9), (2, 1089)])
def test_samples_that_make_no_square_grids_are_refused_and_the_key_is_named(n_objects, n_samples):
    with pytest.raises(ValueError, match="nimgs_test"):
        GridGeometry(patch_px=64, outer_offset_px=20, n_objects=n_objects, n_samples=n_samples)
