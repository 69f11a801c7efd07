"""Tiles of large objects in MLflow, logged by a training with and without a worker."""

import re

import pytest

from recon_worker.pictures.png import read_png
from tests.capture.plain_loop import train
from tests.samples import make_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


def address(page):
    return re.search(rb'<meta name="artifacts" content="([^ "]*) *">', page.read_bytes())[1].decode()


@pytest.mark.parametrize("in_worker", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_tiles_of_each_epoch_are_artifacts_and_the_viewer_knows_its_run(tracking, tmp_path, in_worker):
    run_id = make_run(tracking).run_id
    found = train(tracking.uri, run_id, tmp_path / "spool" if in_worker else None, tiles_from_px=20)
    tiles = {name for name in tracking.files() if "/amp_pred_files/" in name}

    assert found["errors"] == 0
    assert {name.split("/")[0] for name in tiles} == {"epoch_01", "epoch_02"}
    for name in tiles:  # these objects fit a single tile
        whole = read_png(tracking.path(f"{name.split('_files')[0]}.png"))
        assert (read_png(tracking.path(name)).values == whole.values)[whole.scanned].all()
    assert {f"epoch_0{epoch}/stitched/phase_error.dzi" for epoch in (1, 2)} <= tracking.files()
    assert address(tracking.path("recon_log/tiles.html")) == run_id


def test_the_viewer_of_a_second_fit_points_to_the_tiles_of_that_fit(tracking):
    run_id = make_run(tracking).run_id
    for _ in range(2):
        train(tracking.uri, run_id, None, tiles_from_px=20, epochs=1)

    assert any(name.startswith("fit_2/epoch_01/stitched/amp_gt_files/") for name in tracking.files())
    assert address(tracking.path("fit_2/recon_log/tiles.html")) == f"{run_id}/fit_2"
    assert address(tracking.path("recon_log/tiles.html")) == run_id
