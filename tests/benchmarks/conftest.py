"""Runs benchmarks through their command line, in a short form."""

import json
import subprocess
import sys

import pytest

from tests.paths import REPOSITORY

BENCHMARKS = REPOSITORY / "scripts" / "benchmarks"
_TIMEOUT_S = 550
"""Far above the half minute of a quiet machine."""


@pytest.fixture
def benchmark(tmp_path):
    """Run a benchmark; returns (stdout, the JSON that it wrote)."""

    def run(script, *arguments):
        output = tmp_path / "report.json"
        command = [sys.executable, BENCHMARKS / script, *arguments, "--output", output]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=_TIMEOUT_S)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, json.loads(output.read_text())

    return run


@pytest.fixture
def on_path(monkeypatch):
    """Make the modules of the benchmarks importable, as when one is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
