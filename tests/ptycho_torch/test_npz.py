"""Every layout of the two kinds of data file is read into one checked form."""

import numpy as np
import pytest

from ptycho_torch.files.npz import DataError, load_grid_lines, load_probe, load_raw_scan
from tests.paths import siemens_star
from tests.ptycho_torch.scans import M, N


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("diff3d", lambda a: a),
        ("diffraction", lambda a: a),
        ("diff3d", lambda a: np.moveaxis(a, 0, -1)),
        ("diff3d", lambda a: a[..., None]),
        ("diff3d", np.asfortranarray),
        ("diff3d", lambda a: a.astype(np.float64)),
    ],
)
def test_every_layout_of_patterns_reads_the_same(raw, write, key, change):
    original = raw.pop("diff3d")

    scan = load_raw_scan(write({**raw, key: change(original)}))

    np.testing.assert_array_equal(scan.diffraction, original)
    assert scan.diffraction.dtype == np.float32
    np.testing.assert_array_equal(scan.positions_px, np.stack([raw["xcoords"], raw["ycoords"]], 1))


def test_integer_patterns_stay_amplitudes(raw, write):
    raw["diff3d"] = np.arange(M * N * N, dtype=np.uint16).reshape(M, N, N)

    with pytest.warns(UserWarning, match=r"scan.npz: key 'diff3d': .*up to 1279, .* counts; .* save np.sqrt"):
        diffraction = load_raw_scan(write(raw)).diffraction

    np.testing.assert_array_equal(diffraction, raw["diff3d"])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_whole_numbers_are_told_to_look_like_counts_unless_they_are_their_own_roots(raw, write, dtype):
    counts = np.random.default_rng(0).poisson(0.05, (M, N, N))
    assert counts.max() > 1

    with pytest.warns(UserWarning, match="looks like counts"):
        load_raw_scan(write({**raw, "diff3d": counts.astype(dtype)}))
    load_raw_scan(write({**raw, "diff3d": np.sqrt(counts).astype(np.float32)}))
    load_raw_scan(write({**raw, "diff3d": counts.clip(max=1).astype(dtype)}))


def test_grid_lines_that_hold_counts_are_told_too(grid, write):
    with pytest.warns(UserWarning, match="'diffraction': all values are whole numbers, up to 7"):
        load_grid_lines(write({**grid, "diffraction": np.full((4, N, N, 4), 7)}))


def test_a_cube_is_read_pattern_first(raw, write):
    cube = np.random.default_rng(0).random((N, N, N), np.float32)
    coords = np.full(N, 20.0)

    scan = load_raw_scan(write({**raw, "diff3d": cube, "xcoords": coords, "ycoords": coords}))

    np.testing.assert_array_equal(scan.diffraction, cube)


@pytest.mark.parametrize(("shape", "modes"), [((N, N), 1), ((N, N, 1), 1), ((1, N, N), 1), ((3, N, N), 3)])
def test_every_layout_of_probes_becomes_modes_first(raw, write, shape, modes):
    raw["probeGuess"] = np.arange(np.prod(shape)).reshape(shape) * (1 + 2j)

    probe = load_raw_scan(write(raw)).probe

    assert probe.dtype == np.complex64
    np.testing.assert_array_equal(probe, raw["probeGuess"].reshape(modes, N, N).astype(np.complex64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xcoords": None}, "'xcoords': is missing"),
        ({"diff3d": None}, "'diff3d': is missing"),
        ({"diff3d": np.ones((M + 1, N, N))}, "does not match 5 positions"),
        ({"diff3d": np.ones((M, N, N + 2))}, "does not match"),
        ({"diff3d": np.ones((M, 8, 8))}, "a probe of 16 x 16"),
        ({"diff3d": np.ones((M, N))}, "allowed: .M, N, N."),
        ({"diff3d": np.ones((M, 15, 15)), "probeGuess": None}, "must be even"),
        ({"diff3d": np.ones((M, 1, 1)), "probeGuess": None}, "must be even"),
        ({"xcoords": np.array([1, 2, np.nan, 4, 5])}, "'xcoords': 1 of 5 values are not finite"),
        ({"diff3d": -np.ones((M, N, N))}, "1280 values are negative"),
        ({"diff3d": np.zeros((M, N, N))}, "no signal"),
        ({"diff3d": np.full((M, N, N), np.nan)}, "not finite"),
        ({"diff3d": np.full((M, N, N), 1e300)}, "not finite"),
        ({"diff3d": np.ones((M, N, N), complex)}, "must hold real numbers"),
        ({"diff3d": np.full((M, N, N), "a")}, "must hold real numbers"),
        ({"xcoords": np.full(M, np.inf)}, "'xcoords': 5 of 5 values are not finite"),
        ({"xcoords": np.ones(M + 1)}, "the numbers must agree"),
        ({"xcoords": np.ones(0), "ycoords": np.ones(0)}, r"must be \(M,\)"),
        ({"probeGuess": np.ones((N, N + 1))}, "allowed: .N, N."),
        ({"probeGuess": np.zeros((N, N))}, "--probe_file"),
        ({"objectGuess": np.ones((2, 3, 40))}, r"must be \(H, W\)"),
        ({"Y": np.ones((M, 3, 3))}, "must be that of the patterns"),
        ({"scan_index": np.arange(3)}, "3 values for 5 patterns"),
        ({"_metadata": np.array("{nonsense")}, "not valid JSON"),
        ({"_metadata": np.array([1, 2])}, "0-d string"),
    ],
)
def test_arrays_that_do_not_fit_are_named(raw, write, changes, message):
    arrays = {key: value for key, value in {**raw, **changes}.items() if value is not None}

    with pytest.raises(DataError, match=message) as caught:
        load_raw_scan(write(arrays))

    assert str(caught.value).startswith("scan.npz: key ")


