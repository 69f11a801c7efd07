"""The evolution: an animation with one frame per epoch, colours the same throughout."""

import dataclasses
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from recon_worker.pictures.gallery.evolution import evolution_gif
from recon_worker.pictures.history import gallery_entry
from tests.pictures.sheets import sheet


def _frames(gif):
    with Image.open(io.BytesIO(gif)) as image:
        for number in range(image.n_frames):
            image.seek(number)
            yield np.asarray(image.convert("RGB")).astype(int), image.info["duration"]


def _entries(*epochs, **facts):
    return [gallery_entry(sheet(epoch, shape=(40, 40), patches=0, **facts)) for epoch in epochs]


def test_each_epoch_is_a_frame_and_the_ends_stay_longer():
    frames = list(_frames(evolution_gif(_entries(0, 1, 5, 10))))

    assert [duration for _, duration in frames] == [1500, 300, 300, 1500]


def test_each_frame_shows_its_epochs_amplitude_and_phase():
    sheets = [sheet(epoch, shape=(40, 40), patches=0) for epoch in (1, 2)]
    frames = [frame for frame, _ in _frames(evolution_gif(list(map(gallery_entry, sheets))))]

    for frame, one in zip(frames, sheets, strict=True):
        for kind, left in (("amp_pred", 12), ("phase_pred", 12 + 320 + 12)):
            panel = one.objects[0].panels[kind]
            low, high = panel.value_range
            expected = matplotlib.colormaps[panel.colormap]((panel.values - low) / (high - low), bytes=True)[..., :3]
            shown = frame[58 + 4 : 58 + 320 : 8, left + 4 : left + 320 : 8]
            assert np.abs(shown - expected.astype(int)).max() <= 8  # 118 of 252 steps


def test_special_colours_are_kept():
    one = sheet(1, shape=(40, 40), patches=0)
    scanned = np.ones((40, 40), bool)
    scanned[0, 0] = False
    panels = one.objects[0].panels
    values = panels["amp_pred"].values.copy()
    values[1, 0] = np.nan
    special = dataclasses.replace(panels["amp_pred"], values=values, scanned=scanned)
    figure = dataclasses.replace(one.objects[0], panels={**panels, "amp_pred": special})
    first = gallery_entry(dataclasses.replace(one, objects=(figure,)))
    frame, _ = next(_frames(evolution_gif([first, *_entries(2)])))

    assert frame[58 + 4, 12 + 4].tolist() == [127, 160, 136]
    assert frame[58 + 12, 12 + 4].tolist() == [0, 255, 0]


def test_the_epoch_is_written_in():
    heads = [frame[:30] for frame, _ in _frames(evolution_gif(_entries(1, 11)))]

    assert all(head.min() < 60 for head in heads)
    assert not np.array_equal(*heads)


@pytest.mark.parametrize(("epochs", "view"), [((1,), "stitched"), ((1, 2), "stitched_object_01")])
def test_there_is_no_animation_of_less_than_two_epochs(epochs, view):
    assert evolution_gif(_entries(*epochs), view) is None


def test_epochs_that_gave_up_their_pictures_are_left_out():
    entries = _entries(1, 2, 3)
    entries[1] = entries[1].with_figures(thumbnails={}, misfit=None)

    assert len(list(_frames(evolution_gif(entries)))) == 2
    assert evolution_gif(entries) == evolution_gif([entries[0], entries[2]])
