"""Figures of a snapshot: raw predictions, aligned errors, fixed ranges."""

from dataclasses import replace

import numpy as np
import pytest

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.colour_ranges import ColourRanges
from recon_worker.pictures.history import History
from recon_worker.pictures.labels import HALF_PERIODS, metric_label
from recon_worker.pictures.png import read_png
from recon_worker.pictures.snapshot_figures import SnapshotFigures
from recon_worker.reconstruction.stitching import stitch
from recon_worker.snapshot.artifact import Artifact
from tests.samples import CROP_PX, N_PX, fill, layout_of, make_scan, snapshot


def _snapshot(scan, epoch=1, seed=None):
    arrays = layout_of(scan).allocate()
    fill(arrays, epoch if seed is None else seed)
    return snapshot(arrays, epoch)


def _made(scan, one, colour_ranges=None):
    figures = SnapshotFigures(scan, one, colour_ranges or ColourRanges())
    return [made for _, make in figures.picture_groups() for made in make()]


def _raw(scan, one, colour_ranges=None):
    """The figures of the raw predictions, by name."""
    return {made.raw.name: made.raw for made in _made(scan, one, colour_ranges)}


def _aligned(scan, one, name):
    return next(made.aligned for made in _made(scan, one) if made.aligned.name == name)


def _perfect(scan, factor):
    """A snapshot whose fixed patches are the truth divided by a factor."""
    one = _snapshot(scan)
    label = scan.label_amp * np.exp(1j * scan.label_phase) / factor
    one.arrays.fixed_amp[:], one.arrays.fixed_phase[:] = np.abs(label), np.angle(label)
    return one


def test_predictions_are_shown_raw_and_errors_after_alignment():
    scan, factor = make_scan(), 1.7 * np.exp(2.5j)
    figure = _raw(scan, _perfect(scan, factor))["patch_00"]

    np.testing.assert_allclose(figure.panels["amp_pred"].values, scan.label_amp[0] / 1.7, rtol=1e-5)
    assert figure.metrics["fit_scale"] == pytest.approx(1.7, rel=1e-5)
    assert figure.metrics["fit_phase_rad"] == pytest.approx(2.5, rel=1e-5)
    assert figure.panels["amp_error"].values.max() < 1e-5
    assert figure.panels["phase_error"].values.max() < 1e-5
    assert figure.metrics["amp_mae"] < 1e-5 > figure.metrics["phase_mae_rad"]


def test_beside_the_errors_the_prediction_is_aligned_with_the_truth():
    scan = make_scan()
    figure = _aligned(scan, _perfect(scan, 1.7 * np.exp(2.5j)), "patch_00")

    for kind in ("amp", "phase"):
        shown, truth = figure.panels[f"{kind}_pred"], figure.panels[f"{kind}_gt"]
        np.testing.assert_allclose(shown.values, truth.values, atol=1e-5)
        assert (shown.value_range, shown.colormap) == (truth.value_range, truth.colormap)
    np.testing.assert_allclose(figure.panels["amp_gt"].values, scan.label_amp[0], rtol=1e-6)
    np.testing.assert_allclose(
        np.exp(1j * figure.panels["phase_gt"].values), np.exp(1j * scan.label_phase[0]), atol=1e-6
    )


@pytest.mark.parametrize("mean", [0.3, 3.0])
def test_a_weak_phase_has_all_colours_wherever_the_branch_cut_lies(mean):
    scan = make_scan()
    weak = mean + np.random.default_rng(0).uniform(-0.4, 0.4, scan.label_phase.shape)
    panel = _aligned(replace(scan, label_phase=weak.astype(np.float32)), _snapshot(scan), "patch_00").panels["phase_gt"]

    assert panel.value_range == pytest.approx((mean - 0.48, mean + 0.48), abs=0.03)
    np.testing.assert_allclose(panel.values, weak[0], atol=1e-5)
    assert panel.period is None


def test_a_phase_of_a_whole_turn_stays_cyclic():
    scan = make_scan()
    turn = np.random.default_rng(0).uniform(-np.pi, np.pi, scan.label_phase.shape).astype(np.float32)
    panel = _aligned(replace(scan, label_phase=turn), _snapshot(scan), "patch_00").panels["phase_gt"]

    assert panel.value_range == (-np.pi, np.pi)
    assert panel.period == 2 * np.pi


def test_without_truth_there_is_nothing_to_align_with():
    scan = make_scan(truth=False)

    for made in _made(scan, _snapshot(scan)):
        assert list(made.aligned.panels.items()) == list(made.raw.panels.items())


