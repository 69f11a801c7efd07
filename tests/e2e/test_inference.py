"""Reconstructions from checkpoints: the same files and numbers as the training logged, and clear errors."""

import json
import math
import os
import pty
import subprocess
import sys
import termios
from functools import cache

import numpy as np
import pytest
import torch

from ptycho_torch.cli import resolve
from ptycho_torch.files.archive import save_npz
from ptycho_torch.inference_cli import main
from ptycho_torch.workflows.components import run_training
from recon_worker.pictures.png import read_png
from tests.paths import REPOSITORY

# Lightning's table of the network knows no bf16.
pytestmark = pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")

slow = pytest.mark.slow


class Training:
    """A training on the CPU, and what it left."""

    def __init__(self, kind, train, test, folder, database, **more):
        self.folder, self.checkpoint = folder, folder / "checkpoints" / "last.ckpt"
        settings = {
            "train_data_file": train,
            "test_data_file": test,
            "output_dir": folder,
            "n_filters_scale": 1,
            "batch_size": 4,
            "accelerator": "cpu",
            "mlflow_tracking_uri": database,
            "mlflow_experiment": str(folder),
            "recon_log_every_n_epochs": 1,
            "recon_log_stitch": True,
            "recon_log_num_patches": 2,
            "recon_log_baseline": False,
            "recon_log_strict": True,
        }
        result = run_training(resolve(kind, {**settings, **more}))
        logger = result.trainer.logger
        self._client, self._run_id, self._step = logger.experiment, logger.run_id, result.trainer.global_step
        (self.artifacts,) = (folder / "mlruns").glob("*/artifacts")

    def metrics(self):
        """The reconstruction's numbers in MLflow, of the last epoch."""
        names = [name for name in self._client.get_run(self._run_id).data.metrics if name.startswith("recon/")]
        last = {name: self._client.get_metric_history(self._run_id, name)[-1] for name in names}
        return {name: metric.value for name, metric in last.items() if metric.step == self._step}

    def files(self):
        """Content of the last epoch's artifacts by their path in its folder."""
        root = max(self.artifacts.glob("epoch_*"))
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def train(raw_scan, grid_lines, tmp_path_factory, mlflow_database):
    """A training of each case, made when it is first asked for, and the scan that it logged."""
    raw, grid = (raw_scan, raw_scan), (grid_lines / "train.npz", grid_lines / "test.npz")

    @cache
    def _train(case):
        kind, (train_file, test_file), more = {
            "raw": ("raw", raw, {"recon_log_fixed_indices": (7, 2)}),
            "gridsize 2": ("raw", raw, {"gridsize": 2, "loss": "mae", "recon_log_stitch_weight": "probe"}),
            "grid lines": (
                *("grid_lines", grid),
                {"recon_log_arrays": "h5", "recon_log_pixel_size": 1e-8, "batch_size": 32},
            ),
            "supervised": ("raw", raw, {"model_type": "supervised", "precision": "bf16-mixed"}),
            "no test file": ("raw", (raw_scan, None), {"recon_log_async": True}),
        }[case]
        folder = tmp_path_factory.mktemp("trained") / "run"
        more = {"recon_log_arrays": "npz", "nepochs": 2 if case == "raw" else 1, **more}
        return Training(kind, train_file, test_file, folder, mlflow_database, **more), test_file or train_file

    return _train


@pytest.fixture
def trained(train):
    return train("raw")[0]


def _infer(checkpoint, scan, out, *more):
    files = ["--checkpoint", str(checkpoint), "--data_file", str(scan), "--output_dir", str(out)]
    return main([*files, "--accelerator", "cpu", *map(str, more)])


