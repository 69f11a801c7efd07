"""Grid-lines training runs start from Python and from the command line, with both sets of names."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ptycho_torch.checks import ConfigError
from scripts.studies.grid_lines_torch_runner import TorchRunnerConfig, run_command_line, run_grid_lines_torch
from tests.paths import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "studies" / "grid_lines_torch_runner.py"
PICTURES = {"epoch_01/patch_00/amp_pred.png", "epoch_01/stitched/phase_pred.png"}


@pytest.fixture
def files(tmp_path):
    for name in ("train.npz", "test.npz"):
        (tmp_path / name).write_bytes(b"")
    return {"train_npz": tmp_path / "train.npz", "test_npz": tmp_path / "test.npz"}


@pytest.fixture
def printed(capsys, files):
    """Runs the command line; returns the resolved settings."""

    def run(*argv, train="--train-npz"):
        assert run_command_line([train, str(files["train_npz"]), *argv, "--print-config"]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    return run


def _pictures(logger):
    run = logger.experiment.get_run(logger.run_id)
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(root)) for path in root.rglob("*.png")}


def test_a_study_trains_from_python(grid_lines, tmp_path, monkeypatch, mlflow_database):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_database)
    files = {"train_npz": grid_lines / "train.npz", "test_npz": grid_lines / "test.npz"}

    result = run_grid_lines_torch(TorchRunnerConfig(**files, output_dir=tmp_path, epochs=1, recon_log_stitch=True))

    assert result.trainer.current_epoch == 1
    assert _pictures(result.trainer.logger) >= PICTURES


@pytest.mark.parametrize("train", ["--train-npz", "--train_npz", "--train_data_file", "--train-data-file"])
def test_every_spelling_of_the_file_flags_is_accepted(printed, files, train):
    assert printed(train=train)["data"]["train_data_file"] == str(files["train_npz"])


def test_the_flags_of_this_script_set_the_settings_of_the_other_one(printed, files, tmp_path):
    words = ("--test-npz", str(files["test_npz"]), "--output-dir", str(tmp_path), "--epochs", "3")

    settings = printed(*words, "--torch-logger", "csv")

    assert settings == printed(*words[:-2], "--nepochs", "3", "--logger", "csv")
    assert (settings["training"]["nepochs"], settings["execution"]["logger"]) == (3, "csv")


def test_the_same_names_give_the_same_settings_from_python(printed, files, tmp_path):
    words = ("--test-npz", str(files["test_npz"]), "--output-dir", str(tmp_path), "--epochs", "3", "--gridsize", "2")
    config = TorchRunnerConfig(**files, output_dir=tmp_path, epochs=3, gridsize=2, recon_log_num_patches=2)

    assert config.run_config().as_dict() == printed(*words, "--recon-log-num-patches", "2")


def test_each_field_has_the_default_and_the_help_text_of_its_setting(printed, files):
    assert TorchRunnerConfig(train_npz=files["train_npz"]).run_config().as_dict() == printed()
    assert all(field.metadata["help"] for field in fields(TorchRunnerConfig))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "nepochs is 0"),
        ({"logger_backend": "csv", "recon_log_stitch": True}, "needs the MLflow logger"),
        ({"recon_log_queue_depth": "0"}, "queue_depth is '0'"),
    ],
)
def test_an_invalid_value_raises_before_training(files, setting, message):
    with pytest.raises(ConfigError, match=message):
        TorchRunnerConfig(**files, **setting)


@pytest.mark.slow
def test_the_command_line_trains(grid_lines, tmp_path):
    words = ("--train-npz", grid_lines / "train.npz", "--test-npz", grid_lines / "test.npz", "--output-dir", tmp_path)
    more = ("--epochs", "1", "--torch-logger", "csv", "--accelerator", "cpu")

    subprocess.run([sys.executable, SCRIPT, *words, *more], check=True, timeout=100, capture_output=True)

    (metrics,) = tmp_path.glob("csv/*/metrics.csv")
    assert "val_loss" in metrics.read_text()
