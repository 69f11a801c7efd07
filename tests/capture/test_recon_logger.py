"""`ReconLogger` in training loops without Lightning."""

import re
import subprocess
import sys

import mlflow
import numpy as np
import pytest
import torch

from recon_worker import ReconLogger, WorkerSettings
from tests.capture.plain_loop import train
from tests.lightning.clients import DIFFRACTION, N_SAMPLES, PATCHES, POSITIONS, TRUTH, Container, N

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]

AMP, PHASE = np.abs(PATCHES), np.angle(PATCHES).astype(np.float32)


@pytest.fixture
def run_id(tracking):
    return new_run(tracking)


def new_run(tracking):
    client = mlflow.MlflowClient(tracking.uri)
    experiment = client.create_experiment(tracking.experiment, artifact_location=tracking.artifacts.as_uri())
    return client.create_run(experiment).info.run_id


@pytest.fixture
def logger_of(tracking, run_id):
    def make(**settings):
        defaults = {"positions": POSITIONS, "ground_truth": TRUTH, "every_n_epochs": 1, "num_patches": 2}
        return ReconLogger(tracking_uri=tracking.uri, **{"run_id": run_id} | defaults | settings)

    return make


def add_all(shot, size=16, amp=AMP, phase=PHASE, **more):
    for start in range(0, N_SAMPLES, size):
        rows = np.arange(start, min(N_SAMPLES, start + size))
        shot.add(rows, amp=amp[rows], phase=phase[rows], **{name: one[rows] for name, one in more.items()})


def metrics(tracking, run_id):
    return mlflow.MlflowClient(tracking.uri).get_run(run_id).data.metrics


def correlations(tracking, run_id):
    found = metrics(tracking, run_id)
    return [found[f"recon/stitched/{name}_correlation"] for name in ("amp", "phase")]


@pytest.mark.parametrize("worker", [False, True], ids=["inline", "worker"])
def test_a_plain_loop_logs_its_object_and_trains_as_without_logging(tracking, run_id, tmp_path, worker):
    folder = str(tmp_path / "spool") if worker else None

    logged = train(tracking.uri, run_id, folder)

    assert logged["errors"] == 0
    assert logged == train(tracking.uri, run_id, None, logs=False)
    assert min(correlations(tracking, run_id)) > 0.99
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]
    assert {"epoch_02/stitched/phase_error.png", "epoch_02/patch_00/amp_gt.png"} <= tracking.files()


def test_tensors_arrays_channels_and_orders_give_the_same_pixels(tracking, logger_of):
    rng = np.random.default_rng(0)
    order = rng.permutation(N_SAMPLES)
    with logger_of(strict=True) as recon:
        with recon.epoch(1, step=10) as shot:
            add_all(shot)
        with recon.epoch(2, step=20) as shot:
            for rows in np.array_split(order, 7):
                amp, phase = torch.from_numpy(AMP[rows])[:, None], torch.from_numpy(PHASE[rows])[:, None]
                shot.add(torch.from_numpy(rows), amp=amp.requires_grad_(), phase=phase)
        with recon.epoch(3, step=30) as shot:
            shot.add(
                [*range(N_SAMPLES), 3, 3], amp=AMP[[*range(N_SAMPLES), 3, 3]], phase=PHASE[[*range(N_SAMPLES), 3, 3]]
            )

    shown = tracking.pictures()
    for name, data in shown.items():
        if name.startswith("epoch_01"):
            assert shown[name.replace("epoch_01", "epoch_02")] == data
            assert shown[name.replace("epoch_01", "epoch_03")] == data


def test_a_dataset_gives_patterns_positions_and_truth(tracking, run_id):
    with ReconLogger(
        tracking_uri=tracking.uri, run_id=run_id, dataset=Container(), every_n_epochs=1, num_patches=2, strict=True
    ) as recon, recon.epoch(1) as shot:  # fmt: skip
        add_all(shot, diffraction=DIFFRACTION)

    assert min(correlations(tracking, run_id)) > 0.99
    assert {"epoch_01/patch_30/diff_obs_logI.png", "epoch_01/patch_30/phase_gt.png"} <= tracking.files()
    assert metrics(tracking, run_id)["recon/patches/r_factor"] < 1e-5


