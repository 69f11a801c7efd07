"""Run scripts and programs of this repository in the test process, where their imports are loaded already."""

import io
import runpy
import subprocess
from contextlib import redirect_stderr, redirect_stdout

from tests.paths import REPOSITORY


def call(main, *arguments):
    """Call a `main(argv)`; returns a `CompletedProcess`."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def simulate(*arguments):
    """Run `scripts/simulate.py`."""
    return call(runpy.run_path(str(REPOSITORY / "scripts" / "simulate.py"))["main"], *arguments)
