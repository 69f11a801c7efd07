"""Reconstructions from checkpoints have the same files and metrics as the training logged."""

import json
import math
import os
import pty
import sys
import termios

import pytest
import torch

from ptycho_torch.files.archive import save_npz
from recon_worker.pictures.png import read_png
from tests.e2e.trained import files_of, infer
from tests.paths import read_npz

# Lightning's model summary does not support bf16.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary"),
    pytest.mark.xdist_group("inference"),  # one process runs the training runs, once
]
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "case",
    ["grid lines", *(pytest.param(c, marks=slow) for c in ("raw", "no test file", "gridsize 2", "supervised"))],
)
def test_files_and_metrics_are_those_of_the_last_epoch_to_the_last_bit(train, tmp_path, case):
    training, scan = train(case)
    scales, out = training.artifacts / "recon_log" / "scales.json", tmp_path / "out"
    arrays = next(iter({"npz", "h5"} & {name.split(".")[-1] for name in training.files()}))

    assert infer(training.checkpoint, scan, out, "--scales", scales, "--arrays", arrays) == 0

    made = files_of(out)
    record = json.loads(made.pop("metrics.json"))
    assert made.pop("scales.json") == scales.read_bytes()
    assert made == training.files()
    assert f"stitched/arrays.{arrays}" in made
    assert {"recon/stitched/amp_mae", "recon/patches/phase_mae_rad"} <= record["metrics"].keys()
    assert record["metrics"] == training.metrics()


def test_progress_is_shown_on_a_terminal_and_the_metrics_are_printed(trained, raw_scan, tmp_path, monkeypatch, capsys):
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))  # without a size the terminal has no room for the bar
    with os.fdopen(terminal, "w") as stderr:
        for name in ("stderr", "__stderr__"):
            monkeypatch.setattr(sys, name, stderr)
        assert infer(trained.checkpoint, raw_scan, tmp_path / "out", "--arrays", "none") == 0

        os.set_blocking(ours, False)  # without a bar, reading fails at once
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    printed = capsys.readouterr().out
    assert "Predicting" in shown
    mae = f"{trained.metrics()['recon/stitched/amp_mae']:.3g}"
    assert f"amplitude MAE {mae} " in " ".join(printed.split())
    assert f"Epoch 2, step 8: 32 files in {tmp_path / 'out'}" in printed


def test_a_refined_object_stands_beside_the_predicted_one_with_its_own_metrics(trained, raw_scan, tmp_path, capsys):
    plain, refined = tmp_path / "plain", tmp_path / "refined"
    assert infer(trained.checkpoint, raw_scan, plain) == 0
    assert infer(trained.checkpoint, raw_scan, refined, "--refine-passes", 15) == 0

    before, made = files_of(plain), files_of(refined)
    own = {name for name in made if name.startswith("refined/")}
    shown = {name for name in before if name.startswith("stitched/") and "misfit" not in name}  # of the prediction only
    assert own == {name.replace("stitched/", "refined/") for name in shown}
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

    assert infer(tmp_path / "diverged.ckpt", raw_scan, tmp_path / "out", "--refine-passes", 1) == 1

    assert "refined failed: the network's prediction is not finite" in capsys.readouterr().out
    assert {"stitched/amp_pred.png", "summary.png", "metrics.json"} <= files_of(tmp_path / "out").keys()


def test_without_a_terminal_there_is_no_progress_bar(trained, raw_scan, tmp_path, capsys):
    assert infer(trained.checkpoint, raw_scan, tmp_path, "--num_patches", 0, "--arrays", "none") == 0

    assert capsys.readouterr().err == ""


def test_flags_choose_other_patches_and_a_part_of_the_scan(trained, raw_scan, tmp_path):
    chosen = ("--fixed_indices", 4, 9, "--max_stitch_samples", 5, "--pixel_size", "2e-8", "--arrays", "npz")

    assert infer(trained.checkpoint, raw_scan, tmp_path, *chosen) == 0

    names = {name.split("/")[0] for name in files_of(tmp_path)}
    assert names == {"patch_04", "patch_09", "stitched", "summary.png", "metrics.json", "scales.json"}
    arrays = read_npz(tmp_path / "stitched" / "arrays.npz")
    assert arrays["pixel_size_m"] == 2e-8
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["recon/stitched/coverage"] < 0.6


@pytest.mark.parametrize("case", ["raw", pytest.param("supervised", marks=slow)])
def test_a_scan_without_truth_has_its_own_metrics_and_no_errors(train, raw_scan, tmp_path, case):
    training, _ = train(case)
    measured = {key: value for key, value in read_npz(raw_scan).items() if key != "objectGuess"}
    save_npz(tmp_path / "measured.npz", measured)

    assert infer(training.checkpoint, tmp_path / "measured.npz", tmp_path / "out") == 0

    made = files_of(tmp_path / "out")
    numbers = json.loads(made["metrics.json"])["metrics"]
    assert not any("_gt" in name or "_error" in name for name in made if name.startswith("stitched"))
    assert "recon/stitched/half_data_frc_cutoff" in numbers
    assert "recon/stitched/amp_mae" not in numbers
    assert "ground_truth" not in read_npz(tmp_path / "out" / "stitched" / "arrays.npz")


def test_the_training_split_of_a_grid_lines_file_gives_patches_and_says_why(train, grid_lines, tmp_path, caplog):
    training, _ = train("grid lines")

    assert infer(training.checkpoint, grid_lines / "train.npz", tmp_path / "out") == 0

    assert not any("stitched" in name for name in files_of(tmp_path / "out"))
    assert "training split of a grid-lines file is shuffled" in caplog.text
