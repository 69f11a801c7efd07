"""Arguments of a wrong type are errors of the call, which name the argument, its value and what is allowed."""

import json
from pathlib import Path

import numpy as np
import pytest

from recon_worker import ReconLogger, TupleAdapter, WorkerSettings
from recon_worker.capture.plan import Interval, ScanOptions, choose_indices
from recon_worker.lightning import PtychoReconLoggingCallback

WORKER = "allowed: worker=WorkerSettings(...) or None."
WRONG = {
    f"worker is True; {WORKER}": {"worker": True},
    f"worker is 'spool'; {WORKER}": {"worker": "spool"},
    "every_n_epochs is 2.5; allowed: a whole number.": {"every_n_epochs": 2.5},
    "num_patches is '4'; allowed: a whole number.": {"num_patches": "4"},
    "fixed_indices is [1.5]; allowed: a sequence of whole numbers or None.": {"fixed_indices": [1.5]},
    "pixel_size_m is '1e-8'; allowed: a number or None.": {"pixel_size_m": "1e-8"},
    "strict is 'no'; allowed: True or False.": {"strict": "no"},
    "adapter is 5; allowed: adapter=Adapter(...) or None.": {"adapter": 5},
}


@pytest.mark.parametrize("logger", [ReconLogger, PtychoReconLoggingCallback])
@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_type_is_named_by_callback_and_logger(logger, said):
    with pytest.raises(TypeError) as error:
        logger(**WRONG[said])

    assert str(error.value) == said


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"depth": "2"}, TypeError, "depth is '2'; allowed: a whole number or None."),
        ({"overflow": "wait"}, ValueError, "overflow is 'wait'; allowed: spill, drop-oldest, block."),
        ({"spool_dir": 5}, TypeError, "spool_dir is 5; allowed: a path."),
    ],
)
def test_settings_of_the_worker_are_checked(tmp_path, settings, error, said):
    with pytest.raises(error) as raised:
        WorkerSettings(**{"spool_dir": tmp_path} | settings)

    assert str(raised.value) == said


def test_numbers_of_numpy_ranges_and_paths_as_text_are_accepted(tmp_path):
    PtychoReconLoggingCallback(
        every_n_epochs=np.int64(2),
        fixed_indices=range(3),
        pixel_size_m=np.float32(1e-8),
        log_stitch=np.bool_(True),
        adapter=TupleAdapter(),
        worker=WorkerSettings(spool_dir=str(tmp_path), flush_timeout_s=5),
    )
    PtychoReconLoggingCallback(fixed_indices=np.arange(3), worker=WorkerSettings(spool_dir=Path(tmp_path)))


def test_numbers_of_numpy_become_those_of_python_for_json(tmp_path):
    options = ScanOptions(
        fixed_indices=np.arange(3), pixel_size_m=np.float32(0.5), max_stitch_samples=np.int64(5), log_stitch=np.bool_(1)
    )
    settings = WorkerSettings(spool_dir=tmp_path, depth=np.int64(2), flush_timeout_s=np.float32(5))
    numbers = (options.pixel_size_m, options.max_stitch_samples, settings.depth, settings.flush_timeout_s)

    assert json.dumps([*numbers, Interval(1, np.int64(4)).first_epoch]) == "[0.5, 5, 2, 5.0, 4]"
    assert json.dumps([choose_indices(9, options), options.log_stitch]) == "[[0, 1, 2], true]"


@pytest.mark.parametrize(
    ("option", "advice"), [("num_patch", "did you mean 'num_patches'?"), ("baseline", "allowed: adapter, arrays, ")]
)
def test_an_unknown_option_names_the_logger_and_the_nearest_option(option, advice):
    with pytest.raises(TypeError) as error:
        ReconLogger(positions=np.ones((4, 2)), **{option: 3})

    assert str(error.value).startswith(f"ReconLogger got an unknown option {option!r}; {advice}")


def test_the_home_directory_may_be_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert WorkerSettings(spool_dir="~/spool").spool_dir == tmp_path / "spool"
