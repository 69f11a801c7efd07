"""Without a worker, what a failed upload lost of the whole run is uploaded with a later epoch."""

from dataclasses import replace

from recon_worker.client.inline_backend import InlineBackend
from recon_worker.upload.mlflow_sink import MlflowSink
from tests.samples import layout_of, log_epoch, make_run, make_scan


def test_lost_tiles_of_the_truth_and_scales_are_uploaded_with_the_next_epoch(tracking, monkeypatch):
    scan, backend, upload = replace(make_scan(), tiles_from_px=20), InlineBackend(), MlflowSink.upload

    def failing(self, local, name):
        if name.startswith("epoch_01/stitched/amp_gt_files/"):
            raise OSError("the connection is lost")
        upload(self, local, name)

    backend.start(make_run(tracking), scan, layout_of(scan))
    monkeypatch.setattr(MlflowSink, "upload", failing)
    for epoch in (1, 2, 3):
        log_epoch(backend, layout_of(scan), epoch)

    files = tracking.files()
    assert (backend.stats.failed, backend.stats.logged) == (1, 2)
    assert "recon_log/scales.json" in files
    for kind in ("amp_gt", "phase_gt"):
        assert f"epoch_02/stitched/{kind}.dzi" in files
        assert any(name.startswith(f"epoch_02/stitched/{kind}_files/") for name in files)
        assert f"epoch_03/stitched/{kind}.dzi" not in files
