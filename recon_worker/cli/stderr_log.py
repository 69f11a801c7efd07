"""What the program `recon-worker` says on stderr."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Warnings and errors of this program go to stderr; urllib3's do not: the uploader says that it tries again.

    Nor do Python's own, about the code of libraries: with PYTHONWARNINGS=error one would end the program.
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