def _error(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        _infer(*arguments)

    assert caught.value.code == 2
    return capsys.readouterr().err


def _files(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "case", ["raw", "grid lines", *(pytest.param(c, marks=slow) for c in ("no test file", "gridsize 2", "supervised"))]
)
def test_files_and_numbers_are_those_of_the_last_epoch_to_the_last_bit(train, tmp_path, case):
    training, scan = train(case)
    scales, out = training.artifacts / "recon_log" / "scales.json", tmp_path / "out"
    arrays = next(iter({"npz", "h5"} & {name.split(".")[-1] for name in training.files()}))

    assert _infer(training.checkpoint, scan, out, "--scales", scales, "--arrays", arrays) == 0

    made = _files(out)
    record = json.loads(made.pop("metrics.json"))
    assert made.pop("scales.json") == scales.read_bytes()
    assert made == training.files()
    assert f"stitched/arrays.{arrays}" in made
    assert {"recon/stitched/amp_mae", "recon/patches/phase_mae_rad"} <= record["metrics"].keys()
    assert record["metrics"] == training.metrics()


def test_the_script_shows_progress_on_a_terminal_and_prints_the_numbers(trained, raw_scan, tmp_path):
    script = str(REPOSITORY / "scripts" / "inference.py")
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))  # else it has no columns, and the bar no room
    command = [sys.executable, script, "--checkpoint", str(trained.checkpoint), "--data_file", str(raw_scan)]
    command += ["--output_dir", str(tmp_path / "out"), "--accelerator", "cpu", "--arrays", "none"]

    done = subprocess.run(command, timeout=110, check=True, stdout=subprocess.PIPE, stderr=terminal, text=True)

    os.set_blocking(ours, False)  # no bar: an error at once
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(terminal)
    assert "Predicting" in shown
    mae = f"{trained.metrics()['recon/stitched/amp_mae']:.3g}"
    assert f"amplitude MAE {mae} " in " ".join(done.stdout.split())
    assert f"Epoch 2, step 8: 30 files in {tmp_path / 'out'}" in done.stdout


