"""Measured and predicted diffraction of a snapshot, and panels that are the same in every epoch."""

from dataclasses import replace

import numpy as np
import pytest

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from tests.pictures.test_snapshot_figures import _raw, _snapshot
from tests.samples import N_PX, make_scan


def test_predicted_patterns_are_measured_beside_the_mean_pattern():
    scan = replace(make_scan(), photon_scale=np.array([10, 20], np.float32))
    one = _snapshot(scan)
    one.arrays.fixed_diffraction[:] = 0.9 * scan.observed_diffraction
    figures = _raw(scan, one)

    for row, photons in enumerate((100, 400)):
        numbers, observed = figures[f"patch_{row:02d}"].metrics, scan.observed_diffraction[row]
        assert numbers["r_factor"] == pytest.approx(0.1, rel=1e-4)
        expected = 2 * photons * (np.log(1 / 0.81) - 0.19) * np.mean(observed**2)
        assert numbers["deviance"] == pytest.approx(expected, rel=1e-3)
        mean = np.sqrt((scan.observed_diffraction**2).mean(axis=0))
        expected = np.abs(observed - mean).sum() / observed.sum()
        assert numbers["mean_pattern_r_factor"] == pytest.approx(expected, rel=1e-4)
    without = _raw(replace(scan, photon_scale=None), one)["patch_00"].metrics
    assert not [name for name in without if "deviance" in name]


def test_without_measured_diffraction_the_predicted_is_shown_alone():
    scan = replace(make_scan(), observed_diffraction=None)
    patch = _raw(scan, _snapshot(scan))["patch_00"]

    assert [kind for kind in patch.panels if kind.startswith("diff")] == ["diff_pred_logI"]
    assert not [name for name in patch.metrics if "r_factor" in name or "deviance" in name]
    silent = replace(_snapshot(scan), has_diffraction=False)
    assert not [kind for kind in _raw(scan, silent)["patch_00"].panels if kind.startswith("diff")]


def test_without_measured_diffraction_the_range_is_that_of_the_trained_network():
    scan, history = replace(make_scan(), observed_diffraction=None), History()
    ranges = []
    for epoch, amplitude in ((0, 9), (1, 2), (2, 3)):
        one = _snapshot(scan, epoch)
        one.arrays.fixed_diffraction[:] = np.linspace(0, amplitude, N_PX)
        list(render(scan, one, history))
        ranges.append(history.colour_ranges.ranges.get("patch/diff"))

    assert ranges == [None, *[(0, pytest.approx(np.log(5)))] * 2]


def test_truth_and_measured_patterns_are_drawn_once_per_run_and_scan():
    scan, history = make_scan(), History()
    for epoch in (1, 2):
        list(render(scan, _snapshot(scan, epoch), history))
    first = dict(history.constant_panels(scan).panels)
    list(render(scan, _snapshot(scan, 3), history))

    assert len(first) == (1 + 2) * 4 + 2  # raw and aligned amplitude and phase of object and patches; patterns
    assert history.constant_panels(scan).panels == first
    assert history.constant_panels(make_scan()).panels == {}
