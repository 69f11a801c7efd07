"""The page of a comparison is bounded in size, and names runs and settings so that they can be told apart."""

import dataclasses

import numpy as np
import pytest

from recon_worker.pictures.gallery.comparison import ComparedRun, common_views, comparison_html, differing_settings
from recon_worker.pictures.gallery.entry import GalleryEntry, GalleryFigure, Thumbnail
from recon_worker.pictures.png import Panel, encode_png
from tests.pictures.pages import data_of

SIDE_PX = 64
AMP_RANGE, PHASE_RANGE = (0.0, 1.0), (-np.pi, np.pi)


def thumbnail(rng, value_range, colormap):
    values = rng.uniform(*value_range, (SIDE_PX, SIDE_PX)).astype(np.float32)
    panel = Panel(values=values, value_range=value_range, colormap=colormap, quantity="q", unit="1")
    return Thumbnail(png=encode_png(panel), full_size=(SIDE_PX, SIDE_PX), block_px=1)


def run(number, epochs=1, *, names=("stitched",), phase_range=PHASE_RANGE, colormap="twilight", **settings):
    """A run whose thumbnails are noise, which does not compress."""
    rng = np.random.default_rng(number)
    entries = []
    for epoch in range(1, epochs + 1):
        figures = [
            GalleryFigure(
                name=name,
                metrics={"phase_ssim": rng.uniform()},
                thumbnails={
                    "amp_pred": thumbnail(rng, AMP_RANGE, "gray"),
                    "phase_pred": thumbnail(rng, phase_range, colormap),
                },
            )
            for name in names
        ]
        entries.append(GalleryEntry(epoch=epoch, step=epoch, folder=f"epoch_{epoch:02d}", figures=tuple(figures)))
    return ComparedRun(run_id=f"{number}" * 32, name="a run", status="FINISHED", settings=settings, entries=entries)


def with_pictures(run):
    return [entry["epoch"] for entry in run["entries"] if entry["views"][0]["pictures"]]


def test_ten_runs_of_fifty_epochs_stay_within_the_size_limit_and_keep_all_metrics():
    page = comparison_html([run(number, 50) for number in range(10)], max_bytes=2 << 20)
    runs = data_of(page)["runs"]

    assert len(page) < 2 << 20
    for one in runs:
        assert with_pictures(one)[0] == 1
        assert with_pictures(one)[-3:] == [48, 49, 50]
        assert len(with_pictures(one)) > 10
        assert len(one["entries"]) == 50


def test_misfits_and_tiles_are_left_out_as_the_page_does_not_show_them():
    logged = run(1)
    figure = dataclasses.replace(
        logged.entries[0].figures[0], misfit=(bytes(120), bytes(80)), tiles={"amp_pred": "epoch_01/stitched"}
    )
    logged = dataclasses.replace(logged, entries=[dataclasses.replace(logged.entries[0], figures=(figure,))])
    data = data_of(comparison_html([logged, run(2)]))

    assert {"misfit", "tiles"}.isdisjoint(data["runs"][0]["entries"][0]["views"][0])
    assert len(data["pictures"]) == 4


def test_runs_of_the_same_name_are_told_apart_by_their_ids():
    names = [one["name"] for one in data_of(comparison_html([run(1), run(2)]))["runs"]]

    assert names == ["a run (11111111)", "a run (22222222)"]


def test_runs_whose_ranges_have_different_colour_maps_are_shown_in_that_of_the_widest():
    others = run(2, phase_range=(0, 1), colormap="viridis"), run(3)
    narrow, full = (data_of(comparison_html([run(1), one]))["colours"]["stitched"]["phase"] for one in others)

    assert narrow == full
    assert narrow["range"] == pytest.approx(PHASE_RANGE)


def test_settings_that_are_equal_or_absent_everywhere_are_left_out():
    found = differing_settings([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}])

    assert found == {"b": ["2", "3"], "c": ["\u2013", "4"]}


def test_long_settings_are_cut_to_where_they_differ():
    first, second = differing_settings([{"path": "/folder" * 100 + end} for end in ("/one.npz", "/two.npz")])["path"]

    assert first.startswith("\u2026")
    assert (first[-8:], second[-8:]) == ("/one.npz", "/two.npz")
    assert max(len(first), len(second)) <= 201


def test_patches_are_compared_only_where_there_is_no_object_in_common():
    patch = "patch_07"

    assert common_views([run(1, names=("stitched", patch)), run(2, names=("stitched", patch))]) == ["stitched"]
    assert common_views([run(1, names=("stitched", patch)), run(2, names=(patch,))]) == [patch]
    assert common_views([run(1), run(2, names=(patch,))]) == []


def test_names_and_settings_cannot_add_markup():
    hostile = "</script><script>alert(1)</script>{{data}}"
    page = comparison_html([dataclasses.replace(run(1, data=hostile), name=hostile), run(2)])

    assert hostile.encode() not in page
    assert page.count(b"<script") == page.count(b"</script>") == 2
    assert b"<title>Comparison &lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;{{data}}, a run</title>" in page
    assert data_of(page)["settings"]["data"][0] == data_of(page)["runs"][0]["name"] == hostile