def test_patterns_and_a_probe_can_be_given_as_arrays(tracking, logger_of):
    y, x = np.mgrid[:N, :N] - N // 2
    probe = np.exp(-(x**2 + y**2) / 50).astype(np.complex64)
    with (
        logger_of(diffraction=DIFFRACTION**2, intensity=True, probe=probe, strict=True) as recon,
        recon.epoch(1) as shot,
    ):
        add_all(shot, diffraction=DIFFRACTION**2)

    assert "epoch_01/patch_00/diff_error_logI.png" in tracking.files()
    assert ("recon/summary", 0) in tracking.cards()


def test_a_line_at_the_end_accounts_for_every_snapshot(logger_of, caplog):
    with logger_of(strict=True) as recon, recon.epoch(1) as shot:
        add_all(shot)

    assert "Reconstructions: 1 submitted = 1 logged" in caplog.text


def test_only_due_epochs_cost_anything(tracking, logger_of):
    added = []
    with logger_of(every_n_epochs=3, max_epochs=7, strict=True) as recon:
        for epoch in range(1, 8):
            with recon.epoch(epoch) as shot:
                added.append(shot.due)
                shot.add([0], amp="nothing is read", phase=None) if not shot.due else add_all(shot)
        with recon.epoch(8, due=True) as shot:
            add_all(shot)

    assert added == [False, False, True, False, False, True, True]
    assert tracking.epoch_folders() == ["epoch_03", "epoch_06", "epoch_07", "epoch_08"]


WRONG = {
    "out of range": ({"rows": [0, N_SAMPLES]}, "allowed: 0 to 59"),
    "negative": ({"rows": [-1, 0]}, "allowed: 0 to 59"),
    "not integers": ({"rows": [0.5, 1.0]}, "must be integers"),
    "wrong number": ({"rows": [0, 1, 2]}, r"for 3 indices"),
    "complex": ({"amp": PATCHES[:2]}, "expected: real"),
    "other size": ({"amp": AMP[:2, :8, :8], "phase": PHASE[:2, :8, :8]}, "predictions have the shape"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_predictions_cost_themselves_and_one_warning(tracking, run_id, logger_of, what, caplog):
    arguments, message = WRONG[what]
    wrong = {"amp": AMP[:2], "phase": PHASE[:2]} | {k: v for k, v in arguments.items() if k != "rows"}
    with logger_of() as recon:
        for epoch in (1, 2):
            with recon.epoch(epoch) as shot:
                add_all(shot)
                shot.add(arguments.get("rows", [0, 1]), **wrong)

    assert recon.errors == 2
    (line,) = [record.message for record in caplog.records if "Training continues" in record.message]
    assert re.search(f"^Predictions of epoch 1 are not logged: .*{message}", line)
    assert min(correlations(tracking, run_id)) > 0.99
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]


def test_missing_samples_are_shown_as_not_scanned_and_reported_once(tracking, run_id, logger_of, caplog):
    with logger_of(strict=True) as recon:
        for epoch in (1, 2):
            with recon.epoch(epoch) as shot:
                shot.add(np.arange(40), amp=AMP[:40], phase=PHASE[:40])

    lines = [record.message for record in caplog.records if "have no prediction" in record.message]
    assert lines == [
        "Epoch 1: 20 of 60 samples have no prediction (first: 40); their part of the object is shown as not scanned."
    ]
    assert 0 < metrics(tracking, run_id)["recon/stitched/coverage"] < 1
    assert min(correlations(tracking, run_id)) > 0.99


def test_an_epoch_without_predictions_is_not_logged(tracking, logger_of, caplog):
    with logger_of(strict=True) as recon:
        with recon.epoch(1):
            pass
        with recon.epoch(2) as shot:
            add_all(shot)
        with recon.epoch(3):
            pass

    assert tracking.epoch_folders() == ["epoch_02"]
    assert caplog.text.count("is not logged: no predictions were added") == 2


@pytest.mark.parametrize(
    "worker",
    [False, pytest.param(True, marks=pytest.mark.slow)],  # lightning/test_async_logging.py flushes a worker
    ids=["inline", "worker"],
)
def test_an_exception_in_an_epoch_passes_through_and_what_was_logged_arrives(
    tracking, logger_of, tmp_path, caplog, worker
):
    recon = logger_of(worker=WorkerSettings(spool_dir=tmp_path / "spool") if worker else None)

    def loop():
        with recon:
            for epoch in (1, 2):
                with recon.epoch(epoch) as shot:
                    add_all(shot)
                    1 / (2 - epoch)

    with pytest.raises(ZeroDivisionError):
        loop()

    assert tracking.epoch_folders() == ["epoch_01"]
    assert recon.errors == 0
    assert "Reconstruction logging failed" not in caplog.text


@pytest.mark.slow  # test_recon_logger_misuse.py forgets it without a worker
def test_a_forgotten_close_loses_nothing(tracking, run_id, tmp_path):
    np.savez(tmp_path / "data.npz", positions=POSITIONS, ground_truth=TRUTH, amp=AMP, phase=PHASE)
    program = (
        "import numpy as np\n"
        "from recon_worker import ReconLogger, WorkerSettings\n"
        "from pathlib import Path\n"
        "data = np.load('data.npz')\n"
        f"recon = ReconLogger(tracking_uri={tracking.uri!r}, run_id={run_id!r}, positions=data['positions'],\n"
        "    ground_truth=data['ground_truth'], worker=WorkerSettings(spool_dir=Path('spool')))\n"
        "with recon.epoch(5) as shot:\n"
        "    shot.add(np.arange(len(data['amp'])), amp=data['amp'], phase=data['phase'])\n"
    )

    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=100)

    assert tracking.epoch_folders() == ["epoch_05"]


