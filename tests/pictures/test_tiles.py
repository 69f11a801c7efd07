"""Tiles of large objects: together they are the picture, and the viewer finds them."""

import dataclasses
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.figures import downsampled, levels_of
from recon_worker.pictures.history import History
from recon_worker.pictures.png import Panel, read_png, to_indices
from recon_worker.pictures.tiles import pyramid as tiling
from recon_worker.pictures.tiles.page import MAX_OVERVIEW_BYTES, addressed, tiles_html
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import is_artifact_name
from tests.pictures.pages import data_of
from tests.samples import fill, layout_of, make_scan, snapshot

TILE_PX = 16
KINDS = ("amp_pred", "amp_gt", "amp_error", "phase_pred", "phase_gt", "phase_error")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Objects of the tests are 36 px wide."""
    monkeypatch.setattr(tiling, "TILE_PX", TILE_PX)
    monkeypatch.setattr("recon_worker.pictures.artifacts.SMALLEST_PX", 4)


def rendered(history, epoch, from_px=20, misfit=np.nan, **changes):
    """Files of an epoch by name."""
    scan = dataclasses.replace(make_scan(), tiles_from_px=from_px, **changes)
    arrays = layout_of(scan).allocate()
    fill(arrays, epoch)
    arrays.misfit[:] = misfit
    made = list(render(scan, snapshot(arrays, epoch), history))

    assert all(isinstance(one, Artifact) for one in made), made
    return {one.path: one.data for one in made}


def assembled(files, root, level):
    """The palette entries of a level, put together from its tiles."""
    places = {}
    for name, data in files.items():
        if found := re.fullmatch(rf"{root}_files/{level}/(\d+)_(\d+)\.png", name):
            places[int(found[2]), int(found[1])] = entries(data)
    rows = sorted({row for row, _ in places})
    return np.block([[places[place] for place in sorted(places) if place[0] == row] for row in rows])


def entries(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tiles_of_the_finest_level_are_the_picture_to_the_last_pixel(kind):
    files = rendered(History(), 1)
    root = f"epoch_01/stitched/{kind}"
    whole = entries(files[f"{root}.png"])
    size = ElementTree.fromstring(files[f"{root}.dzi"])[0].attrib
    top = int(np.ceil(np.log2(max(whole.shape))))

    np.testing.assert_array_equal(assembled(files, root, top), whole)
    assert (int(size["Height"]), int(size["Width"])) == whole.shape


def test_each_level_is_half_of_the_finer_one_down_to_a_single_tile():
    files = rendered(History(), 1)
    levels = {int(name.split("/")[3]) for name in files if "/amp_pred_files/" in name}
    height, width = entries(files["epoch_01/stitched/amp_pred.png"]).shape
    top = max(levels)

    for level in levels:
        step = 2 ** (top - level)
        assert assembled(files, "epoch_01/stitched/amp_pred", level).shape == (-(-height // step), -(-width // step))
    coarsest = assembled(files, "epoch_01/stitched/amp_pred", min(levels))
    assert TILE_PX / 2 < max(coarsest.shape) <= TILE_PX


@pytest.mark.parametrize("period", [None, 2 * np.pi])
def test_levels_are_averaged_as_thumbnails_and_keep_special_values(period):
    rng = np.random.default_rng(0)
    values = rng.uniform(-3, 3, (1201, 1103)).astype(np.float32)
    values[5, 7], values[500, 600] = np.nan, np.inf
    scanned = rng.random(values.shape) > 0.5
    scanned[200:400] = False
    panel = Panel(
        values=values, value_range=(-3, 3), colormap="gray", quantity="", unit="", scanned=scanned, period=period
    )
    with np.errstate(all="ignore"):
        for number, level in enumerate(levels_of(panel, 10)):
            expected = downsampled(panel, 2**number)
            np.testing.assert_allclose(level.values, expected.values, atol=1e-6)
            np.testing.assert_array_equal(level.scanned, expected.scanned)
            assert set(np.unique(to_indices(level)[to_indices(level) > 251])) == set(
                np.unique(to_indices(expected)[to_indices(expected) > 251])
            )


def test_a_tile_maps_back_to_values():
    files = rendered(History(), 1)
    whole, tile = (read_png(files[f"epoch_01/stitched/phase_pred{name}"]) for name in (".png", "_files/6/1_0.png"))

    np.testing.assert_array_equal(tile.values, whole.values[:TILE_PX, TILE_PX : 2 * TILE_PX])
    assert (tile.quantity, tile.unit, tile.value_range) == (whole.quantity, whole.unit, whole.value_range)


@pytest.mark.parametrize("from_px", [0, 100])
def test_smaller_objects_and_patches_have_no_tiles(from_px):
    names = rendered(History(), 1, from_px)

    assert not [name for name in names if "_files" in name or name.endswith((".dzi", "tiles.html"))]
    assert not [name for name in rendered(History(), 1) if "_files" in name and "patch" in name]


def test_the_misfit_map_has_no_tiles():
    files = rendered(History(), 1, misfit=0.2)

    assert "epoch_01/stitched/misfit.png" in files
    assert not [
        name for name in files if name.startswith(("epoch_01/stitched/misfit_files", "epoch_01/stitched/misfit.d"))
    ]
    assert list(data_of(files["recon_log/tiles.html"])["pictures"]["stitched"]) == list(KINDS)


def test_the_truth_is_cut_once_and_later_epochs_refer_to_it():
    history = History()
    rendered(history, 1)
    files = rendered(history, 2)
    first, second = (one["tiles"]["stitched"] for one in data_of(files["recon_log/tiles.html"])["epochs"])

    assert not [name for name in files if "_gt_files" in name or name.endswith("_gt.dzi")]
    assert list(data_of(files["recon_log/tiles.html"])["pictures"]["stitched"]) == list(KINDS)
    assert second == {kind: f"epoch_0{1 if kind.endswith('gt') else 2}/stitched" for kind in KINDS}
    assert first == dict.fromkeys(KINDS, "epoch_01/stitched")


def test_a_restarted_worker_knows_the_tiles_of_earlier_epochs_and_a_new_run_forgets_them():
    history = History()
    rendered(history, 1)
    own, foreign = (History.of_files(history.files()) for _ in range(2))
    pages = [rendered(one, 2)["recon_log/tiles.html"] for one in (own, foreign.without_tiles())]

    assert [[one["epoch"] for one in data_of(page)["epochs"]] for page in pages] == [[1, 2], [2]]


def test_every_name_can_wait_in_the_outbox():
    assert all(map(is_artifact_name, rendered(History(), 1)))
    for name in ("epoch_01/stitched/x_files/../1_0.png", "epoch_01/stitched/x_files/1/1_0.png/a", "recon_log/a.html"):
        assert not is_artifact_name(name)


def test_the_overviews_stay_below_their_limit():
    noise = np.random.default_rng(0).random((700, 600), np.float32)
    panel = Panel(values=noise, value_range=(0, 1), colormap="gray", quantity="", unit="")
    history = History()
    rendered(history, 1)
    for number in range(12):
        history.tiled.pictures[f"stitched_object_{number:02d}"] = {}
        history.tiled.add(f"stitched_object_{number:02d}", "amp_pred", "epoch_01", levels_of(panel, 4))
    page = tiles_html(history.entries, history.tiled)

    assert len(data_of(page)["pictures"]) == 13
    assert 200_000 < len(page) < MAX_OVERVIEW_BYTES * 4 / 3 + 100_000


def test_the_address_of_the_artifacts_does_not_change_the_size_of_the_page():
    page = rendered(History(), 1)["recon_log/tiles.html"]
    there = addressed(page, "0123456789abcdef0123456789abcdef/fit_2")

    assert len(there) == len(page)
    assert re.search(rb'<meta name="artifacts" content="([^ ]*) *">', there)[1].endswith(b"cdef/fit_2")
    assert addressed(page, '"><script>') == page