def test_a_refined_object_stands_beside_the_predicted_one_with_numbers_of_its_own(trained, raw_scan, tmp_path, capsys):
    plain, refined = tmp_path / "plain", tmp_path / "refined"
    assert _infer(trained.checkpoint, raw_scan, plain) == 0
    assert _infer(trained.checkpoint, raw_scan, refined, "--refine-passes", 15) == 0

    before, made = _files(plain), _files(refined)
    own = {name for name in made if name.startswith("refined/")}
    assert own == {name.replace("stitched/", "refined/") for name in before if name.startswith("stitched/")}
    assert all(made[name] == before[name] for name in before if name.startswith(("stitched/", "patch_")))
    numbers = json.loads(made["metrics.json"])["metrics"]
    assert numbers["recon/refined/phase_correlation"] > numbers["recon/stitched/phase_correlation"] + 0.2
    assert numbers["recon/refined/deviance"] < numbers["recon/refined/deviance_before"] / 10
    assert ["stitched", "refined", "patches"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    ranges = [read_png(refined / kind / "amp_pred.png").value_range for kind in ("stitched", "refined")]
    assert ranges[0] == ranges[1]


def test_a_refinement_that_fails_costs_only_its_own_pictures(trained, raw_scan, tmp_path, capsys):
    checkpoint = torch.load(trained.checkpoint, weights_only=False)
    for weights in checkpoint["state_dict"].values():
        weights.fill_(math.nan)
    torch.save(checkpoint, tmp_path / "diverged.ckpt")

    assert _infer(tmp_path / "diverged.ckpt", raw_scan, tmp_path / "out", "--refine-passes", 1) == 1

    assert "refined failed: the network's prediction is not finite" in capsys.readouterr().out
    assert {"stitched/amp_pred.png", "summary.png", "metrics.json"} <= _files(tmp_path / "out").keys()


@pytest.mark.parametrize(
    ("case", "flags", "message"),
    [
        ("grid lines", (), "refine_passes needs a raw scan"),
        ("raw", ("--max_stitch_samples", 5), "refine_passes needs the whole scan"),
        ("raw", ("--refine-passes", -1), "refine_passes is -1"),
        pytest.param("supervised", (), "refine_passes needs a network of model_type pinn", marks=slow),
    ],
)
def test_what_cannot_be_refined_is_refused_before_anything_is_written(train, tmp_path, capsys, case, flags, message):
    training, scan = train(case)

    shown = _error(capsys, training.checkpoint, scan, tmp_path / "out", "--refine-passes", 1, *flags)
    assert message in shown
    assert not (tmp_path / "out").exists()


def test_without_a_terminal_there_is_no_progress_bar(trained, raw_scan, tmp_path, capsys):
    assert _infer(trained.checkpoint, raw_scan, tmp_path, "--num_patches", 0, "--arrays", "none") == 0

    assert capsys.readouterr().err == ""


def test_flags_choose_other_patches_and_a_part_of_the_scan(trained, raw_scan, tmp_path):
    chosen = ("--fixed_indices", 4, 9, "--max_stitch_samples", 5, "--pixel_size", "2e-8", "--arrays", "npz")

    assert _infer(trained.checkpoint, raw_scan, tmp_path, *chosen) == 0

    names = {name.split("/")[0] for name in _files(tmp_path)}
    assert names == {"patch_04", "patch_09", "stitched", "summary.png", "metrics.json", "scales.json"}
    arrays = np.load(tmp_path / "stitched" / "arrays.npz")
    assert arrays["pixel_size_m"] == 2e-8
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["recon/stitched/coverage"] < 0.6


@pytest.mark.parametrize("case", ["raw", pytest.param("supervised", marks=slow)])
def test_a_scan_without_truth_has_numbers_of_its_own_and_no_errors(train, raw_scan, tmp_path, case):
    training, _ = train(case)
    measured = {key: value for key, value in np.load(raw_scan).items() if key != "objectGuess"}
    save_npz(tmp_path / "measured.npz", measured)

    assert _infer(training.checkpoint, tmp_path / "measured.npz", tmp_path / "out") == 0

    made = _files(tmp_path / "out")
    numbers = json.loads(made["metrics.json"])["metrics"]
    assert not any("_gt" in name or "_error" in name for name in made if name.startswith("stitched"))
    assert "recon/stitched/half_data_frc_cutoff" in numbers
    assert "recon/stitched/amp_mae" not in numbers
    assert "ground_truth" not in np.load(tmp_path / "out" / "stitched" / "arrays.npz")


def test_the_training_split_of_a_grid_lines_file_gives_patches_and_says_why(train, grid_lines, tmp_path, caplog):
    training, _ = train("grid lines")

    assert _infer(training.checkpoint, grid_lines / "train.npz", tmp_path / "out") == 0

    assert not any("stitched" in name for name in _files(tmp_path / "out"))
    assert "training split of a grid-lines file is shuffled" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read as a checkpoint"),
        (b"PK\x03\x04 torn", r"cannot be read as a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_an_error(raw_scan, tmp_path, capsys, content, message):
    (tmp_path / "bad.ckpt").write_bytes(content)

    assert message in _error(capsys, tmp_path / "bad.ckpt", raw_scan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.open, (str(self.path), os.O_CREAT)


def test_nothing_in_a_checkpoint_is_unpickled(trained, raw_scan, tmp_path, capsys):
    content = torch.load(trained.checkpoint, weights_only=True)
    torch.save({**content, "more": _Touch(tmp_path / "touched")}, tmp_path / "bad.ckpt")

    assert "cannot be read as a checkpoint" in _error(capsys, tmp_path / "bad.ckpt", raw_scan, tmp_path / "out")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["callbacks"].pop("RecipeInCheckpoint"), "Continue its training with --resume"),
        (lambda c: c.pop("PtychoDataModule"), "Continue its training with --resume"),
        (lambda c: c["callbacks"]["RecipeInCheckpoint"].update(more=1), "settings that this version cannot read"),
        (lambda c: c["callbacks"]["RecipeInCheckpoint"].update(scan_kind="tiff"), "scan_kind is 'tiff'; allowed: raw"),
        (lambda c: c["PtychoDataModule"].pop("rms"), "settings that this version cannot read (KeyError: 'rms')"),
        (lambda c: c["hyper_parameters"].update(n_filters_scale=2), "a network that this program does not train"),
        (lambda c: c.pop("hyper_parameters"), "a network that this program does not train"),
        (lambda c: c.pop("state_dict"), "cannot be read as a checkpoint"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_an_error(trained, raw_scan, tmp_path, capsys, change, message):
    content = torch.load(trained.checkpoint, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "other.ckpt")

    assert message in _error(capsys, tmp_path / "other.ckpt", raw_scan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _scan_of_side(side_px):
    probe = np.ones((side_px, side_px), np.complex64)
    return {"diff3d": np.ones((2, side_px, side_px), np.float32), "xcoords": [1.0, 2], "ycoords": [1.0, 2]} | {
        "probeGuess": probe
    }


def test_a_scan_of_another_pattern_size_is_an_error(trained, tmp_path, capsys):
    save_npz(tmp_path / "scan.npz", {k: np.asarray(v) for k, v in _scan_of_side(128).items()})

    shown = _error(capsys, trained.checkpoint, tmp_path / "scan.npz", tmp_path / "out")

    assert "patterns are 128 x 128 px, but the network was trained on 64 x 64 px" in shown
    assert not (tmp_path / "out").exists()


def test_a_scan_of_another_format_is_an_error(trained, grid_lines, tmp_path, capsys):
    shown = _error(capsys, trained.checkpoint, grid_lines / "test.npz", tmp_path / "out")

    assert "key 'xcoords'" in shown
    assert "The network was trained on raw scans" in shown


def test_patches_that_the_scan_does_not_have_are_an_error(trained, raw_scan, tmp_path, capsys):
    shown = _error(capsys, trained.checkpoint, raw_scan, tmp_path / "out", "--fixed_indices", 99)

    assert "has [99], but the logged dataset has 13 samples" in shown
    assert "--num_patches" in shown


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1, "ranges": {"stitched/amp": {"min": 1, "max": 0}}}'])
def test_ranges_that_are_none_are_an_error(trained, raw_scan, tmp_path, capsys, text):
    (tmp_path / "scales.json").write_text(text)

    shown = _error(capsys, trained.checkpoint, raw_scan, tmp_path / "out", "--scales", tmp_path / "scales.json")

    assert f"scales: {tmp_path / 'scales.json'}" in shown


def test_an_output_that_cannot_be_written_is_an_error(trained, raw_scan, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    shown = _error(capsys, trained.checkpoint, raw_scan, tmp_path / "file" / "out")

    assert "output_dir" in shown
    assert "Not a directory" in shown


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "checkpoint is missing"),
        (("--checkpoint", "nowhere.ckpt", "--data_file", "scan.npz"), "checkpoint: there is no file 'nowhere.ckpt'"),
        (("--checkpoint", __file__), "data_file is missing"),
        (("--checkpoint", __file__, "--data_file", "no.npz"), "data_file: there is no file 'no.npz'"),
        (("--stitch_weight", "heavy"), "invalid choice: 'heavy'"),
    ],
)
def test_wrong_flags_are_errors(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        main(flags)

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num_patches", "-1"), "num_patches is -1"),
        (("--fixed_indices", "1", "1"), r"has [1] more than once"),
        (("--fixed_indices", "1", "--num_patches", "2"), "Give one of them"),
        (("--max_stitch_samples", "0"), "max_stitch_samples is 0"),
        (("--pixel_size", "2"), "pixel_size is 2.0 m"),
    ],
)
def test_flags_out_of_range_are_errors_before_anything_is_read(capsys, tmp_path, flags, message):
    (tmp_path / "empty").write_text("")

    assert message in _error(capsys, tmp_path / "empty", tmp_path / "empty", tmp_path / "out", *flags)
