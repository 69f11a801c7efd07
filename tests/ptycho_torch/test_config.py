"""Settings are validated on construction; messages name the value found and the values allowed."""

import pytest

from ptycho_torch.checks import ConfigError
from ptycho_torch.config import DataConfig, ModelConfig, PyTorchExecutionConfig, RunConfig, TrainingConfig


@pytest.mark.parametrize(
    ("cls", "setting", "message"),
    [
        (TrainingConfig, {"nepochs": 0}, "nepochs is 0; it must be at least 1"),
        (TrainingConfig, {"batch_size": -1}, "batch_size is -1"),
        (TrainingConfig, {"lr_schedule": "step"}, "lr_schedule is 'step'; allowed: constant, cosine"),
        (TrainingConfig, {"merge_neighbours": 0}, "merge_neighbours is 0; it must be at least 1"),
        (TrainingConfig, {"merge_neighbours": 5}, "merge_neighbours is 5, but batch_size is 8; it must be a multiple"),
        (TrainingConfig, {"learning_rate": 0.0}, "learning_rate is 0.0"),
        (TrainingConfig, {"learning_rate": float("nan")}, "learning_rate is nan"),
        (TrainingConfig, {"seed": -3}, "seed is -3"),
        (TrainingConfig, {"resume": "nowhere.ckpt"}, "no file 'nowhere.ckpt'"),
        (ModelConfig, {"model_type": "gan"}, "model_type is 'gan'; allowed: pinn, supervised"),
        (ModelConfig, {"n_filters_scale": 0}, "n_filters_scale is 0"),
        (PyTorchExecutionConfig, {"devices": "two"}, "devices is 'two'"),
        (PyTorchExecutionConfig, {"precision": "8"}, "precision is '8'; allowed: 32-true"),
        (PyTorchExecutionConfig, {"recon_log_every_n_epochs": 0}, "at least 1. Leave it out"),
        (PyTorchExecutionConfig, {"recon_log_num_patches": -1}, "recon_log_num_patches is -1"),
        (PyTorchExecutionConfig, {"recon_log_max_stitch_samples": 0}, "recon_log_max_stitch_samples is 0"),
        (PyTorchExecutionConfig, {"recon_log_fixed_indices": (3, -1)}, "has -1; count from 0"),
        (
            PyTorchExecutionConfig,
            {"recon_log_queue_depth": "65"},
            "queue_depth is '65'; allowed: a number from 1 to 64",
        ),
        (PyTorchExecutionConfig, {"recon_log_queue_depth": "0"}, "queue_depth is '0'; allowed: a number from 1 to 64"),
        (PyTorchExecutionConfig, {"recon_log_fixed_indices": (3, 3)}, r"has \[3\] more than once"),
        (PyTorchExecutionConfig, {"recon_log_every_n_epochs": 1, "logger": "csv"}, "needs the MLflow logger"),
        (PyTorchExecutionConfig, {"mlflow_tracking_uri": "file:///tmp/x"}, "the scheme 'file'; allowed: sqlite"),
        (PyTorchExecutionConfig, {"mlflow_tracking_uri": "./mlruns"}, "no scheme; allowed: sqlite"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(cls, setting, message):
    with pytest.raises(ConfigError, match=message):
        cls(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"N": 100}, "N is 100; allowed: 64, 128, 256"),
        ({"gridsize": 3}, "gridsize is 3; allowed: 1, 2"),
        ({"nphotons": -1.0}, "nphotons is -1.0"),
        ({"test_data_file": "absent"}, "test_data_file: there is no file"),
    ],
)
def test_a_bad_data_setting_is_refused(scan_file, setting, message):
    if "test_data_file" in setting:
        setting = {"test_data_file": scan_file.with_name("absent")}

    with pytest.raises(ConfigError, match=message):
        DataConfig(train_data_file=scan_file, **setting)


@pytest.mark.parametrize(
    ("kind", "gridsize", "model_type", "message"),
    [
        ("grid_lines", 1, "pinn", "merge_neighbours is 8; it needs a raw scan"),
        ("raw", 2, "pinn", "it needs gridsize 1"),
        ("raw", 1, "supervised", "it needs model_type pinn"),
    ],
)
def test_neighbours_that_cannot_be_merged_are_refused(scan_file, kind, gridsize, model_type, message):
    data = DataConfig(scan_kind=kind, train_data_file=scan_file, gridsize=gridsize)

    with pytest.raises(ConfigError, match=message):
        RunConfig(data=data, model=ModelConfig(model_type=model_type), training=TrainingConfig(merge_neighbours=8))


def test_tracking_goes_to_sqlite_in_the_output_directory_by_default(scan_file, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    config = RunConfig(data=DataConfig(train_data_file=scan_file), training=TrainingConfig(output_dir=tmp_path / "o"))

    assert config.tracking_uri == f"sqlite:///{tmp_path}/o/mlflow.db"
    assert config.artifact_location == f"file://{tmp_path}/o/mlruns"


def test_the_environment_names_the_server_and_the_flag_overrides_it(scan_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    data = DataConfig(train_data_file=scan_file)
    flag = PyTorchExecutionConfig(mlflow_tracking_uri="http://127.0.0.1:6000")

    assert RunConfig(data=data).tracking_uri == "http://127.0.0.1:5000"
    assert RunConfig(data=data, execution=flag).tracking_uri == "http://127.0.0.1:6000"
    assert RunConfig(data=data).artifact_location is None


def test_a_file_store_in_the_environment_is_refused(scan_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:/somewhere")

    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI has the scheme 'file'"):
        RunConfig(data=DataConfig(train_data_file=scan_file))


def test_relative_sqlite_paths_are_made_absolute(scan_file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    execution = PyTorchExecutionConfig(mlflow_tracking_uri="sqlite:///runs.db")

    config = RunConfig(data=DataConfig(train_data_file=scan_file), execution=execution)

    assert config.tracking_uri == f"sqlite:///{tmp_path}/runs.db"


def test_credentials_never_appear_in_the_recorded_settings(scan_file):
    execution = PyTorchExecutionConfig(mlflow_tracking_uri="https://me:canary@host.example/path")

    recorded = RunConfig(data=DataConfig(train_data_file=scan_file), execution=execution).as_dict()

    assert "canary" not in str(recorded)
