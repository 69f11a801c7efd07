"""Unusable checkpoints, scans and flags cause clear errors, and nothing is written."""

import os

import numpy as np
import pytest
import torch

from ptycho_torch.files.archive import save_npz
from ptycho_torch.inference_cli import main
from tests.e2e.trained import error_of

# Lightning's model summary does not support bf16.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary"),
    pytest.mark.xdist_group("inference"),  # one process runs the training runs, once
]
slow = pytest.mark.slow


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

    shown = error_of(capsys, training.checkpoint, scan, tmp_path / "out", "--refine-passes", 1, *flags)
    assert message in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read as a checkpoint"),
        (b"PK\x03\x04 torn", r"cannot be read as a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_an_error(raw_scan, tmp_path, capsys, content, message):
    (tmp_path / "bad.ckpt").write_bytes(content)

    assert message in error_of(capsys, tmp_path / "bad.ckpt", raw_scan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Touch:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.open, (str(self.path), os.O_CREAT)


def test_nothing_in_a_checkpoint_is_unpickled(trained, raw_scan, tmp_path, capsys):
    content = torch.load(trained.checkpoint, weights_only=True)
    torch.save({**content, "more": _Touch(tmp_path / "touched")}, tmp_path / "bad.ckpt")

    assert "cannot be read as a checkpoint" in error_of(capsys, tmp_path / "bad.ckpt", raw_scan, tmp_path / "out")
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

    assert message in error_of(capsys, tmp_path / "other.ckpt", raw_scan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _scan_of_side(side_px):
    probe = np.ones((side_px, side_px), np.complex64)
    return {"diff3d": np.ones((2, side_px, side_px), np.float32), "xcoords": [1.0, 2], "ycoords": [1.0, 2]} | {
        "probeGuess": probe
    }


def test_a_scan_of_another_pattern_size_is_an_error(trained, tmp_path, capsys):
    save_npz(tmp_path / "scan.npz", {k: np.asarray(v) for k, v in _scan_of_side(128).items()})

    shown = error_of(capsys, trained.checkpoint, tmp_path / "scan.npz", tmp_path / "out")

    assert "patterns are 128 x 128 px, but the network was trained on 64 x 64 px" in shown
    assert not (tmp_path / "out").exists()


def test_a_scan_of_another_format_is_an_error(trained, grid_lines, tmp_path, capsys):
    shown = error_of(capsys, trained.checkpoint, grid_lines / "test.npz", tmp_path / "out")

    assert "key 'xcoords'" in shown
    assert "The network was trained on raw scans" in shown


def test_patches_that_the_scan_does_not_have_are_an_error(trained, raw_scan, tmp_path, capsys):
    shown = error_of(capsys, trained.checkpoint, raw_scan, tmp_path / "out", "--fixed_indices", 99)

    assert "has [99], but the logged dataset has 13 samples" in shown
    assert "--num_patches" in shown


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1, "ranges": {"stitched/amp": {"min": 1, "max": 0}}}'])
def test_invalid_colour_ranges_are_an_error(trained, raw_scan, tmp_path, capsys, text):
    (tmp_path / "scales.json").write_text(text)

    shown = error_of(capsys, trained.checkpoint, raw_scan, tmp_path / "out", "--scales", tmp_path / "scales.json")

    assert f"scales: {tmp_path / 'scales.json'}" in shown


def test_an_output_that_cannot_be_written_is_an_error(trained, raw_scan, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    shown = error_of(capsys, trained.checkpoint, raw_scan, tmp_path / "file" / "out")

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

    assert message in error_of(capsys, tmp_path / "empty", tmp_path / "empty", tmp_path / "out", *flags)