def test_optional_arrays_are_read_and_all_zero_means_none(raw, write):
    raw["objectGuess"] = np.full((40, 41), 1j)
    raw["Y"] = np.zeros((M, N, N, 1), complex)
    raw["scan_index"] = np.arange(M, dtype=np.int32)

    scan = load_raw_scan(write(raw))

    assert scan.object.shape == (40, 41)
    assert scan.patches_true is None
    assert scan.scan_index.tolist() == [0, 1, 2, 3, 4]


def test_grid_lines_come_out_channel_first_with_x_before_y(grid, write):
    data = load_grid_lines(write(grid))

    np.testing.assert_array_equal(data.diffraction[1, 2], grid["diffraction"][1, :, :, 2])
    np.testing.assert_array_equal(data.phase[3, 1], grid["Y_phi"][3, :, :, 1])
    np.testing.assert_array_equal(data.coords_relative_px[1, 2], grid["coords_nominal"][1, 0, :, 2])
    np.testing.assert_array_equal(data.centres_px[1, 2], grid["coords_offsets"][1, 0, ::-1, 2])
    assert data.objects.shape == (1, 40, 40)
    assert data.probe is data.norm_Y_I is data.ground_truth is None


def test_true_grid_coordinates_win_over_nominal_ones(grid, write):
    grid["coords_true"] = grid["coords_nominal"] + 1

    data = load_grid_lines(write(grid))

    np.testing.assert_array_equal(data.coords_relative_px[0, 3], grid["coords_true"][0, 0, :, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffraction": np.ones((4, N, N, 3))}, "C = 1 or 4"),
        ({"diffraction": np.ones((4, N, 8, 4))}, "C = 1 or 4"),
        ({"Y_I": np.ones((3, N, N, 4))}, "that of 'diffraction'"),
        ({"coords_nominal": np.ones((4, 2))}, "it must be"),
        ({"coords_nominal": None}, "'coords_nominal': is missing"),
        ({"norm_Y_I": np.array(0.0)}, "above 0"),
        ({"norm_Y_I": np.ones(2)}, "one number"),
        ({"YY_full": np.ones((40, 40))}, "nimgs"),
        ({"coords_nominal": np.ones((4, 1, 2, 4))}, "a sample extend over at most 0 px"),
        ({"coords_true": np.arange(32).reshape(4, 1, 2, 4) * 1e-7}, "'coords_true': the 4 positions .* divide them by"),
        ({"coords_nominal": np.arange(32).reshape(4, 1, 2, 4) * 6.0}, "at most 18 px, the patches have 16 px"),
        ({"probeGuess": np.ones((8, 8))}, "they must agree"),
    ],
)
def test_grid_lines_that_do_not_fit_are_named(grid, write, changes, message):
    arrays = {key: value for key, value in {**grid, **changes}.items() if value is not None}

    with pytest.raises(DataError, match=message):
        load_grid_lines(write(arrays))


def test_a_probe_file_without_a_probe_is_refused(grid, write):
    with pytest.raises(DataError, match="'probeGuess': is missing"):
        load_probe(write(grid))


@pytest.mark.parametrize("n_px", [64, 128])
def test_the_measured_scan_is_read(n_px):
    scan = load_raw_scan(siemens_star(n_px))

    assert scan.diffraction.shape == (516, n_px, n_px)
    assert scan.probe.shape == (1, n_px, n_px)
    assert scan.metadata.nphotons is None
