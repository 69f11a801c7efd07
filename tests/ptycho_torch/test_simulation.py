"""Simulated data: the physics by identities, the file layouts by the format's published numbers."""

from functools import partial

import numpy as np
import pytest
from skimage.restoration import unwrap_phase

from ptycho_torch.files.archive import save_npz
from ptycho_torch.files.npz import load_grid_lines, load_raw_scan
from ptycho_torch.simulation.grid_lines import GridPlan, simulate_grid_lines
from ptycho_torch.simulation.raw_scan import cut_all, detector_amplitude, simulate_raw_scan
from ptycho_torch.simulation.scan_patterns import PATTERNS, scan_positions
from ptycho_torch.simulation.specimens import default_pictures, diffuser_probe, disc_probe, make_object, varied_object

N = 16


def _object(size=40, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.5, 1, (size, size)) * np.exp(1j * rng.uniform(0, 1, (size, size)))).astype(np.complex64)


def _grid(plan, size, n_px=N, nimgs=2, **settings):
    objects = np.stack([_object(size, seed) for seed in range(2 * nimgs)])
    settings = {"seed": 0, "noise": False} | settings
    return (
        *simulate_grid_lines(objects[:nimgs], objects[nimgs:], disc_probe(n_px, 5)[0], plan=plan, **settings),
        objects,
    )


