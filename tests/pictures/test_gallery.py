"""The gallery's file: complete in itself, bounded in size, and readable again."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon_worker.pictures.gallery.page import entries_of, gallery_html, thinned
from recon_worker.pictures.history import History, gallery_entry
from recon_worker.pictures.png import read_png
from tests.pictures.pages import data_of
from tests.pictures.sheets import sheet


def _entries(epochs, **facts):
    return [gallery_entry(sheet(epoch, **facts)) for epoch in epochs]


def _shown(entries):
    return [entry.epoch for entry in entries if any(one.thumbnails for one in entry.figures)]


def test_small_pictures_hold_the_values_of_the_panels_within_half_a_level():
    one = sheet(objects=2, patches=2)
    entry = gallery_entry(one)

    assert [figure.name for figure in entry.figures] == ["stitched", "stitched_object_01", "patch_00", "patch_01"]
    for figure, drawn in zip(one.figures(), entry.figures, strict=True):
        assert list(drawn.thumbnails) == list(figure.panels)
        for kind, panel in figure.panels.items():
            low, high = panel.value_range
            difference = np.abs(read_png(drawn.thumbnails[kind].png).values - panel.values).max()
            assert difference <= (high - low) / 251 / 2 * 1.001


def test_a_large_picture_is_kept_as_means_and_its_full_size_is_known():
    thumbnail = gallery_entry(sheet(shape=(600, 300), patches=0)).figures[0].thumbnails["amp_pred"]

    assert read_png(thumbnail.png).values.shape == (200, 100)
    assert (thumbnail.full_size, thumbnail.block_px) == ((600, 300), 3)


def test_entries_survive_the_file():
    entries = _entries([0, 1, 5], pixel_size_m=28e-9)
    entries[1] = entries[1].with_figures(thumbnails={}, misfit=None)
    restored = entries_of(gallery_html(entries))

    assert math.isnan(restored[0].metrics["r_factor"])
    assert [_comparable(entry) for entry in restored] == [_comparable(entry) for entry in entries]


def _comparable(entry):
    """The entry with metrics as text, because NaN does not equal itself."""
    return dataclasses.replace(entry, metrics={name: repr(value) for name, value in entry.metrics.items()})


def test_the_file_needs_nothing_else():
    page = gallery_html(_entries([1])).decode()

    assert not re.search(r"""(src|href)\s*=\s*["']?(?!\.\./|`)[a-z/]|url\(|@import|fetch\(|localStorage""", page)
    assert page.count("<script") == page.count("</script>") == 2


def test_a_picture_that_does_not_change_is_kept_once():
    data = data_of(gallery_html(_entries(range(1, 11), patches=0)))
    truths = {entry["views"][0]["pictures"]["amp_gt"]["png"] for entry in data["entries"]}

    assert len(truths) == 1
    assert len(data["pictures"]) == 10 * 4 + 2


def test_pictures_that_two_epochs_share_are_in_memory_once():
    first, second = _entries([1, 2])
    shared = second.sharing(first)
    before, after = (entry.figures[0].thumbnails for entry in (first, shared))

    assert shared == second
    assert all(after[kind] is before[kind] for kind in ("amp_gt", "phase_gt"))
    assert second.figures[0].thumbnails["amp_gt"] is not before["amp_gt"]
    assert after["amp_pred"] is second.figures[0].thumbnails["amp_pred"]


def test_a_history_holds_the_truth_once():
    history = History()
    for epoch in (1, 2, 3):
        history.add(sheet(epoch))
    truths = {id(entry.figures[0].thumbnails["amp_gt"]) for entry in history.entries}

    assert len(truths) == 1


def test_the_same_entries_give_the_same_bytes_in_any_order():
    entries = _entries([1, 2, 3])

    assert gallery_html(entries) == gallery_html(list(reversed(entries)))


def test_of_two_entries_of_an_epoch_the_later_one_counts():
    first, second = _entries([4, 4])
    second = dataclasses.replace(second, step=999)

    assert [entry.step for entry in thinned([first, second])] == [999]


def test_the_file_stays_below_its_limit_and_keeps_the_ends():
    limit = 250_000
    kept = []
    for entry in _entries(range(60), shape=(30, 30)):
        kept = thinned([*kept, entry], limit)
    page = gallery_html(kept, max_bytes=limit)

    assert limit / 2 < len(page) <= limit
    assert {0, 57, 58, 59} <= set(_shown(kept))
    assert [entry.epoch for entry in kept] == list(range(60))
    assert all(entry.figures[0].metrics for entry in kept)


def test_epochs_with_pictures_stay_evenly_spread_when_they_come_one_by_one():
    kept = []
    for entry in _entries(range(80), shape=(30, 30)):
        kept = thinned([*kept, entry], 500_000)
    gaps = np.diff(_shown(kept)[:-3])

    assert len(gaps) >= 6
    assert gaps.max() <= 3 * gaps.min()


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=1, max_size=12), st.integers(60_000, 300_000))
def test_thinning_twice_changes_nothing(epochs, limit):
    once = thinned([_ENTRIES[epoch] for epoch in epochs], limit)

    assert thinned(once, limit) == once


_ENTRIES = _entries(range(1, 42), shape=(20, 20))


def test_a_gallery_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        gallery_html([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda page: b"<html></html>", "no data"),
        (lambda page: page.replace(b'"version": 1', b'"version": 2'), "version 2"),
        (lambda page: page.replace(b'"version": 1,', b'"version": 1'), "damaged"),
        (lambda page: page.replace(b'"block_px"', b'"block"'), "damaged"),
        (lambda page: re.sub(rb'"pictures": \{"[0-9a-f]{18}": "', b'"pictures": {"x": "', page), "damaged"),
    ],
)
def test_a_page_that_is_something_else_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        entries_of(change(gallery_html(_entries([1]))))


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"version": 1, "entries": [{}], "pictures": {}}', '{"version": 1, "entries": [3], "pictures": 4}'],
)
def test_a_page_with_other_json_is_refused(text):
    with pytest.raises(ValueError, match="damaged"):
        entries_of(b'<script id="data" type="application/json">' + text.encode() + b"</script>")