@pytest.mark.parametrize("ramp", [True, False])
def test_a_phase_ramp_of_the_stitched_object_is_no_error_unless_it_shall_be(ramp):
    scan = replace(make_scan(400), remove_ramp=ramp)
    one = _snapshot(scan)
    (image,) = stitch(scan.geometry, one.arrays.stitch_object())
    x = np.arange(image.object.shape[1])
    truth = (image.object * np.exp(0.2j * x)).astype(np.complex64)
    figure = _raw(replace(scan, ground_truth=(truth,)), one)["stitched"]

    assert (figure.metrics["phase_mae_rad"] < 1e-4) == ramp
    assert ("fit_ramp_x_rad_per_px" in figure.metrics) == ramp
    assert not ramp or figure.metrics["fit_ramp_x_rad_per_px"] == pytest.approx(0.2, abs=1e-5)
    assert not ramp or figure.metrics["frc_cutoff_half"] == 0.5


def test_with_ground_truth_only_the_amplitude_range_depends_on_the_predictions():
    scan = make_scan()
    first, second = (_raw(scan, _snapshot(scan, seed=seed)) for seed in (1, 2))

    for name, figure in first.items():
        other = second[name].panels
        for kind, panel in figure.panels.items():
            assert kind in ("amp_pred", "amp_gt") or panel.value_range == other[kind].value_range
    assert first["patch_00"].panels["amp_gt"].value_range == first["patch_01"].panels["amp_pred"].value_range


def test_the_amplitude_range_holds_the_truth_and_a_prediction_of_another_scale():
    scan = make_scan()
    one = _snapshot(scan)
    one.arrays.stitch_amp[:] = 0.02 * np.arange(1, 31).reshape(-1, 1, 1, 1)
    low, high = _raw(scan, one)["stitched"].panels["amp_pred"].value_range
    truth = np.abs(scan.ground_truth[0])
    truth = truth[np.isfinite(truth)]

    assert low < 0.05 < truth.max() < high + 0.01


def test_without_ground_truth_the_first_trained_epoch_sets_the_amplitude_range():
    scan, colour_ranges = make_scan(truth=False), ColourRanges()
    ranges = []
    for epoch, brighter in ((0, 1), (1, 2), (2, 9)):
        one = _snapshot(scan, epoch)
        one.arrays.stitch_amp[:] *= brighter
        ranges.append(_raw(scan, one, colour_ranges)["stitched"].panels["amp_pred"].value_range)

    assert ranges[0] != ranges[1] == ranges[2]
    assert '"stitched/amp"' in colour_ranges.to_json()


def test_ranges_survive_a_restart_and_a_resume():
    scan, history = make_scan(truth=False), History()
    list(render(scan, _snapshot(scan, 1), history))
    again = History.of_files(history.files())
    brighter = _snapshot(scan, 2)
    brighter.arrays.stitch_amp[:] *= 9
    made = {one.path: one.data for one in render(scan, brighter, again)}

    assert again.colour_ranges.to_json() == history.colour_ranges.to_json()
    shown = read_png(made["epoch_02/stitched/amp_pred.png"])
    fixed = ColourRanges.from_json(history.files()["scales.json"])
    assert shown.value_range == fixed.ranges["stitched/amp"]
    assert [entry.epoch for entry in again.entries] == [1, 2]


def test_no_error_is_claimed_where_the_truth_is_dark():
    scan = make_scan()
    scan.label_amp[0, :6] = 0.001
    figure = _raw(scan, _snapshot(scan))["patch_00"]

    assert not figure.panels["amp_error"].scanned[:6].any()
    assert figure.panels["phase_error"].scanned[6:12, 4:12].all()


