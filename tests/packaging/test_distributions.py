"""Two distributions from one repository: their metadata agree with each other and with the folders."""

import subprocess
import sys
import tomllib

import pytest

from tests.paths import REPOSITORY

PACKAGE = REPOSITORY / "recon_worker"
USER = """
from recon_worker import ReconWorker, WorkerSettings, read_png
from ptycho_torch.config import TrainingConfig

reveal_type(ReconWorker)
reveal_type(TrainingConfig().nepochs)
"""


def _pyproject(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


def test_both_distributions_have_one_version_and_the_root_needs_exactly_it():
    version = _pyproject(PACKAGE)["project"]["version"]
    root = _pyproject(REPOSITORY)["project"]

    assert root["version"] == version
    assert f"recon-worker[lightning]=={version}" in root["dependencies"]
    assert f"version: {version}\n" in (REPOSITORY / "CITATION.cff").read_text("utf-8")


def test_core_dependencies_hold_no_torch():
    names = {item.partition(">")[0] for item in _pyproject(PACKAGE)["project"]["dependencies"]}

    assert not names & {"torch", "lightning", "pytorch-lightning"}


def test_the_package_list_holds_every_subpackage():
    folders = {file.parent for file in PACKAGE.rglob("__init__.py") if "build" not in file.parts}
    names = sorted(".".join(folder.relative_to(REPOSITORY).parts) for folder in folders)

    assert _pyproject(PACKAGE)["tool"]["setuptools"]["packages"] == names


def test_both_distributions_carry_the_same_licence():
    assert (PACKAGE / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()


@pytest.mark.parametrize("package", ["recon_worker", "ptycho_torch"])
def test_an_editable_install_is_imported_from_any_folder(tmp_path, package):
    command = [sys.executable, "-c", f"import {package}; print({package}.__file__)"]

    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    assert done.stdout.strip() == str(REPOSITORY / package / "__init__.py")


@pytest.mark.slow
def test_mypy_reads_the_types_of_an_editable_install(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stdout
    assert 'Revealed type is "int"' in done.stdout
    assert "recon_worker.client.recon_worker.ReconWorker" in done.stdout
