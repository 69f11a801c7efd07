"""The reference of step 0: like the later image cards, with the truth in place of the prediction."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw

from recon_worker.pictures.artifacts import reference, render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import card_of
from recon_worker.reconstruction.stitching import crop_to_footprint
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.snapshot.records import SnapshotLayout
from tests.pictures.sheets import pixels
from tests.samples import CROP_PX, N_PX, make_scan, snapshot

TITLE = "Reference: ground truth and measured data"
BELOW_CAPTION = slice(40, None)


def made(scan):
    """The reference cards by name."""
    found = {card_of(one.path): one.data for one in reference(scan)}
    assert {card.step for card in found} <= {0}
    return {card.key.removeprefix("recon/"): data for card, data in found.items()}


def perfect(scan, true):
    """A snapshot that predicts the truth."""
    geometry = scan.geometry
    arrays = SnapshotLayout(n_fixed=0, patch_px=N_PX, n_stitch=len(geometry.positions_px), crop_px=CROP_PX).allocate()
    for row, (x, y) in enumerate(geometry.positions_px[:, 0].astype(int) - CROP_PX // 2):
        patch = true[y : y + CROP_PX, x : x + CROP_PX]
        arrays.stitch_amp[row, 0], arrays.stitch_phase[row, 0] = np.abs(patch), np.angle(patch)
    arrays.stitch_filled[:] = True
    return snapshot(arrays, 1)


@pytest.fixture
def dense():
    """A scan that covers its canvas, at whole pixels, and the truth."""
    line = np.arange(12.0, 44.0, 4.0)
    positions = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 1, 2)
    geometry = PositionGeometry(patch_px=N_PX, crop_px=CROP_PX, positions_px=positions)
    rng = np.random.default_rng(0)
    true = (rng.uniform(0.5, 1, (56, 56)) * np.exp(1j * rng.uniform(-1, 1, (56, 56)))).astype(np.complex64)
    scan = make_scan()
    scan = replace(scan, fixed_indices=(), observed_diffraction=scan.observed_diffraction[:0], geometry=geometry)
    return replace(scan, ground_truth=(crop_to_footprint(geometry, true),)), true


def test_the_card_of_a_perfect_prediction_differs_from_the_reference_only_by_the_caption(dense):
    scan, true = dense
    later = {card_of(one.path): one.data for one in render(scan, perfect(scan, true), History()) if card_of(one.path)}
    later = {card.key: data for card, data in later.items() if card.step}
    cards = made(scan)

    assert {f"recon/{name}" for name in cards} == later.keys()
    for name in ("stitched_amp", "stitched_phase"):
        first, last = pixels(cards[name]), pixels(later[f"recon/{name}"])
        same = (first == last).all(axis=-1)
        assert first.shape == last.shape
        assert same[BELOW_CAPTION].mean() > 0.99  # rounding at the borders of colours
        assert (first == 0).all(axis=-1)[:40].mean() > 0.05


@pytest.mark.parametrize("shape", [(200, 9), (9, 200), (40, 40)])
def test_the_caption_fits_into_the_picture(dense, monkeypatch, shape):
    truth = np.full(shape, 0.75, np.complex64)
    boxes = []
    draw = ImageDraw.ImageDraw.text

    def spy(self, xy, text, fill=None, font=None, **more):
        boxes.append((*self.textbbox(xy, text, font), *self.im.size))
        draw(self, xy, text, fill, font, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    made(replace(dense[0], ground_truth=(truth,)))

    assert len(boxes) == 2
    assert all(
        left >= 0 and top >= 0 and right <= width and bottom <= height
        for left, top, right, bottom, width, height in boxes
    )


def test_the_sheet_shows_truth_and_measured_patterns_and_calls_nothing_predicted(written):
    assert set(made(make_scan())) == {"summary", "stitched_amp", "stitched_phase"}

    assert {TITLE, "Amplitude, truth", "Phase, truth", "observed", "Sample 0", "Sample 1"} <= set(written)
    assert not {"predicted", "error", "Amplitude, predicted", "Epoch 0 (untrained)"} & set(written)
    assert not any("fitted" in text for text in written)


def test_without_truth_the_sheet_has_the_measured_patterns_and_objects_have_no_card(written):
    assert set(made(make_scan(truth=False))) == {"summary"}

    assert {"Reference: measured data", "observed", "Sample 0"} <= set(written)
    assert "truth" not in written


def test_only_objects_with_truth_have_a_card():
    scan = make_scan()
    two = replace(scan, ground_truth=(None, scan.ground_truth[0]))

    assert set(made(two)) == {"summary", "stitched_object_01_amp", "stitched_object_01_phase"}
    assert set(made(replace(scan, geometry=None))) == {"summary"}


def test_nothing_known_gives_no_reference():
    scan = make_scan(n_fixed=0, truth=False)

    assert made(scan) == {}


def test_the_reference_has_the_colour_bars_of_the_later_sheets(written):
    scan = make_scan()
    layout = SnapshotLayout(n_fixed=2, patch_px=N_PX, n_stitch=30, crop_px=CROP_PX)
    one = snapshot(layout.allocate(), 1)
    one.arrays.stitch_filled[:] = one.arrays.fixed_filled[:] = True
    one.arrays.stitch_amp[:] = one.arrays.fixed_amp[:] = 0.7
    made(scan)
    ends = {text for text in written if text.endswith(" rad")}
    written.clear()
    list(render(scan, one, History()))

    assert ends
    assert ends <= set(written)
