"""The `recon-worker` wheel serves a project with its own `ptycho_torch` package."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

TRAINING = """
import sys
from pathlib import Path
from lightning.pytorch import Trainer
import ptycho_torch
import recon_worker
from ptycho_torch.network import ForeignDataset, ForeignModule, loader
from recon_worker import WorkerSettings
from recon_worker.lightning import PtychoReconLoggingCallback, QueuedMLFlowLogger

if __name__ == "__main__":
    uri, experiment, artifacts, spool = sys.argv[1:]
    logger = QueuedMLFlowLogger(
        experiment_name=experiment, tracking_uri=uri, artifact_location=Path(artifacts).as_uri()
    )
    settings = WorkerSettings(spool_dir=Path(spool))
    callback = PtychoReconLoggingCallback(
        every_n_epochs=1, num_patches=1, log_stitch=True, worker=settings, strict=True
    )
    trainer = Trainer(
        max_epochs=1, logger=logger, callbacks=[callback], accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    data = loader(ForeignDataset(12))
    trainer.fit(ForeignModule(), data, data)
    print(recon_worker.__file__, ptycho_torch.__file__, sep="\\n")
    print(*(name for name in sys.modules if name.startswith("ptycho_torch")))
"""


@pytest.fixture
def wheel(tmp_path):
    """The wheel, built from a copy via the sdist, so that no leftovers of the working tree get in."""
    unwanted = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", ".*_cache")
    shutil.copytree(REPOSITORY / "recon_worker", tmp_path / "source", ignore=unwanted)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), "source"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    (file,) = (tmp_path / "dist").glob("*.whl")
    return file


@pytest.fixture
def environment(tmp_path, wheel):
    """A virtual environment with the wheel; its dependencies come from the environment of the tests.

    The .pth files of that environment, which hold the editable installs, have no effect here.
    """
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=200)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def _foreign_package(folder: Path) -> Path:
    """A regular package `ptycho_torch` of another project, with its network."""
    package = folder / "ptycho_torch"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(REPOSITORY / "tests" / "lightning" / "foreign.py", package / "network.py")
    (folder / "train.py").write_text(TRAINING)
    return package


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_trains_beside_a_foreign_ptycho_torch(tmp_path, wheel, environment, tracking, nothing_left_behind):
    project = tmp_path / "project"
    foreign = _foreign_package(project)
    places = map(str, (tracking.artifacts, project / "spool"))
    command = [environment / "bin" / "python", project / "train.py", tracking.uri, tracking.experiment, *places]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    done = subprocess.run(command, cwd=tmp_path, env=plain, check=True, timeout=200, stdout=subprocess.PIPE, text=True)
    version = subprocess.run([environment / "bin" / "recon-worker", "--version"], capture_output=True, text=True)

    ours, theirs, modules = done.stdout.splitlines()[-3:]
    assert Path(ours).is_relative_to(environment)
    assert Path(theirs).parent == foreign
    assert set(modules.split()) == {"ptycho_torch", "ptycho_torch.network"}
    pictures = {"epoch_01/patch_00/amp_pred.png", "epoch_01/stitched/phase_pred.png"}
    assert pictures | {"recon_log/events.csv"} <= tracking.files()
    assert {"recon_worker/py.typed", "recon_worker/pictures/gallery/html/page.html"} <= set(_names(wheel))
    assert not [name for name in _names(wheel) if name.startswith(("build/", "recon_worker/build", "ptycho_torch"))]
    assert version.stdout == "recon-worker 0.2.0\n"


def _names(wheel):
    return zipfile.ZipFile(wheel).namelist()
