"""Command line of the reconstruction from a checkpoint. Free of heavy imports."""

from collections.abc import Sequence

from ptycho_torch.checks import ConfigError
from ptycho_torch.cli import Arguments
from ptycho_torch.inference_config import InferenceConfig
from ptycho_torch.quiet import quiet_libraries

_INCOMPLETE = 1
"""Exit code if an artifact failed."""


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
        with quiet_libraries():
            made = reconstruct(config)
    except (ConfigError, DataError) as error:
        arguments.fail(str(error))
    print(made.describe())
    return _INCOMPLETE if made.failures else 0
