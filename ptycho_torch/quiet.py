"""Hides tips, deprecation warnings and migration messages of libraries in this project's programs.

Only programs do this: a training run that is started from Python does not change the settings of its process.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from recon_worker.system.mlflow_environment import variable_kept

_LEVELS = {
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,  # devices found, tips; not the messages of each rank
    "lightning.pytorch.loggers.mlflow": logging.ERROR,  # warns that it creates an experiment
    "mlflow": logging.WARNING,  # migrations of its database
}
_MLFLOW_LEVEL = "MLFLOW_LOGGING_LEVEL"
"""Variable from which MLflow, also in the worker, sets the level of its logger on import."""
_HINTS = (".*srun. command is available", ".*isinstance.treespec, LeafSpec", ".*does not have many workers")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide messages that users of a program cannot act on. `python -W` and PYTHONWARNINGS show deprecations again."""
    import lightning.pytorch  # noqa: F401 - sets the levels of its loggers

    before = {name: logging.getLogger(name).level for name in _LEVELS}
    try:
        for name, level in _LEVELS.items():
            logging.getLogger(name).setLevel(level)
        with warnings.catch_warnings(), variable_kept(_MLFLOW_LEVEL):
            os.environ.setdefault(_MLFLOW_LEVEL, "WARNING")
            if not sys.warnoptions:
                for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                    warnings.simplefilter("ignore", category)
            for hint in _HINTS:
                warnings.filterwarnings("ignore", hint)
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
