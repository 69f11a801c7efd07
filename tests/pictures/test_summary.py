"""The summary sheet shows every picture exactly, with metrics and colour bars, and is reproducible."""

import dataclasses
import gc
import tracemalloc

import matplotlib
import numpy as np
import pytest

from recon_worker.pictures.figures import EpochFigures
from recon_worker.pictures.layout import Page
from recon_worker.pictures.png import encode_png
from recon_worker.pictures.summary import latest_png, summary_png
from tests.pictures.sheets import pixels, sheet


def _file_colours(one):
    """The picture as its own file shows it."""
    return pixels(encode_png(one))


def _contains(page, picture):
    """Whether the picture is somewhere on the page, pixel for pixel."""
    height, width = picture.shape[:2]
    corners = np.argwhere((page[: -height + 1, : -width + 1] == picture[0, 0]).all(-1))
    return any((page[y : y + height, x : x + width] == picture).all() for y, x in corners)


def test_every_picture_is_there_enlarged_by_whole_factors():
    drawn = sheet(shape=(50, 40), patch_shape=(16, 16))
    page = pixels(summary_png(drawn))
    panels = [
        _file_colours(one)[figure.compared(kind) or ...]
        for figure in drawn.figures()
        for kind, one in figure.panels.items()
    ]

    assert len(panels) == 6 + 9
    for one in panels:
        assert _contains(page, one.repeat(8, axis=0).repeat(8, axis=1))


def test_the_border_of_a_patch_that_is_not_compared_is_paler():
    drawn = sheet(objects=0, patch_shape=(16, 16))
    (patch,) = drawn.patches
    page = pixels(summary_png(drawn)).astype(int)
    for kind in ("amp_pred", "amp_gt", "phase_pred", "phase_gt"):
        colours = _file_colours(patch.panels[kind]).astype(int)
        paler = (255 - (255 - colours) * 0.4).astype(int)
        paler[4:12, 4:12] = colours[4:12, 4:12]
        assert _contains(page, paler.repeat(8, axis=0).repeat(8, axis=1)), kind


def test_nothing_is_paler_where_nothing_is_compared():
    drawn = sheet(objects=0, truth=False)
    page = pixels(summary_png(drawn))

    for one in drawn.patches[0].panels.values():
        assert _contains(page, _file_colours(one).repeat(8, axis=0).repeat(8, axis=1))


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("objects", [1, 0])
def test_the_latest_card_names_the_epoch_and_shows_the_object_or_else_a_patch(objects, truth, written):
    drawn = sheet(objects=objects, truth=truth, patch_shape=(40, 40))
    page = pixels(latest_png(drawn))
    (shown, *_) = drawn.figures()
    kinds = ("amp_pred", "phase_pred", *(("amp_gt", "phase_gt") if truth else ()))

    assert written[0] == "Epoch 5, step 50"
    assert len(written) == 1 + len(kinds)
    for kind in kinds:
        colours = _file_colours(shown.panels[kind])[shown.compared(kind) or ...]
        assert _contains(page, colours.repeat(6, axis=0).repeat(6, axis=1)), kind


@pytest.mark.parametrize("shape", [(9, 200), (200, 9), (300, 300)])
def test_the_latest_card_has_room_for_its_headings(shape, monkeypatch):
    ends = []
    write = Page.write
    monkeypatch.setattr(Page, "write", lambda page, *a, **k: (write(page, *a, **k), ends.append(page.width)))
    page = pixels(latest_png(sheet(shape=shape)))

    assert page.shape[1] > max(ends)
    assert max(page.shape) < 750


def test_a_large_picture_is_averaged_over_squares(written):
    values = np.kron(np.random.default_rng(0).uniform(0, 1.5, (250, 200)), np.ones((4, 4))).astype(np.float32)
    drawn = sheet(patches=0, truth=False)
    large = dataclasses.replace(drawn.objects[0].panels["amp_pred"], values=values)
    page = pixels(summary_png(dataclasses.replace(drawn, objects=(_with_amplitude(drawn, large),))))

    assert _contains(page, _file_colours(dataclasses.replace(large, values=values[::2, ::2])))
    assert "1000 \u00d7 800 px, averaged over 2 \u00d7 2 px" in written


