"""Exit codes of `recon-worker`, its log messages on stderr, and the files that it writes for the user."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from recon_worker.spool.folder import temporary_path


class ExitCode(IntEnum):
    """Exit codes of `recon-worker`, which `--help` explains. With several runs, the highest applies."""

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


def write_output(out: Path, data: bytes) -> None:
    """Write a file atomically; creates its folder. Unlike the spool's files, other users may read it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    half = temporary_path(out)
    try:
        half.write_bytes(data)
        half.replace(out)
    finally:
        half.unlink(missing_ok=True)


def say(text: str) -> None:
    """Print to stdout. A closed pipe, as after `| head`, is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it exits
