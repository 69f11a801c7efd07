"""Retries of MLflow's own client: few in the worker, unless the user sets their number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.system.child_environment import child_environment
from recon_worker.system.mlflow_environment import for_training
from tests.faults.harness import wait_until
from tests.paths import REPOSITORY

pytestmark = pytest.mark.timeout(120)
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
REDIRECTS = "MLFLOW_ALLOW_HTTP_REDIRECTS"
NAMES = (RETRIES, TIMEOUT, REDIRECTS, "RECON_LOG_MLFLOW_DEFAULTS")


@pytest.fixture(autouse=True)
def untouched_environment():
    before = {name: os.environ.pop(name, None) for name in NAMES}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        os.environ.update({} if value is None else {name: value})


def worker_environment(tmp_path):
    """The environment of a real worker that this process starts."""
    worker = ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool"))
    try:
        worker.launch()
        place = Path(f"/proc/{worker.pid}/environ")
        wait_until(place.read_bytes)  # empty for a moment
        entries = place.read_bytes().decode().split("\0")
    finally:
        worker.close(0)
    return dict(entry.split("=", 1) for entry in entries if entry)


@pytest.mark.parametrize("before", [{}, {RETRIES: "5"}, {RETRIES: "3", TIMEOUT: "7"}, {RETRIES: "0"}])
def test_the_worker_tries_once_more_unless_the_user_says_how_often(tmp_path, before):
    os.environ.update(before)
    os.environ.update(for_training(os.environ))
    got = worker_environment(tmp_path)

    assert os.environ[RETRIES] == before.get(RETRIES, "3")
    assert (got[RETRIES], got[TIMEOUT]) == (before.get(RETRIES, "1"), before.get(TIMEOUT, "20"))
    assert got["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_what_the_user_sets_in_a_program_after_the_import_holds(tmp_path):
    os.environ.update(for_training(os.environ))
    os.environ[RETRIES] = "6"

    assert worker_environment(tmp_path)[RETRIES] == "6"


def test_a_process_that_a_training_starts_knows_that_the_user_set_nothing(tmp_path):
    """Lightning's other processes, and a training in a separate process, inherit the environment."""
    os.environ.update(for_training(os.environ))
    os.environ.update(for_training(os.environ))

    assert worker_environment(tmp_path)[RETRIES] == "1"


@pytest.mark.slow
def test_a_training_sets_these_when_it_is_imported():
    code = "import os, ptycho_torch.workflows.components\n"
    code += f"print(*(os.environ[name] for name in {NAMES}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env={**os.environ, TIMEOUT: "7"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert done.stdout.split() == ["3", "7", "false", f"{REDIRECTS},{RETRIES}"]


@pytest.mark.parametrize(("before", "after"), [({}, "false"), ({REDIRECTS: "true"}, "true")])
def test_redirected_uploads_are_refused_unless_the_user_allows_them(before, after):
    assert child_environment(for_training(before), [])[REDIRECTS] == after


def test_the_worker_gets_what_the_user_says_that_it_needs_and_nothing_else():
    users = {"RECON_LOG_PASS_ENV": "MY_PLUGIN, OTHER", "MY_PLUGIN": "on", "MY_SECRET": "canary"}
    got = child_environment(users, [])

    assert (got["MY_PLUGIN"], "OTHER" in got, "MY_SECRET" in got) == ("on", False, False)