def test_the_heading_and_the_numbers_say_what_is_shown(written):
    summary_png(sheet(0, pixel_size_m=28e-9))

    assert {"Epoch 0 (untrained)", "optimiser step 0", "40 \u00d7 40 px, pixel size 28 nm"} <= set(written)
    assert written[written.index("amplitude MAE") + 1] == "1"
    assert written[written.index("R-factor") + 1] == "not defined"


@pytest.mark.parametrize(
    ("name", "title"), [("refined", "Object, refined"), ("refined_object_01", "Object 01, refined")]
)
def test_a_refined_object_is_not_called_predicted(written, name, title):
    summary_png(dataclasses.replace(sheet(patches=0), objects=(_with(sheet(patches=0), name=name),)))

    assert {title, "Amplitude, refined", "Phase, refined", "Amplitude, truth"} <= set(written)
    assert not any("predicted" in text for text in written)


def test_what_was_fitted_before_comparing_is_said(written):
    fit = {"fit_scale": 1.5, "fit_phase_rad": -0.25, "fit_ramp_x_rad_per_px": 0.01, "fit_ramp_y_rad_per_px": 0.0}
    drawn = sheet(patches=0)
    summary_png(dataclasses.replace(drawn, objects=(_with(drawn, metrics=fit),)))

    assert (
        "Aligned with the truth: amplitude scale 1.5, global phase \u22120.25 rad, "
        "phase ramp (0.01, 0) rad/px along (x, y)."
    ) in written


def test_without_truth_amplitude_and_phase_stand_side_by_side(written):
    page = pixels(summary_png(sheet(truth=False, patches=0)))

    assert page.shape[0] < 700
    assert not any("truth" in text or "error" in text for text in written)


def test_special_colours_are_explained_only_where_they_occur(written):
    drawn = sheet(patches=0)
    summary_png(drawn)
    assert "not a number" not in written

    values = drawn.objects[0].panels["amp_pred"].values.copy()
    values[3, 4] = np.nan
    faulty = dataclasses.replace(drawn.objects[0].panels["amp_pred"], values=values)
    summary_png(dataclasses.replace(drawn, objects=(_with_amplitude(drawn, faulty),)))
    assert "not a number" in written
    assert "not scanned, or nothing to compare" not in written


def test_more_patches_and_objects_than_fit_are_counted(written):
    summary_png(sheet(objects=6, patches=9, patch_shape=(8, 8), shape=(20, 20)))

    facts = "8 of 9 shown, amplitude scale and global phase fitted per patch, dimmed borders are not compared"
    assert {facts, "4 of 6 objects are shown."} <= set(written)


def test_the_same_sheet_gives_the_same_bytes_whatever_the_user_set_for_matplotlib():
    plain = summary_png(sheet())
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "figure.dpi": 50, "savefig.facecolor": "red"}):
        assert summary_png(sheet()) == plain


def test_many_summaries_leave_no_memory_behind_for_the_garbage_collector():
    drawn = sheet()
    summary_png(drawn)  # caches fonts and colour maps
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            summary_png(drawn)
        left_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()

    assert left_bytes < 500_000  # a page takes 5 MB


def test_a_sheet_without_pictures_is_refused():
    with pytest.raises(ValueError, match="neither objects nor patches"):
        summary_png(EpochFigures(epoch=3, step=1, folder="epoch_03"))


def _with(drawn, **changes):
    return dataclasses.replace(drawn.objects[0], **changes)


def _with_amplitude(drawn, panel):
    return _with(drawn, panels={**drawn.objects[0].panels, "amp_pred": panel})
