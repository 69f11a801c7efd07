"""A spool that an earlier version wrote is read and synced.

`tests/data/spool_2026_11.tar.xz` was written by the last version with a flat `recon_worker`: one rendered epoch, whose
pictures `complex.png`, `summary.png` and gallery were uploaded already, and two snapshots. Its run.json is signed with
the key below.
"""

import tarfile
from collections import Counter

import mlflow
import pytest
from PIL import Image

from recon_worker.cli.main import main
from recon_worker.pictures.png import read_png
from recon_worker.spool.outbox import Outbox
from tests.cli.spools import DONE, files
from tests.paths import REFERENCE

pytestmark = pytest.mark.timeout(200)
RUN_ID = "0123456789abcdef0123456789abcdef"
KEY = bytes(range(32))
RENDERED, PER_EPOCH = 15, 18
"""Pictures of an epoch: 9 of its patch, 6 of the object; the current version adds 2 complex pictures and a summary."""


@pytest.fixture
def earlier(tmp_path):
    """The run's folder in the spool."""
    with tarfile.open(REFERENCE / "spool_2026_11.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "spool" / RUN_ID


def test_an_earlier_spool_is_read_and_its_signature_holds(earlier, tmp_path, monkeypatch):
    key = tmp_path / "state" / "recon-worker" / "key"
    key.parent.mkdir(parents=True)
    key.write_bytes(KEY)
    key.chmod(0o600)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    outbox = Outbox(earlier, create=False)
    target, own = outbox.target_and_owner()

    assert (target.run_id, target.tracking_uri, own) == (RUN_ID, "http://127.0.0.1:9", True)
    assert [raw.name for raw in outbox.raw()] == ["00000002_epoch_2.snapshot", "00000003_epoch_3.snapshot"]
    assert outbox.epochs() == {1, 2, 3}
    assert set(outbox.history()) == {"scales.json", "gallery.html"}


def test_an_earlier_spool_is_synced(earlier, target, tracking):
    record = earlier / "run.json"
    record.write_text(record.read_text().replace(RUN_ID, target.run_id))  # as its server would know the run
    waiting = files(earlier / "outbox")

    assert main(["sync", str(earlier), "--tracking-uri", tracking.uri]) == DONE

    per_epoch = Counter(name.split("/")[0] for name in tracking.files())
    assert per_epoch == {"epoch_01": RENDERED, "epoch_02": PER_EPOCH, "epoch_03": PER_EPOCH, "recon_log": 4}
    for name in (name for name in waiting if name.parts[0] == "epoch_01"):
        assert tracking.path(str(name)).read_bytes() == waiting[name]
    assert read_png(tracking.path("epoch_03/stitched/amp_pred.png")).values.size
    with Image.open(tracking.path("recon_log/evolution.gif")) as evolution:
        assert evolution.n_frames == 3  # the first from the gallery in the spool
    metrics = mlflow.MlflowClient(tracking.uri).get_metric_history(target.run_id, "recon/stitched/amp_mae")
    assert sorted(metric.step for metric in metrics) == [10, 20, 30]
    assert not earlier.exists()