def test_a_closed_logger_warns_and_does_nothing(logger_of, caplog):
    recon = logger_of()
    recon.close()
    recon.close()

    with recon.epoch(1) as shot:
        add_all(shot)

    assert "the ReconLogger is closed" in caplog.text


INVALID = {
    "no samples": ({"positions": None, "ground_truth": None}, "number of samples is unknown"),
    "two numbers": ({"diffraction": DIFFRACTION[:5]}, "'diffraction': 5, 'positions': 60"),
    "metres": ({"positions": POSITIONS * 1e-8}, "pixel"),
    "axes": ({"positions": POSITIONS[:, ::-1], "patch_px": N}, "fit with x and y swapped"),
    "a real truth": ({"ground_truth": TRUTH.real}, "complex"),
    "index": ({"fixed_indices": [60]}, "0 to 59"),
    "interval": ({"every_n_epochs": 0}, "at least 1"),
    "arrays": ({"arrays": "tiff"}, "allowed"),
    "distributed": ({"distributed": True}, "init_process_group"),
}


@pytest.mark.parametrize("what", INVALID)
def test_invalid_settings_raise_in_the_constructor(logger_of, what):
    settings, message = INVALID[what]

    with pytest.raises(ValueError, match=message):
        logger_of(**settings)


def test_positions_that_turn_out_wrong_later_cost_the_pictures_not_the_training(tracking, logger_of, caplog):
    with logger_of(positions=POSITIONS[:, ::-1]) as recon:
        for epoch in (1, 2):
            with recon.epoch(epoch) as shot:
                add_all(shot)

    (line,) = [record.message for record in caplog.records if "fit with x and y swapped" in record.message]
    assert "Training continues" in line
    assert recon.errors == 1
    assert tracking.files() == set()


def test_the_run_and_the_server_default_to_mlflows_current_ones(tracking, logger_of, run_id, monkeypatch):
    with pytest.raises(ValueError, match="no active MLflow run"):
        ReconLogger(positions=POSITIONS)

    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: tracking.uri)
    monkeypatch.setattr(mlflow, "active_run", lambda: mlflow.MlflowClient(tracking.uri).get_run(run_id))
    with ReconLogger(positions=POSITIONS, every_n_epochs=1, strict=True) as recon, recon.epoch(1) as shot:
        add_all(shot)
    assert "epoch_01/stitched/amp_pred.png" in tracking.files()


def test_a_resumed_loop_continues_the_gallery_and_knows_all_metrics(tracking, logger_of, run_id):
    with logger_of(strict=True) as recon, recon.epoch(1) as shot:
        add_all(shot)
    ranges = tracking.path("recon_log/scales.json").read_bytes()

    with logger_of(strict=True, first_epoch=1) as recon, recon.epoch(2) as shot:
        add_all(shot, amp=2 * AMP)

    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]
    assert tracking.path("recon_log/scales.json").read_bytes() == ranges
    assert list(recon.metrics) == [1, 2]
    assert recon.metrics[2].items() <= metrics(tracking, run_id).items()
