"""NPZ and CXI files preserve all values."""

import io

import h5py
import numpy as np
import pytest

from recon_worker.pictures.arrays import DECODERS, ENCODERS, ObjectArrays, encode_h5, encode_npz
from recon_worker.reconstruction.stitching import canvas_positions, crop_start_px, stitch
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry


def _arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "object": (rng.random((12, 15)) + 1j * rng.random((12, 15))).astype(np.complex64),
        "coverage": rng.integers(0, 3, (12, 15)).astype(np.float32),
        "ground_truth": np.full((12, 15), np.nan + 1j, np.complex64),
        "positions_px": rng.random((7, 2)) * 10,
        "pixel_size_m": 2.5e-9,
        "epoch": 5,
        "step": 165,
        "samples": np.array([0, 3, 4]),
        "r_factor": np.array([0.1, np.nan, 0.3], np.float32),
        "deviance_per_photon": np.array([1e-6, 2, 3], np.float32),
    }
    return ObjectArrays(**values | changes)


def test_an_npz_file_gives_every_array_back():
    arrays = _arrays()
    with np.load(io.BytesIO(encode_npz(arrays))) as archive:
        loaded = dict(archive)

    assert set(loaded) == {name for name, value in vars(arrays).items() if value is not None}
    assert loaded["object"].dtype == np.complex64
    for name in loaded:
        np.testing.assert_array_equal(loaded[name], getattr(arrays, name))


def test_a_cxi_file_holds_the_object_the_truth_and_positions_in_metres():
    arrays = _arrays()
    with h5py.File(io.BytesIO(encode_h5(arrays))) as file:
        entry = file["entry_1"]

        assert file["cxi_version"][()] == 160
        np.testing.assert_array_equal(entry["image_1/data"], arrays.object)
        np.testing.assert_array_equal(entry["data_1/data"], arrays.object)
        np.testing.assert_array_equal(entry["image_2/data"], arrays.ground_truth)
        np.testing.assert_array_equal(np.asarray(entry["image_1/mask"]) == 0, arrays.coverage > 0)
        np.testing.assert_allclose(entry["image_1/image_size"], [15 * 2.5e-9, 12 * 2.5e-9, 0])
        translation = np.asarray(entry["sample_1/geometry_1/translation"])
        np.testing.assert_allclose(translation[:, :2], arrays.positions_px * 2.5e-9)
        assert (translation[:, 2] == 0).all()
        assert (entry["epoch"][()], entry["step"][()]) == (5, 165)
        np.testing.assert_array_equal(entry["misfit_1/r_factor"], arrays.r_factor)


def test_what_is_not_known_is_absent():
    arrays = _arrays(ground_truth=None, pixel_size_m=None)
    with np.load(io.BytesIO(encode_npz(arrays))) as archive, h5py.File(io.BytesIO(encode_h5(arrays))) as file:
        assert {"ground_truth", "pixel_size_m"}.isdisjoint(archive.files)
        assert "image_2" not in file["entry_1"]
        assert "translation" not in file["entry_1/sample_1/geometry_1"]


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_same_arrays_give_the_same_bytes(kind):
    assert ENCODERS[kind](_arrays()) == ENCODERS[kind](_arrays())


POSITIONS = np.concatenate([np.random.default_rng(0).integers(low, low + 40, (7, 1, 2)) for low in (20, 0)])
GROUP = np.tile([[1.0, 1], [-1, 1], [1, -1], [-1, -1]], (8, 1, 1))
GRID = {"patch_px": 16, "outer_offset_px": 6, "n_objects": 2, "n_samples": 8}
SCANS = {
    "positions": PositionGeometry(
        patch_px=16, crop_px=8, positions_px=POSITIONS.astype(float), object_index=np.repeat([0, 1], 7)
    ),
    "grid": GridGeometry(**GRID),
    "groups": GridGeometry(**GRID, group_extent_px=2, coords_relative_px=GROUP),
}


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("number", [0, 1])
def test_a_patch_that_marks_its_centre_is_found_at_its_position_on_the_canvas(kind, number):
    geometry, channels = SCANS[kind], 4 if kind == "groups" else 1
    per_object = 7 if kind == "positions" else 4
    positions = canvas_positions(geometry, number).reshape(per_object, channels, 2)
    centre = geometry.patch_px // 2 - crop_start_px(geometry.patch_px, geometry.crop_px)

    for sample in range(per_object):
        patches = np.zeros((2 * per_object, channels, geometry.crop_px, geometry.crop_px), np.complex64)
        patches[number * per_object + sample, 0, centre, centre] = 1
        image = np.abs(stitch(geometry, patches)[number].object)
        x, y = positions[sample, 0]
        assert np.unravel_index(image.argmax(), image.shape) == (y, x)


@pytest.mark.parametrize("kind", ENCODERS)
def test_decoding_gives_the_encoded_arrays_back(kind):
    for changes in ({}, {"ground_truth": None, "pixel_size_m": None}):
        arrays = _arrays(**changes)
        decoded = DECODERS[kind](ENCODERS[kind](arrays))

        for name, value in vars(arrays).items():
            np.testing.assert_array_equal(getattr(decoded, name), value, strict=isinstance(value, np.ndarray))
