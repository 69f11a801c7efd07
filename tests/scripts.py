"""Scripts of this repository and programs of its packages, run in the tests' process: what they import is there."""

import io
import runpy
import subprocess
from contextlib import redirect_stderr, redirect_stdout

from tests.paths import REPOSITORY


def call(main, *arguments):
    """Call a `main(argv)`; returns what a finished process would be."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def simulate(*arguments):
    """`scripts/simulate.py`."""
    return call(runpy.run_path(str(REPOSITORY / "scripts" / "simulate.py"))["main"], *arguments)
