"""A training or a sync started from a notebook, a shell or a project with unusual settings."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.spools import DONE, make_spool
from tests.client.test_worker_process import LOG_ONE
from tests.faults.harness import epochs
from tests.paths import REPOSITORY
from tests.samples import make_run

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline.backend_inline_that_is_not_installed"}
SHELL = {"PYTHONWARNINGS": "error", "PYTHONINSPECT": "1", "PYTHONOPTIMIZE": "2", "PYTHONSTARTUP": "/none"}
SHADOWED = ("queue", "typing", "statistics", "json", "argparse", "logging")
LATE = "import json, logging, queue, statistics, typing, argparse, threading, tempfile, subprocess\n"
"""Imports that the training does before the project's folder enters its path."""


def run_python(*words, cwd, **environment):
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def project_of_a_user(folder):
    """Copy the package into a project whose modules shadow those of the standard library."""
    folder.mkdir()
    shutil.copytree(REPOSITORY / "recon_worker", folder / "recon_worker")
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} of the user')\n")
    return folder


@pytest.mark.parametrize("environment", [NOTEBOOK, SHELL], ids=["notebook", "shell"])
def test_variables_set_by_a_notebook_or_a_shell_do_not_stop_the_worker(tracking, tmp_path, environment):
    target = make_run(tracking)
    ignore = "import warnings; warnings.simplefilter('ignore')\n"  # only the worker's warnings matter
    code = ignore + LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    code += "print(worker.stats.restarts)"

    done = run_python("-c", code, cwd=tmp_path, **environment)

    assert (done.returncode, done.stdout) == (0, "1\n0\n"), done.stderr
    assert epochs(tracking) == {1}


@pytest.mark.parametrize("environment", [NOTEBOOK | SHELL, {}], ids=["with variables", "alone"])
def test_a_module_that_shadows_the_standard_library_does_not_stop_the_worker(tracking, tmp_path, environment):
    target, project = make_run(tracking), project_of_a_user(tmp_path / "project")
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    ignore = "import warnings; warnings.simplefilter('ignore')\n"  # only the worker's warnings matter
    code = f"{ignore}{LATE}import sys; sys.path.insert(0, {str(project)!r}); import recon_worker\n{code}"
    code += "print(worker.stats.restarts, recon_worker.__path__[0])"

    done = run_python("-c", code, cwd=tmp_path, **environment)

    assert done.stdout == f"1\n0 {project / 'recon_worker'}\n", done.stderr
    assert epochs(tracking) == {1}


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_working_directory_that_was_removed_does_not_stop_the_worker(tracking, tmp_path, when):
    """Before its start, or before it connects to MLflow."""
    target, remove = make_run(tracking), "import os; os.rmdir(os.getcwd())\n"
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    code = code.replace('Path("spool")', f"Path({str(tmp_path / 'spool')!r})")
    if when == "before":
        code = remove + code
    else:
        wait = "import time\n    while not worker.is_ready: time.sleep(0.01)\n"
        code = code.replace("log_epoch(worker", f"{wait}    {remove}    log_epoch(worker")
    (tmp_path / "gone").mkdir()

    done = run_python("-c", code, cwd=tmp_path / "gone")

    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert not (tmp_path / "gone").exists()
    assert epochs(tracking) == {1}


@pytest.mark.parametrize("environment", [NOTEBOOK, SHELL], ids=["notebook", "shell"])
def test_a_sync_from_a_notebook_or_a_shell_renders_every_snapshot(tracking, tmp_path, environment):
    outbox = make_spool(tmp_path / "spool", make_run(tracking), raw=(1, 2), rendered=())
    environment = {**environment, "PYTHONINSPECT": ""}  # it would open a prompt at the end

    done = run_python("-m", "recon_worker", "sync", outbox.folder, cwd=tmp_path, **environment)

    assert done.returncode == DONE, done.stderr
    assert epochs(tracking) == {1, 2}


def test_a_sync_in_a_project_that_shadows_the_standard_library_renders_every_snapshot(tracking, tmp_path):
    """With the variables of a notebook and a shell, too."""
    outbox = make_spool(tmp_path / "spool", make_run(tracking), raw=(1,), rendered=())
    environment = NOTEBOOK | SHELL | {"PYTHONINSPECT": ""}  # it would open a prompt at the end
    project = project_of_a_user(tmp_path / "project")

    done = run_python("-m", "recon_worker", "sync", outbox.folder, cwd=project, **environment)

    assert done.returncode == DONE, done.stderr
    assert epochs(tracking) == {1}


def test_render_works_where_the_matplotlib_backend_of_a_notebook_is_not_installed(tracking, tmp_path):
    outbox = make_spool(tmp_path / "spool", make_run(tracking), raw=(1,), rendered=())

    done = run_python(
        "-m", "recon_worker", "render", outbox.folder, "--out", tmp_path / "out", cwd=tmp_path, **NOTEBOOK
    )

    assert done.returncode == DONE, done.stderr
    assert list(Path(tmp_path, "out").rglob("epoch_01/summary.png"))


READY = """
import time
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
with ReconWorker(WorkerSettings(spool_dir="spool")) as worker:
    while not (worker.is_ready or worker.stats.restarts):
        time.sleep(0.02)
    print(worker.stats.restarts)
"""


def test_variables_that_the_training_was_told_to_ignore_do_not_stop_the_worker(tmp_path):
    """As with PYTHONHOME, which software packages of a cluster set for a Python of their own."""
    done = run_python("-E", "-c", READY, cwd=tmp_path, PYTHONHOME="/none", PYTHONUTF8="none")

    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_a_worker_whose_home_directory_cannot_be_written_leaves_no_temporary_folder(tracking, tmp_path):
    """Matplotlib makes one for its caches."""
    (tmp_path / "tmp").mkdir()
    nowhere = {"HOME": "/proc/none", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    target = make_run(tracking)
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)

    done = run_python("-c", code, cwd=tmp_path, TMPDIR=str(tmp_path / "tmp"), **nowhere)

    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "Matplotlib created a temporary cache directory" in done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


PLUGIN = """
import os
os.environ.setdefault("MPLCONFIGDIR", os.environ["RECON_LOG_TEST_FOLDER"])
class Store: pass
"""


def test_a_folder_that_a_plugin_of_mlflow_names_for_matplotlib_is_not_removed(tracking, tmp_path):
    target, folder, about = make_run(tracking), tmp_path / "of the user", tmp_path / "plugin/plug-1.dist-info"
    folder.mkdir()
    (folder / "matplotlibrc").touch()
    about.mkdir(parents=True)
    (about.parent / "plug.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[mlflow.tracking_store]\nplug = plug:Store\n")
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    code = f"import sys; sys.path.append({str(about.parent)!r})\n{code}"

    done = run_python("-c", code, cwd=tmp_path, RECON_LOG_TEST_FOLDER=str(folder))

    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert (folder / "matplotlibrc").exists()