def test_detector_conserves_power_and_keeps_dc_in_the_centre():
    probe = disc_probe(N, 5)
    flat = np.ones((1, N, N), np.complex64)

    amplitude = detector_amplitude(flat, probe)
    beam_alone = detector_amplitude(flat, np.ones((1, N, N), np.complex64))

    assert (amplitude**2).sum() == pytest.approx((np.abs(probe) ** 2).sum(), rel=1e-6)
    assert beam_alone[0, N // 2, N // 2] == pytest.approx(N)
    assert np.count_nonzero(beam_alone > 1e-9) == 1


def test_modes_add_coherently():
    probe, patch = disc_probe(N, 5), _object()[None, :N, :N]

    single = detector_amplitude(patch, probe)

    np.testing.assert_allclose(detector_amplitude(patch, np.concatenate([probe, probe])), 2 * single, rtol=1e-9)
    np.testing.assert_allclose(detector_amplitude(patch, np.concatenate([probe, -probe])), 0, atol=1e-9)


def test_counts_are_poisson_around_the_requested_mean():
    positions = np.full((400, 2), 20.0)

    arrays = simulate_raw_scan(_object(), disc_probe(N, 5), positions, nphotons=1e5, seed=3)
    counts = arrays["diff3d"].astype(np.float64) ** 2

    assert counts.sum(axis=(1, 2)).mean() == pytest.approx(1e5, rel=1e-3)
    assert np.abs(counts - counts.round()).max() < 1e-2
    bright = counts.mean(axis=0) > 50
    assert (counts.var(axis=0) / counts.mean(axis=0).clip(1))[bright].mean() == pytest.approx(1, abs=0.05)


def test_a_raw_scan_is_reproducible_and_seeds_differ():
    positions, probe = np.full((3, 2), 20.25), disc_probe(N, 5)

    first, again, other = (simulate_raw_scan(_object(), probe, positions, seed=s)["diff3d"] for s in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_x_is_the_column_and_the_centre_pixel_has_index_half_n():
    object_ = np.zeros((40, 50), np.complex64)
    object_[15, 30] = 1  # one open pixel: the exit wave is the probe there
    probe = np.zeros((1, N, N), np.complex64)
    probe[0, N // 2, N // 2] = 1

    at, beside = detector_amplitude(cut_all(object_, np.array([[30.0, 15.0], [15.0, 30.0]]), N), probe)

    assert at.sum() > 0
    assert beside.sum() == 0


def test_a_position_outside_the_object_is_refused():
    with pytest.raises(ValueError, match="1 of 2 patches of 16 px do not lie inside"):
        simulate_raw_scan(_object(), disc_probe(N, 5), np.array([[20.0, 20.0], [4.0, 20.0]]), seed=0)


@pytest.mark.parametrize("nphotons", [0, -1, np.nan, np.inf])
def test_an_impossible_photon_count_is_refused(nphotons):
    with pytest.raises(ValueError, match="nphotons"):
        simulate_raw_scan(_object(), disc_probe(N, 5), np.full((1, 2), 20.0), nphotons=nphotons, seed=0)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_scan_patterns_fill_the_object_and_stay_inside(pattern):
    positions = scan_positions(pattern, (100, 140), N, 4.0, np.random.default_rng(0))

    low, high = positions.min(axis=0), positions.max(axis=0)
    assert (low >= N // 2).all()
    assert (high <= [140 - N // 2 - 1, 100 - N // 2 - 1]).all()
    assert (high - low > 0.9 * np.array([140 - N, 100 - N])).all()
    assert len(positions) == pytest.approx((140 - N) * (100 - N) / 4**2, rel=0.12)


@pytest.mark.parametrize(("shape", "step"), [((16, 40), 4.0), ((40, 40), 0.0), ((40, 40), np.nan)])
def test_impossible_scans_are_refused(shape, step):
    with pytest.raises(ValueError, match="must be"):
        scan_positions("raster", shape, N, step, np.random.default_rng(0))


@pytest.mark.parametrize(("n_px", "per_axis", "stitched"), [(64, 33, 330), (128, 27, 270)], ids=["N64", "N128"])
def test_the_default_grid_has_the_published_sizes(n_px, per_axis, stitched):
    from ptycho_torch.data.grouping import grid_corners
    from ptycho_torch.simulation.grid_lines import _stitched_part

    assert len(grid_corners(392, n_px, 10)) == per_axis**2
    assert _stitched_part(np.zeros((392, 392), np.complex64), n_px, GridPlan()).shape == (stitched, stitched)
    assert len(grid_corners(392, 64, 4)) == 83**2


@pytest.mark.parametrize("gridsize", [1, 2])
def test_grid_lines_have_the_keys_and_shapes_of_the_format(gridsize):
    train, test, _ = _grid(GridPlan(gridsize=gridsize, outer_offset_test=10), 42)

    n, channels = 2 * ((42 - N - 4 * (gridsize - 1)) // 5 + 1) ** 2, gridsize**2
    assert {test[k].shape for k in ("diffraction", "Y_I", "Y_phi")} == {(n, N, N, channels)}
    assert {test[k].shape for k in ("coords_nominal", "coords_true", "coords_offsets")} == {(n, 1, 2, channels)}
    assert test["YY_full"].shape == (2, 42, 42, 1)
    assert set(test) - set(train) == {"norm_Y_I", "YY_ground_truth"}
    assert all(not array.dtype.hasobject for array in (*train.values(), *test.values()))


def test_test_patches_come_object_by_object_and_row_by_row():
    _, test, objects = _grid(GridPlan(outer_offset_test=10), 42)

    per_object = 6**2
    sample = per_object + 6 + 2  # second object, second row, third column
    expected = objects[3, 5 : 5 + N, 10 : 10 + N]
    np.testing.assert_allclose(test["Y_phi"][sample, ..., 0], np.angle(expected), rtol=1e-5)
    assert test["coords_offsets"][sample, 0, :, 0].tolist() == [5 + N // 2, 10 + N // 2]
    illuminated = np.abs(expected * test["probeGuess"]) / test["norm_Y_I"]
    np.testing.assert_allclose(test["Y_I"][sample, ..., 0], illuminated, rtol=1e-4, atol=1e-9)


def test_the_norm_is_the_mean_of_the_patches_largest_amplitudes():
    _, test, objects = _grid(GridPlan(outer_offset_test=32), 34)  # 2 x 2 patches of stride 16 per object

    corners = [(y, x) for y in (0, 16) for x in (0, 16)]
    largest = [np.abs(o[y : y + N, x : x + N]).max() for o in objects[2:] for y, x in corners]
    assert test["norm_Y_I"].item() == pytest.approx(np.mean(largest), rel=1e-6)


def test_group_coordinates_are_minus_the_distance_from_the_mean():
    _, test, objects = _grid(GridPlan(gridsize=2, outer_offset_test=10), 42)

    relative = test["coords_nominal"][0, 0].T
    assert relative.tolist() == [[2, 2], [-2, 2], [2, -2], [-2, -2]]  # (x, y) of top left, top right, ...
    expected = np.angle(objects[2, 0:N, 4 : 4 + N])  # channel 1 lies to the right
    np.testing.assert_allclose(test["Y_phi"][0, ..., 1], expected, rtol=1e-5)


def test_training_patches_are_shuffled_but_their_offsets_are_not():
    train, _, objects = _grid(GridPlan(outer_offset_train=16), 40, nimgs=1)

    corners = [(y, x) for y in (0, 8, 16, 24) for x in (0, 8, 16, 24)]
    ordered = np.stack([np.angle(objects[0, y : y + N, x : x + N]) for y, x in corners])
    found = train["Y_phi"][..., 0]
    matches = [int(np.argmin(np.abs(ordered - patch).max(axis=(1, 2)))) for patch in found]
    assert sorted(matches) == list(range(16)) != matches
    assert train["coords_offsets"][:, 0, :, 0].tolist() == [[y + 8, x + 8] for y, x in corners]


@pytest.mark.parametrize(
    "wrong",
    [{"gridsize": 3}, {"offset": 0}, {"outer_offset_test": 0}, {"outer_offset_train": 7}],
)
def test_an_impossible_grid_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GridPlan(**wrong)


def test_default_pictures_make_objects_in_the_stated_range():
    object_ = make_object(*default_pictures(), 48)
    varied = varied_object(*default_pictures(), 48, np.random.default_rng(0))

    for made in (object_, varied):
        assert (np.abs(made).min(), np.abs(made).max()) == pytest.approx((0.8, 1.0), abs=1e-5)
        assert (np.angle(made).min(), np.angle(made).max()) == pytest.approx((0.0, 1.5), abs=1e-5)
    assert np.abs(object_ - varied).mean() > 0.05


def test_objects_have_the_amplitudes_that_are_asked_for():
    object_ = make_object(*default_pictures(), 48, (0.5, 0.9))
    varied = varied_object(*default_pictures(), 48, np.random.default_rng(0), (0.5, 0.9))

    for made in (object_, varied):
        assert (np.abs(made).min(), np.abs(made).max()) == pytest.approx((0.5, 0.9), abs=1e-5)


@pytest.mark.parametrize("limits", [(0.5, 0.5), (-0.1, 1.0), (0.5, 1.1), (np.nan, 1.0)])
def test_impossible_amplitudes_are_refused(limits):
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        make_object(*default_pictures(), 48, limits)


@pytest.mark.parametrize(("rms", "smoothing"), [(0.2, 3.0), (1.0, 2.0)])
def test_a_diffuser_is_a_disc_with_a_phase_of_the_stated_rms(rms, smoothing):
    disc, made = (f(64, 16) for f in (disc_probe, partial(diffuser_probe, rms_rad=rms, smoothing_px=smoothing, seed=0)))

    inside = np.hypot(*(np.mgrid[:64, :64] - 32)) <= 16
    phase = unwrap_phase(np.angle(made[0]))[inside]
    np.testing.assert_allclose(np.abs(made), np.abs(disc), rtol=1e-5)
    assert phase.std() == pytest.approx(rms, rel=1e-3)
    assert made.dtype == np.complex64


@pytest.mark.parametrize("smoothing", [2.0, 3.0])
def test_the_diffusers_phase_is_correlated_over_the_stated_distance(smoothing):
    """Smoothing white noise by a Gaussian gives the autocorrelation exp(-d^2 / (4 sigma^2))."""
    made = [diffuser_probe(256, 120, rms_rad=0.5, smoothing_px=smoothing, seed=s)[0, 64:192, 64:192] for s in range(4)]
    phases = np.stack([np.angle(m) for m in made])  # a few times 0.5 rad does not wrap

    for distance in (1, 3, 6):
        product = (phases[:, :, distance:] * phases[:, :, :-distance]).mean() / (phases**2).mean()
        assert product == pytest.approx(np.exp(-((distance / smoothing) ** 2) / 4), abs=0.08)


def test_diffusers_are_reproducible_and_seeds_differ():
    first, again, other = (diffuser_probe(64, 16, seed=s) for s in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5


@pytest.mark.parametrize(
    "wrong", [{"rms_rad": 0.0}, {"rms_rad": np.nan}, {"smoothing_px": 0.0}, {"smoothing_px": 17.0}]
)
def test_an_impossible_diffuser_is_refused(wrong):
    with pytest.raises(ValueError, match="the diffuser has"):
        diffuser_probe(64, 16, **wrong, seed=0)


def test_a_uniform_picture_is_refused():
    with pytest.raises(ValueError, match="needs contrast"):
        make_object(np.ones((9, 9)), default_pictures()[1], 20)


def test_simulated_files_load(tmp_path):
    save_npz(tmp_path / "raw.npz", simulate_raw_scan(_object(), disc_probe(N, 5), np.full((3, 2), 20.5), seed=0))
    _, test, _ = _grid(GridPlan(gridsize=2, outer_offset_test=10), 42, noise=True)
    save_npz(tmp_path / "test.npz", test)

    assert load_raw_scan(tmp_path / "raw.npz").metadata.nphotons == 1e9
    assert load_grid_lines(tmp_path / "test.npz").metadata.gridsize == 2
