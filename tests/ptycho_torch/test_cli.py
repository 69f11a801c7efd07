"""The command line: spelling, precedence, the recon-log switch, and messages."""

import subprocess
import sys

import pytest
import yaml

from ptycho_torch.checks import ConfigError
from ptycho_torch.cli import main, read_yaml, resolve
from tests.paths import REPOSITORY

SCRIPTS = ["scripts/training/train.py", "scripts/studies/grid_lines_torch_runner.py"]


def _printed(capsys, *argv):
    assert main("raw", "test", [*argv, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_the_groups_without_importing_anything_heavy(script):
    code = f"""
import runpy, sys
sys.argv = ["script", "--help"]
try:
    runpy.run_path({str(REPOSITORY / script)!r}, run_name="__main__")
except SystemExit:
    pass
assert not {{"torch", "lightning", "mlflow", "numpy"}} & set(sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    for heading in ("Data:", "Model:", "Training:", "Execution:", "Logger:", "Reconstruction logging"):
        assert heading in done.stdout


@pytest.mark.parametrize("flag", ["--train_data_file", "--train-data-file"])
def test_underscores_and_dashes_are_the_same(capsys, scan_file, flag):
    assert _printed(capsys, flag, str(scan_file))["data"]["train_data_file"] == str(scan_file)


@pytest.mark.parametrize("prefix", ["--recon-log", "--torch-recon-log", "--torch_recon_log"])
def test_recon_flags_also_have_the_torch_prefix(capsys, scan_file, prefix):
    printed = _printed(capsys, "--train_data_file", str(scan_file), f"{prefix}-every-n-epochs", "3", f"{prefix}-stitch")

    assert printed["execution"]["recon_log_every_n_epochs"] == 3
    assert printed["execution"]["recon_log_stitch"] is True


def test_logging_is_off_unless_asked_for(capsys, scan_file):
    assert _printed(capsys, "--train_data_file", str(scan_file))["execution"]["recon_log_every_n_epochs"] is None


@pytest.mark.parametrize(
    "flags", [["--recon-log-stitch"], ["--recon-log-num-patches", "2"], ["--torch-recon-log-fixed-indices", "0", "5"]]
)
def test_any_recon_flag_switches_logging_on_at_every_five_epochs(capsys, scan_file, flags):
    printed = _printed(capsys, "--train_data_file", str(scan_file), *flags)

    assert printed["execution"]["recon_log_every_n_epochs"] == 5


def test_a_recon_flag_switches_logging_on_beside_a_file_that_says_off(capsys, scan_file, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(_printed(capsys, "--train_data_file", str(scan_file))))

    assert _printed(capsys, "--config", str(file))["execution"]["recon_log_every_n_epochs"] is None
    assert _printed(capsys, "--config", str(file), "--recon-log-stitch")["execution"]["recon_log_every_n_epochs"] == 5


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "none"])
def test_recon_flags_with_another_logger_are_an_error(capsys, scan_file, logger):
    with pytest.raises(SystemExit) as stop:
        main("raw", "test", ["--train_data_file", str(scan_file), "--torch-logger", logger, "--recon-log-stitch"])

    assert stop.value.code == 2
    assert "needs the MLflow logger" in capsys.readouterr().err


def test_printed_settings_read_back_to_the_same_settings(capsys, scan_file, tmp_path):
    flags = ["--train_data_file", str(scan_file), "--no-probe_big", "--recon-log-fixed-indices", "3", "4"]
    printed = _printed(capsys, *flags)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(printed))

    assert _printed(capsys, "--config", str(file)) == printed


def test_the_command_line_overrides_the_file(capsys, scan_file, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(f"data: {{train_data_file: {scan_file}}}\ntraining: {{nepochs: 7, batch_size: 4}}\n")

    printed = _printed(capsys, "--config", str(file), "--nepochs", "9")

    assert (printed["training"]["nepochs"], printed["training"]["batch_size"]) == (9, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {nepoch: 3}", "unknown setting training.nepoch; did you mean 'nepochs'"),
        ("trainig: {}", "unknown section 'trainig'; did you mean 'training'"),
        ("training: {nepochs: many}", "training.nepochs is 'many'; it must be of type int"),
        ("training: {nepochs: 2.5}", "training.nepochs is 2.5"),
        ("training: {nepochs: null}", "training.nepochs is empty"),
        ("training: 3", "training is 3; it must hold settings"),
        ("execution: {recon_log_fixed_indices: '17'}", "recon_log_fixed_indices is '17'; it must be a list of int"),
        ("[1, 2]", "must hold sections"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_settings_file_is_refused(tmp_path, text, message):
    file = tmp_path / "settings.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=message):
        read_yaml(file)


def test_a_settings_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "scan.npz"
    file.write_bytes(b"PK\x03\x04\xff\xfe")

    with pytest.raises(ConfigError, match="is not YAML"):
        read_yaml(file)


def test_a_settings_file_of_the_other_script_is_refused(tmp_path, scan_file):
    file = tmp_path / "settings.yaml"
    file.write_text(f"data: {{scan_kind: grid_lines, train_data_file: {scan_file}}}")

    with pytest.raises(ConfigError, match="is for grid_lines data"):
        resolve("raw", {}, file)


def test_a_missing_data_file_is_named(capsys):
    with pytest.raises(SystemExit):
        main("raw", "test", ["--train_data_file", "absent.npz"])

    assert "there is no file 'absent.npz'" in capsys.readouterr().err
