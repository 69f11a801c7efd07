"""Snapshots of version 0.2 hold no misfit. They are still read and rendered."""

import json

import numpy as np

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.codec import dump_snapshot, read_snapshot, snapshot_header
from recon_worker.snapshot.records import SnapshotLayout
from tests.samples import fill, make_scan, snapshot


def test_a_snapshot_without_misfit_is_read_and_rendered(tmp_path):
    scan = make_scan()
    layout = SnapshotLayout(n_fixed=2, patch_px=16, n_stitch=30, crop_px=8, with_misfit=0)
    buffer = np.zeros(layout.nbytes, np.uint8)
    fill(layout.views(buffer), seed=1)
    document = json.loads(snapshot_header(snapshot(layout.views(buffer), 5), layout))
    del document["layout"]["with_misfit"]
    path = tmp_path / "old.snapshot"
    path.write_bytes(b"".join(dump_snapshot(json.dumps(document).encode(), memoryview(buffer))))

    made = list(render(scan, read_snapshot(path), History()))

    assert all(isinstance(one, Artifact) for one in made)
    assert {"epoch_05/stitched/amp_pred.png", "epoch_05/summary.png"} <= {one.path for one in made}
    assert not [one.path for one in made if "misfit" in one.path]
