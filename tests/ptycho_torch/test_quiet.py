"""Programs hide the hints of libraries; the settings of the process are the same afterwards."""

import logging
import os
import warnings

from ptycho_torch.quiet import quiet_libraries

RANK_ZERO = logging.getLogger("lightning.pytorch.utilities.rank_zero")


def test_hints_and_deprecations_are_hidden_and_other_warnings_are_not(monkeypatch):
    monkeypatch.setattr("sys.warnoptions", [])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet_libraries():
            assert not RANK_ZERO.isEnabledFor(logging.INFO)
            assert RANK_ZERO.isEnabledFor(logging.WARNING)
            warnings.warn("old", FutureWarning, stacklevel=1)
            warnings.warn("The dataloader does not have many workers", UserWarning, stacklevel=1)
            warnings.warn("the data are odd", UserWarning, stacklevel=1)

    assert [str(one.message) for one in shown] == ["the data are odd"]


def test_levels_filters_and_environment_are_restored(monkeypatch):
    monkeypatch.delenv("MLFLOW_LOGGING_LEVEL", raising=False)
    import lightning.pytorch  # noqa: F401 - sets levels

    loggers = [RANK_ZERO, logging.getLogger("lightning.pytorch.loggers.mlflow"), logging.getLogger("mlflow")]
    before = [one.level for one in loggers], list(warnings.filters)
    with quiet_libraries():
        assert os.environ["MLFLOW_LOGGING_LEVEL"] == "WARNING"

    assert ([one.level for one in loggers], list(warnings.filters)) == before
    assert "MLFLOW_LOGGING_LEVEL" not in os.environ
