"""Command line of the reconstruction from a checkpoint. Free of heavy imports."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ptycho_torch.checks import ConfigError
from ptycho_torch.cli import Arguments
from ptycho_torch.inference_config import InferenceConfig

_INCOMPLETE = 1
"""Exit code if an artifact failed."""
_ADVICE = (".*srun. command is available", ".*isinstance.treespec, LeafSpec", ".*does not have many workers")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, reconstruct and print the metrics; returns the exit code. Invalid settings or data exit with 2."""
    arguments = Arguments("Reconstruct a scan with a trained network: pictures, arrays and numbers.", [InferenceConfig])
    given = arguments.parse(argv)
    try:
        config = InferenceConfig(**given)
    except ConfigError as error:
        arguments.fail(str(error))
    from ptycho_torch.files.npz import DataError
    from ptycho_torch.workflows.inference import reconstruct

    try:
        with _quiet_lightning():
            made = reconstruct(config)
    except (ConfigError, DataError) as error:
        arguments.fail(str(error))
    print(made.describe())
    return _INCOMPLETE if made.failures else 0


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's hints about training, which would clutter the printed metrics."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