def test_a_patch_is_judged_by_its_central_half_only():
    scan = make_scan()
    one = _snapshot(scan)
    one.arrays.fixed_amp[0], one.arrays.fixed_phase[0] = scan.label_amp[0], scan.label_phase[0]
    one.arrays.fixed_amp[0, :4] = 50
    figure = _raw(scan, one)["patch_00"]

    assert figure.metrics["amp_mae"] < 1e-6 > figure.metrics["phase_mae_rad"]
    assert figure.panels["amp_error"].scanned.sum() == (N_PX // 2) ** 2


def _consistent(scan, epoch):
    """A snapshot whose patches are cut from one object, so that both halves of the scan agree."""
    rng, one = np.random.default_rng(1), _snapshot(scan, epoch)
    amp, phase = rng.uniform(0.5, 1, (56, 56)), rng.uniform(-1, 1, (56, 56))
    for row, (x, y) in enumerate(scan.geometry.positions_px[:, 0].round().astype(int) - CROP_PX // 2):
        cut = slice(y, y + CROP_PX), slice(x, x + CROP_PX)
        one.arrays.stitch_amp[row, 0], one.arrays.stitch_phase[row, 0] = amp[cut], phase[cut]
    return one


def test_without_truth_the_halves_of_the_scan_are_compared_and_no_resolution_is_claimed():
    scan = replace(make_scan(400, truth=False), pixel_size_m=25e-9)
    metrics = _raw(scan, _consistent(scan, 1))["stitched"].metrics

    half_data = {name for name in metrics if name.startswith("half_data_frc_")}
    assert half_data == {f"half_data_frc_{name}" for name in ("cutoff", "half_period_px", "half_period_nm")}
    assert metrics.keys() - half_data == {"finite_share", "coverage"}
    for name in half_data:
        assert "half-data FRC" in metric_label(name).label
        assert "resolution" not in metric_label(name).label + name


@pytest.mark.parametrize("truth", [False, True])
def test_an_untrained_network_has_no_resolution(truth):
    scan = replace(make_scan(400, truth=truth), pixel_size_m=25e-9)
    trained, untrained = (_raw(scan, _consistent(scan, epoch))["stitched"].metrics.keys() for epoch in (1, 0))

    assert untrained >= {"frc_cutoff_half" if truth else "half_data_frc_cutoff"}
    assert trained - untrained <= set(HALF_PERIODS)
    assert not untrained & set(HALF_PERIODS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_prediction_that_is_half_nan_is_not_perfect_in_the_other_half(bad):
    """Over the finite half alone SSIM would be 1.000, and the ring correlation 1 up to Nyquist."""
    scan, _ = _scan_of_its_own_prediction()
    one = _snapshot(scan)
    one.arrays.stitch_amp[:200] = bad
    numbers = _raw(scan, one)["stitched"].metrics

    assert 0 < numbers["finite_share"] < 1
    assert all(np.isnan(numbers[name]) for name in ("amp_ssim", "phase_ssim", "amp_psnr_db", "frc_cutoff_half"))
    assert all(np.isnan(numbers[name]) for name in ("amp_mae", "phase_correlation", "amp_correlation"))
    perfect = _raw(scan, _snapshot(scan))["stitched"].metrics
    assert perfect["amp_ssim"] == pytest.approx(perfect["finite_share"]) == 1
    without_truth = _raw(replace(scan, ground_truth=()), one)["stitched"].metrics
    assert np.isnan(without_truth["half_data_frc_cutoff"])


def _scan_of_its_own_prediction():
    scan = make_scan(400)
    images = stitch(scan.geometry, _snapshot(scan).arrays.stitch_object())
    return replace(scan, ground_truth=tuple(image.object for image in images)), images


def test_phases_where_the_truth_is_dark_do_not_count():
    """30 % of the object at 2 % of the amplitude, where the phase is noise."""
    scan, (image,) = _scan_of_its_own_prediction()
    dark = np.random.default_rng(0).random(image.object.shape) < 0.3
    truth = np.where(dark, 0.02 * np.exp(2j), image.object).astype(np.complex64)
    numbers = _raw(replace(scan, ground_truth=(truth,)), _snapshot(scan))["stitched"].metrics

    assert numbers["phase_mae_rad"] < 1e-4


def test_the_shift_of_a_prediction_is_a_metric_and_is_not_corrected():
    scan, (image,) = _scan_of_its_own_prediction()
    shifted = replace(scan, ground_truth=(np.roll(image.object, (-1, 2), axis=(0, 1)),))
    numbers = _raw(shifted, _snapshot(scan))["stitched"].metrics

    assert (numbers["shift_x_px"], numbers["shift_y_px"]) == pytest.approx((-2, 1), abs=0.05)
    assert numbers["phase_correlation"] < 0.9


def test_a_ramp_that_is_too_steep_to_be_removed_is_a_metric():
    scan, (image,) = _scan_of_its_own_prediction()
    steep = (image.object * np.exp(1.2j * np.arange(image.object.shape[1]))).astype(np.complex64)
    numbers = _raw(replace(scan, ground_truth=(steep,)), _snapshot(scan))["stitched"].metrics

    assert numbers["steep_ramp_x_rad_per_px"] == pytest.approx(1.2, abs=0.01)
    assert numbers["fit_ramp_x_rad_per_px"] == 0


def test_colours_of_patches_come_from_their_central_half():
    scan = make_scan(truth=False)
    one = _snapshot(scan)
    one.arrays.fixed_amp[:, : N_PX // 4] = 50
    value_range = _raw(scan, one)["patch_00"].panels["amp_pred"].value_range

    assert value_range[1] < 2


def test_pixels_of_every_picture_map_back_to_values():
    scan = make_scan()
    one = _snapshot(scan)
    made = {artifact.path: artifact.data for artifact in render(scan, one, History()) if isinstance(artifact, Artifact)}
    shown = read_png(made["epoch_01/patch_00/phase_pred.png"])

    step = (shown.value_range[1] - shown.value_range[0]) / 251
    np.testing.assert_allclose(shown.values, one.arrays.fixed_phase[0], atol=0.51 * step)
