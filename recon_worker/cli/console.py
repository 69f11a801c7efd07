"""Exit codes of `recon-worker`, and its log messages on stderr."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `recon-worker`; `--help` explains them. With several runs the highest applies."""

    DONE = 0
    LEFT = 1
    ERROR = 2
    BUSY = 3


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Print warnings and errors of this package to stderr.

    Omits those of urllib3, because the uploader reports retries itself, and Python warnings about library code, one of
    which would end the program with PYTHONWARNINGS=error.
    """
    handler, package = logging.StreamHandler(), logging.getLogger("recon_worker")
    handler.setFormatter(logging.Formatter("recon-worker: %(message)s"))
    package.addHandler(handler)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        package.removeHandler(handler)
