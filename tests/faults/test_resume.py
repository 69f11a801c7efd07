"""A training resumed from a checkpoint in the same MLflow run: older files never overwrite newer ones."""

import json
import time
from dataclasses import replace

import mlflow
import pytest

from ptycho_torch.cli import resolve
from ptycho_torch.config import ConfigError
from ptycho_torch.workflows.components import run_training
from recon_worker.cli.main import main
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.resume import Resume, folder_of
from tests.samples import make_run, make_scan

pytestmark = pytest.mark.timeout(400)
PICTURE = "stitched/amp_pred.png"


@pytest.fixture
def train(raw_scan, tmp_path, mlflow_database):
    """Trains up to an epoch; returns the run's id."""

    def _train(nepochs, **more):
        settings = {
            "train_data_file": raw_scan,
            "output_dir": tmp_path,
            "nepochs": nepochs,
            "n_filters_scale": 1,
            "mlflow_tracking_uri": mlflow_database,
            "mlflow_experiment": f"resume-{tmp_path}",
            "recon_log_every_n_epochs": 1,
            "recon_log_num_patches": 1,
            "recon_log_strict": True,
            "accelerator": "cpu",
            **more,
        }
        return run_training(resolve("raw", settings)).trainer.logger.run_id

    return _train


def artifacts(tmp_path, run_id):
    (root,) = tmp_path.glob(f"mlruns/{run_id}/artifacts")
    return {p.relative_to(root).parts[0] for p in root.iterdir()}


@pytest.mark.parametrize("by_worker", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_training_continues_in_the_run_of_its_checkpoint(train, tmp_path, mlflow_database, by_worker):
    run_id = train(1, recon_log_async=by_worker)

    assert train(2, recon_log_async=by_worker, resume="last") == run_id

    client = mlflow.MlflowClient(mlflow_database)
    run = client.get_run(run_id)
    epochs = [int(m.value) for m in client.get_metric_history(run_id, "epoch")]
    assert {"epoch_01", "epoch_02", "config.yaml", "config_2.yaml"} <= artifacts(tmp_path, run_id)
    assert sorted(set(epochs)) == [0, 1]
    assert (run.info.status, run.data.tags["training/nepochs"]) == ("FINISHED", "2")
    assert [epoch for epoch, _ in json.loads(run.data.tags["recon_log.resumed"])] == [1]


@pytest.mark.slow
def test_a_resumed_training_starts_another_run_on_request(train, tmp_path):
    first = train(1)
    second = train(2, resume="last", mlflow_run_id="new")
    third = train(3, resume="last", mlflow_run_id=first)

    assert second != first
    assert third == first
    assert {"epoch_01", "epoch_03"} <= artifacts(tmp_path, first)


@pytest.mark.slow
def test_a_checkpoint_of_another_server_starts_a_new_run_and_says_so(train, tmp_path, caplog):
    first = train(1)

    assert train(2, resume="last", mlflow_tracking_uri=f"sqlite:///{tmp_path}/other.db") != first

    assert f"The checkpoint belongs to run {first}" in caplog.text


@pytest.mark.slow
def test_a_deleted_run_is_named_before_training(train, mlflow_database):
    run_id = train(1)
    mlflow.MlflowClient(mlflow_database).delete_run(run_id)

    with pytest.raises(ConfigError, match=f"run {run_id} is deleted.*--mlflow-run-id new"):
        train(2, resume="last")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_checkpoint_is_named_before_training(train, tmp_path, content):
    (tmp_path / "bad.ckpt").write_bytes(content)

    with pytest.raises(ConfigError, match=r"bad\.ckpt cannot be read as a checkpoint"):
        train(2, resume=str(tmp_path / "bad.ckpt"))


def test_an_unreachable_server_is_reported_before_training(train, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(ConfigError, match=r"MLflow at http://127.0.0.1:9 cannot be used.*--logger csv") as caught:
        train(1, mlflow_tracking_uri="http://me:canary@127.0.0.1:9")

    assert "canary" not in str(caught.value)


@pytest.fixture
def resumed(tracking, tmp_path):
    """A run that was resumed from epoch 5 just now, and has a picture of epoch 7 since."""
    target = make_run(tracking)
    now = time.time()
    newer = replace(target, earlier_run_id=target.run_id, earlier_epoch=5, started_unix_s=now)
    put(newer, tmp_path / "new", {"epoch_07": now + 1}, b"newer")
    assert main(["sync", str(tmp_path / "new")]) == 0
    return target, now


def put(target, spool, epochs, content):
    outbox = Outbox(spool / target.run_id)
    outbox.describe(target, make_scan())
    for epoch, taken_unix_s in epochs.items():
        outbox.put(Artifact(f"{epoch}/{PICTURE}", content), taken_unix_s)
    return outbox


def test_pictures_of_repeated_epochs_that_arrive_late_go_to_their_own_folder(tracking, resumed, tmp_path):
    target, now = resumed
    put(target, tmp_path / "old", {"epoch_05": now - 9, "epoch_07": now - 5}, b"older")

    assert main(["sync", str(tmp_path / "old")]) == 0

    assert tracking.path(f"epoch_07/{PICTURE}").read_bytes() == b"newer"
    assert tracking.path(f"before_resume_1/epoch_07/{PICTURE}").read_bytes() == b"older"
    assert tracking.path(f"epoch_05/{PICTURE}").read_bytes() == b"older"


def test_metrics_of_repeated_epochs_that_arrive_late_are_not_logged(tracking, resumed, tmp_path):
    target, now = resumed
    name = "metrics/epoch_07.json"
    outbox = put(target, tmp_path / "old", {}, b"")
    outbox.put(Artifact(name, b'{"step": 70, "time_ms": 1, "values": {"late": 1}}'), now - 5)

    MlflowSink(target).upload(outbox.local_path(name), name)

    assert mlflow.MlflowClient(tracking.uri).get_metric_history(target.run_id, "late") == []


def test_each_resume_has_a_folder_of_its_own():
    resumes = [Resume(100.0, 5), Resume(200.0, 3)]
    cases = {("epoch_06", 50.0): 1, ("epoch_05", 50.0): 2, ("epoch_03", 50.0): None, ("epoch_06", 150.0): 2}

    for (epoch, taken_unix_s), number in cases.items():
        expected = number and f"before_resume_{number}"
        assert folder_of(f"{epoch}/{PICTURE}", taken_unix_s, resumes) == expected
    assert folder_of(f"epoch_09/{PICTURE}", 250.0, resumes) is None
    assert folder_of("recon_log/gallery.html", 150.0, resumes) == "before_resume_2"


def test_a_rendered_file_keeps_the_time_at_which_its_snapshot_was_taken(tmp_path):
    outbox = Outbox(tmp_path / "run")
    outbox.put(Artifact(f"epoch_01/{PICTURE}", b"png"), 1e9)

    assert outbox.local_path(f"epoch_01/{PICTURE}").stat().st_mtime == 1e9


@pytest.mark.parametrize("tag", ["", "{}", "[[1]]", "nonsense", "[[1, null]]"])
def test_a_tag_that_somebody_has_changed_is_no_obstacle(tracking, tmp_path, tag):
    target = make_run(tracking)
    mlflow.MlflowClient(tracking.uri).set_tag(target.run_id, "recon_log.resumed", tag)
    put(target, tmp_path, {"epoch_01": None}, b"picture")

    assert main(["sync", str(tmp_path)]) == 0
    assert tracking.path(f"epoch_01/{PICTURE}").read_bytes() == b"picture"
