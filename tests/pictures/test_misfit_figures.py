"""The misfit map of a run: its files, its colour range, and the gallery that a later epoch continues."""

from dataclasses import replace

import numpy as np
import pytest

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.gallery.page import MAX_BYTES
from recon_worker.pictures.history import History
from recon_worker.pictures.png import read_png
from recon_worker.reconstruction.diffraction_metrics import mean_pattern, r_factor
from recon_worker.reconstruction.misfit import SampleMisfit
from tests.pictures.sheets import sheet
from tests.samples import fill, layout_of, make_scan, snapshot


def _rendered(scan, history, epoch, scale=1.0):
    """The artifacts of an epoch, and the misfit of its samples."""
    arrays = layout_of(scan).allocate()
    fill(arrays, epoch)
    arrays.misfit[:] = scale * np.random.default_rng(epoch).uniform(0.1, 0.5, arrays.misfit.shape)
    return {one.path: one.data for one in render(scan, snapshot(arrays, epoch), history)}, arrays.misfit


def _range(files, epoch, folder, name="stitched"):
    path = folder / "map.png"
    path.write_bytes(files[f"epoch_{epoch:02d}/{name}/misfit.png"])
    return read_png(path)


@pytest.mark.parametrize("truth", [True, False])
def test_the_map_has_the_pixels_of_the_object_and_the_range_of_the_mean_pattern(tmp_path, truth):
    scan, history = make_scan(truth=truth), History()
    expected = max(r_factor(mean_pattern(scan.observed_diffraction), one) for one in scan.observed_diffraction)

    for epoch, scale in ((1, 3), (2, 1)):
        files, misfit = _rendered(scan, history, epoch, scale)
        image = _range(files, epoch, tmp_path)

        assert image.value_range == (0, pytest.approx(expected / 2))
        assert image.unit == "1"
        (tmp_path / "amp.png").write_bytes(files[f"epoch_{epoch:02d}/stitched/amp_pred.png"])
        assert image.values.shape == read_png(tmp_path / "amp.png").values.shape
        step = image.value_range[1] / 251
        shown = np.clip(misfit[:, 0], 0, image.value_range[1])
        assert all(np.abs(shown - value).min() < step for value in np.unique(image.values[image.scanned]))


def test_without_several_measured_patterns_the_trained_network_fixes_the_range(tmp_path):
    scan, history = make_scan(n_fixed=1), History()

    ranges = []
    for epoch, scale in ((0, 9), (1, np.inf), (2, 1), (3, 3)):
        files, _ = _rendered(scan, history, epoch, scale)
        ranges.append(_range(files, epoch, tmp_path).value_range)

    assert ranges[2] == ranges[3]
    assert ranges[0][1] > 3 * ranges[2][1]
    assert 0.4 < ranges[2][1] < 0.7


def test_each_object_has_its_map_and_its_table(tmp_path):
    scan = make_scan(truth=False)
    scan = replace(scan, geometry=replace(scan.geometry, object_index=np.arange(30) % 2))

    files, misfit = _rendered(scan, History(), 1)

    for number, name in enumerate(("stitched", "stitched_object_01")):
        table = SampleMisfit.from_csv(files[f"epoch_01/{name}/misfit.csv"].decode())
        assert table.samples.tolist() == list(range(number, 30, 2))
        np.testing.assert_array_equal(table.deviance_per_photon, misfit[number::2, 1])
        assert _range(files, 1, tmp_path, name).scanned.any()


def _long_run(samples, epochs):
    """The epochs of a gallery with pictures, those with misfits, and the size of its page."""
    history, places = History(), np.random.default_rng(0).uniform(0, 40, (samples, 2))
    for epoch in range(1, epochs + 1):
        values = np.random.default_rng(epoch).random((2, samples), np.float32)
        found = SampleMisfit(
            samples=np.arange(samples), positions_px=places, r_factor=values[0], deviance_per_photon=values[1]
        )
        one = sheet(epoch, shape=(60, 60))
        drawn = [replace(figure, misfit=found) for figure in one.objects]
        history.add(replace(one, objects=tuple(drawn)))
    first = {entry.epoch: entry.figures[0] for entry in history.entries}
    pictures = [epoch for epoch, figure in first.items() if figure.thumbnails]
    return pictures, [epoch for epoch, figure in first.items() if figure.misfit], len(history.gallery())


@pytest.mark.parametrize(("samples", "kept"), [(500, 40), (10_000, 8), (1_000_000, 0)])
def test_misfits_are_kept_for_the_newest_epochs_within_their_part_of_the_gallery(samples, kept):
    epochs = 40 if samples < 1_000_000 else 3
    pictures, misfits, size = _long_run(samples, epochs)

    assert misfits == list(range(1, epochs + 1))[epochs - kept :]
    assert pictures == list(range(1, epochs + 1))
    assert size <= MAX_BYTES


def test_a_restarted_worker_keeps_the_misfits_of_the_gallery():
    scan, history = make_scan(), History()
    for epoch in (1, 2):
        _rendered(scan, history, epoch)

    kept = History.of_files(history.files())

    assert kept.gallery() == history.gallery()
    places = {entry.figures[0].misfit[0] for entry in kept.entries}
    values = {entry.figures[0].misfit[1] for entry in kept.entries}
    assert (len(places), len(values)) == (1, 2)
