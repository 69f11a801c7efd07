"""Settings and files are described, or refused, before the training starts."""

import os
import re

import numpy as np
import pytest

from ptycho_torch.cli import resolve
from ptycho_torch.config import ConfigError
from ptycho_torch.workflows.components import describe, run_training
from tests.e2e.runs import run_settings


def test_merged_neighbours_are_refused_on_several_devices(raw_scan, tmp_path, mlflow_database):
    more = {"merge_neighbours": 8, "devices": "2", "strategy": "ddp"}

    with pytest.raises(ConfigError, match="needs a single device, but there are 2"):
        describe(resolve("raw", run_settings(raw_scan, None, tmp_path, mlflow_database, **more)))


def test_fixed_indices_beyond_the_test_set_are_refused_before_training(raw_scan, tmp_path, mlflow_database):
    settings = run_settings(raw_scan, raw_scan, tmp_path, mlflow_database, recon_log_fixed_indices=(10_000,))

    with pytest.raises(ConfigError, match=r"\[10000\], but the logged dataset has \d+ samples"):
        run_training(resolve("raw", settings))


def test_a_checkpoint_of_another_network_is_not_continued_and_the_settings_that_differ_are_named(raw_scan, tmp_path):
    settings = {
        "train_data_file": raw_scan,
        "output_dir": tmp_path,
        "nepochs": 1,
        "logger": "none",
        "accelerator": "cpu",
    }
    run_training(resolve("raw", settings))
    wider = resolve("raw", {**settings, "nepochs": 2, "n_filters_scale": 2, "resume": "last"})
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()

    for attempt in (run_training, describe):
        with pytest.raises(ConfigError, match=r"n_filters_scale 1 \(here 2\). Give the same settings"):
            attempt(wider)
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before

    same = resolve("raw", {**settings, "nepochs": 2, "resume": "last"})
    assert run_training(same).trainer.current_epoch == 2


def test_a_dry_run_says_what_it_understood_of_each_file_and_writes_nothing(raw_scan, tmp_path, capsys):
    from ptycho_torch.cli import main

    folder, bare = tmp_path / "nothing", tmp_path / "bare.npz"
    with np.load(raw_scan) as file:
        arrays = dict(file)
    np.savez(bare, **{key: value for key, value in arrays.items() if key != "objectGuess"})
    files = ["--train_data_file", str(raw_scan), "--test_data_file", str(bare)]
    main("raw", "t", [*files, "--output_dir", str(folder), "--dry-run"])

    train, test = (part.splitlines() for part in capsys.readouterr().out.split("test: "))
    count = len(arrays["diff3d"])
    width, height = np.ptp(arrays["xcoords"]), np.ptp(arrays["ycoords"])
    assert train[0] == f"train: {count} samples from {raw_scan}"
    assert train[1] == f"  patterns: {count} of 64 x 64 px, 1e+06 photons each on average (stated)"
    assert train[2].startswith(f"  field of view: positions over {width:.4g} x {height:.4g} px")
    assert re.search(r"median step 1[1-4]\.\d px, overlap [56]\d %$", train[2])
    assert train[3] == "  probe: 32.1 px in diameter"
    assert train[4] == f"  truth: for {count} of {count} patterns"
    assert test[4] == "  truth: none"
    assert test[-1] == "Settings and data are valid."
    assert not folder.exists()


def test_a_dry_run_refuses_positions_in_metres(raw_scan, tmp_path, capsys):
    from ptycho_torch.cli import main

    scan = tmp_path / "scan.npz"
    with np.load(raw_scan) as file:
        np.savez(scan, **{**file, "xcoords": file["xcoords"] * 1e-8, "ycoords": file["ycoords"] * 1e-8})

    with pytest.raises(SystemExit) as caught:
        main("raw", "t", ["--train_data_file", str(scan), "--dry-run"])

    assert caught.value.code == 2
    assert "in metres" in capsys.readouterr().err


def test_a_dry_run_of_grid_lines_knows_the_field_of_the_test_file_alone(grid_lines, capsys):
    from ptycho_torch.cli import main

    files = ["--train_data_file", str(grid_lines / "train.npz"), "--test_data_file", str(grid_lines / "test.npz")]
    main("grid_lines", "t", [*files, "--dry-run"])

    train, test = capsys.readouterr().out.split("test: ")
    assert "field of view: unknown, because the samples are shuffled" in train
    assert "positions over 60 x 60 px (width x height), median step 10 px, overlap 69 %" in test


@pytest.mark.parametrize("damage", ["cut short", "empty", "no archive"])
def test_a_damaged_file_ends_the_script_before_training_with_exit_code_2(raw_scan, tmp_path, capsys, damage):
    from ptycho_torch.cli import main

    scan, folder = tmp_path / "scan.npz", tmp_path / "out"
    whole = raw_scan.read_bytes()
    scan.write_bytes({"cut short": whole[: len(whole) // 2], "empty": b"", "no archive": b"no archive"}[damage])

    with pytest.raises(SystemExit) as caught:
        main("raw", "t", ["--train_data_file", str(scan), "--output_dir", str(folder), "--recon-log-async"])

    assert caught.value.code == 2
    assert "error: scan.npz: " in capsys.readouterr().err
    assert not (folder / "mlflow.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_a_spool_directory_of_somebody_else_ends_the_script_before_training_with_exit_code_2(
    raw_scan, tmp_path, capsys
):
    from ptycho_torch.cli import main

    folder, spool = tmp_path / "out", tmp_path / "spool"
    spool.mkdir()
    os.chown(spool, 65534, 65534)
    words = ["--train_data_file", raw_scan, "--output_dir", folder, "--recon-log-async", "--recon-log-spool-dir", spool]
    with pytest.raises(SystemExit) as caught:
        main("raw", "t", list(map(str, words)))

    assert caught.value.code == 2
    assert f"{spool} cannot be used: it belongs to the user nobody" in capsys.readouterr().err
    assert not (folder / "mlflow.db").exists()
